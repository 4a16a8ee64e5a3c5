"""How a network was made, as plain typed data: what every network holds and every checkpoint carries."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prernn.layers.cells import make_cell
from prernn.layers.names import lasting
from prernn.layers.structures.parse import hidden_structure, input_structure

VERSION = 2
"""Of the form below: since 2 with ``rate`` and ``reset``. Recipes without a version are of the time before it."""


@dataclass(frozen=True)
class Step:
    """One conversion of a network.

    Attributes:
        name: of what was done: "convert", "traditional", "framewise", "rcn", "normalized", "calibrated".
        arguments: that it was done with, as plain data.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"step": name, **arguments}``."""
        return {"step": self.name, **self.arguments}


@dataclass(frozen=True)
class KeptTask:
    """What a checkpoint keeps of the task that a network has learnt.

    Attributes:
        name: of the task, a key of `prernn.tasks.TASKS`, or of its class.
        options: those that evaluation and streaming need again.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"name": name, **options}``."""
        return {"name": self.name, **self.options}


@dataclass
class Recipe:
    """How a network was made, what its outputs are called, and what its input is made of.

    Example:
        >>> recipe = Recipe(backbone="resnet18", labels=["open", "close"])
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True

    Attributes:
        steps: what was done to the CNN, in order.
        backbone: the CNN's name for `prernn.backbone`; None for a CNN of one's own.
        backbone_options: further arguments of the backbone.
        channels: of its input, where they are not those it was made for.
        inflate: arguments of `prernn.inflate`, where the CNN was made 3-D first.
        labels: names of the K outputs, where they are classes.
        transform: what makes input of frames, `prernn.media.transforms.TransformSpec` as plain data.
        task: what the network has learnt.
        rate: frames a second that the network was trained at, which a stream keeps to; None where it is not known.
        reset: when a stream of it starts anew, see `prernn.streaming.resets`; None for never.
        version: of this form.

    Raises:
        ValueError: a rate that is no number above 0, a reset that is no text.
    """

    steps: tuple[Step, ...] = ()
    backbone: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    channels: int | None = None
    inflate: dict[str, Any] | None = None
    labels: list[str] | None = None
    transform: dict[str, Any] | None = None
    task: KeptTask | None = None
    rate: float | None = None
    reset: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.rate is not None:
            number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
            if not number or not 0 < self.rate < math.inf:
                raise ValueError(f"expected a recipe's rate above 0 frames a second, or None, got {self.rate!r}")
        if self.reset is not None and not isinstance(self.reset, str):
            raise ValueError(f"expected a recipe's reset as text such as 'cut', or None, got {self.reset!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; what is not set is left out."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        values["steps"] = [step.to_json() for step in self.steps]
        values["task"] = None if self.task is None else self.task.to_json()
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Any) -> "Recipe":
        """The recipe that `to_json`, now or in an earlier version, made plain.

        Raises:
            ValueError: no recipe, one of a later version, or one with a key or step that is not known.
        """
        if not isinstance(values, dict) or not isinstance(values.get("steps", []), list):
            raise ValueError(f"expected a recipe, a dict with a list of steps, got {values!r:.200}")
        version = values.get("version", 0)
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(f"expected a recipe of version {VERSION} or earlier, got version {version}: update prernn")
        known = [part.name for part in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(
                f"expected a recipe with {', '.join(known)}, got {', '.join(map(str, unknown))} beside them"
            )
        steps = tuple(Step(name, rest) for name, rest in (_named(step, "step") for step in values.get("steps", [])))
        task = None if not values.get("task") else KeptTask(*_named(values["task"], "name"))
        return cls(**{**values, "steps": steps, "task": task, "version": VERSION})

    def __getitem__(self, name: str) -> Any:
        """``recipe["labels"]``, for callers of the time when recipes were dicts; None for what is not set."""
        if name not in (part.name for part in fields(self)):
            raise KeyError(name)
        return self.to_json().get(name)

    def with_step(self, name: str, **arguments: Any) -> "Recipe":
        """This recipe and one step more, its arguments made plain."""
        for kind in {"cell", "input"} & arguments.keys():
            arguments[kind] = lasting(arguments[kind])
        if "hidden" in arguments:
            own = getattr(make_cell(arguments["cell"]), "structure", None) if "cell" in arguments else None
            arguments["hidden"] = own or str(hidden_structure(arguments["hidden"]))
        if "inputs" in arguments:
            arguments["inputs"] = str(input_structure(arguments["inputs"]))
        image_size = arguments.pop("image_size", None)
        if image_size is not None:
            arguments["image_size"] = list(image_size)
        return replace(self, steps=(*self.steps, Step(name, arguments)))


def _named(values: Any, key: str) -> tuple[str, dict[str, Any]]:
    """The value of ``key``, and the others."""
    if not isinstance(values, dict) or not isinstance(values.get(key), str):
        raise ValueError(f"expected a recipe's {key} as a dict with {key!r}, got {values!r:.200}")
    return values[key], {name: value for name, value in values.items() if name != key}
