"""The applications: what a network learns from which recordings, a folder each."""

from prernn.conversion.recipe import Recipe
from prernn.tasks.action.task import Action
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Action, Gesture, Face)}
"""The applications by name."""

DEFAULT_TASK = Action
"""What is learnt where nothing is said."""


def restore(recipe: Recipe, name: str | None = None) -> Task:
    """The task of a checkpoint's recipe, with its labels and without data.

    Args:
        recipe: of a trained network.
        name: of the task, where it is another one than the recipe says.

    Raises:
        ValueError: a recipe that names no task, or an unknown one.
    """
    own = recipe.task.name if recipe.task is not None else None
    wanted = own if name is None else name
    if wanted not in TASKS:
        raise ValueError(f"expected a task among {', '.join(TASKS)}, got {wanted!r}")
    task = TASKS[wanted](**(recipe.task.options if recipe.task is not None and wanted == own else {}))
    task.labels, task.transform = recipe.labels, recipe.transform
    return task
