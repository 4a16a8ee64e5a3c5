"""How a network was made, as plain typed data, which is part of every network and every checkpoint."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prernn.layers.cells import make_cell
from prernn.layers.names import lasting
from prernn.layers.structures.parse import hidden_structure, input_structure

VERSION = 2
"""Version of the format below: 2 added ``rate`` and ``reset``. Recipes without a version are older."""


@dataclass(frozen=True)
class Step:
    """One conversion of a network.

    Attributes:
        name: the kind of conversion: "convert", "traditional", "framewise", "rcn", "normalized", "calibrated".
        arguments: its arguments as plain data.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"step": name, **arguments}``."""
        return {"step": self.name, **self.arguments}


@dataclass(frozen=True)
class KeptTask:
    """What a checkpoint stores about the task that a network was trained for.

    Attributes:
        name: name of the task, a key of `prernn.tasks.TASKS`, or of its class.
        options: the options that evaluation and streaming need.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"name": name, **options}``."""
        return {"name": self.name, **self.options}


@dataclass
class Recipe:
    """How a network was made, the names of its outputs, and how its input is computed.

    Example:
        >>> recipe = Recipe(backbone="resnet18", labels=["open", "close"])
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True

    Attributes:
        steps: the conversions of the CNN, in order.
        backbone: the CNN's name for `prernn.backbone`; None for a user's own CNN.
        backbone_options: further arguments of the backbone.
        channels: number of input channels, if it differs from the backbone's own.
        inflate: arguments of `prernn.inflate`, if the CNN was first made 3-D.
        labels: names of the K outputs, if they are classes.
        transform: how frames become input, `prernn.media.transforms.TransformSpec` as plain data.
        task: the task that the network was trained for.
        rate: frames per second that the network was trained at, which streams keep; None if unknown.
        reset: when a stream's state is reset, see `prernn.streaming.resets`; None for never.
        version: version of this format.

    Raises:
        ValueError: a rate that is not a positive number, a reset that is not a string.
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
                raise ValueError(f"expected a recipe's rate above 0 frames per second, or None, got {self.rate!r}")
        if self.reset is not None and not isinstance(self.reset, str):
            raise ValueError(f"expected a recipe's reset as text such as 'cut', or None, got {self.reset!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; fields that are None are left out."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        values["steps"] = [step.to_json() for step in self.steps]
        values["task"] = None if self.task is None else self.task.to_json()
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Any) -> "Recipe":
        """The recipe from the output of `to_json`, of this or an earlier version.

        Raises:
            ValueError: data that is no recipe, is of a later version, or has an unknown key or malformed step.
        """
        if not isinstance(values, dict) or not isinstance(values.get("steps", []), list):
            raise ValueError(f"expected a recipe, a dict with a list of steps, got {values!r:.200}")
        version = values.get("version", 0)
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(f"expected a recipe of version {VERSION} or earlier, got version {version}: update prernn")
        known = [part.name for part in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(
                f"expected a recipe with keys among {', '.join(known)}, got {', '.join(map(str, unknown))}"
            )
        steps = tuple(Step(name, rest) for name, rest in (_named(step, "step") for step in values.get("steps", [])))
        task = None if not values.get("task") else KeptTask(*_named(values["task"], "name"))
        return cls(**{**values, "steps": steps, "task": task, "version": VERSION})

    def __getitem__(self, name: str) -> Any:
        """``recipe["labels"]``, for code from when recipes were dicts; None for fields that are not set."""
        if name not in (part.name for part in fields(self)):
            raise KeyError(name)
        return self.to_json().get(name)

    def with_step(self, name: str, **arguments: Any) -> "Recipe":
        """This recipe with one more step, whose arguments are converted to plain data."""
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
    """The value of ``key``, and the other values."""
    if not isinstance(values, dict) or not isinstance(values.get(key), str):
        raise ValueError(f"expected a recipe's {key} as a dict with {key!r}, got {values!r:.200}")
    return values[key], {name: value for name, value in values.items() if name != key}
