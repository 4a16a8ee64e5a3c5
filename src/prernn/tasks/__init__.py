"""The applications: what a network learns from which videos, one file each."""

from typing import Any

from prernn.tasks.action.task import Action
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.task import Task

TASKS: dict[str, type[Task]] = {"action": Action, "gesture": Gesture, "face": Face}
"""The applications by name."""


def restore(recipe: dict[str, Any]) -> Task:
    """The task of a checkpoint's recipe, with its labels and without data.

    Raises:
        ValueError: a recipe that names no task, or an unknown one.
    """
    kept = dict(recipe.get("task") or {})
    name = kept.pop("name", None)
    if name not in TASKS:
        raise ValueError(f"expected a recipe with a task among {', '.join(TASKS)}, got {name!r}")
    task = TASKS[name](**kept)
    task.labels, task.transform = recipe.get("labels"), recipe.get("transform")
    return task
