"""The applications: what a network learns from which recordings or texts, one folder each."""

from prernn.conversion.recipe import Recipe
from prernn.layers.names import lasting, look_up
from prernn.tasks.action.task import Action
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.language.task import Language
from prernn.tasks.phonemes.task import Phonemes
from prernn.tasks.segments.task import Segments
from prernn.tasks.speech.task import Speech
from prernn.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Action, Gesture, Face, Segments, Language, Phonemes, Speech)
}
"""The applications by name."""

DEFAULT_TASK = Action
"""The default task."""


def followed(recipe: Recipe, name: str | None = None) -> Task:
    """Like `restore`, for a stream: the classes of each moment if the network names no task."""
    return restore(recipe, name or (recipe.task.name if recipe.task else DEFAULT_TASK.name))


def restore(recipe: Recipe, name: str | None = None) -> Task:
    """The task of a checkpoint's recipe, with its labels and without data.

    Args:
        recipe: the recipe of a trained network.
        name: name of the task, if it differs from the recipe's: a key of `TASKS`, or your own class
            (`prernn.layers.names.find`).

    Raises:
        ValueError: the recipe names no task, or an unknown one.
    """
    own = recipe.task.name if recipe.task is not None else None
    wanted = own if name is None else lasting(name)
    if wanted is None:
        raise ValueError(f"expected a task among {', '.join(TASKS)}, got a network that names none")
    task: Task = look_up(wanted, TASKS, "task", "watcher")(
        **(recipe.task.options if recipe.task is not None and wanted == own else {})
    )
    task.labels, task.transform = recipe.labels, recipe.transform
    return task
