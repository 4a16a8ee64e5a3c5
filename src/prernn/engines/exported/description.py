"""What an exported file says of itself: everything that one needs to feed it a video and to read its answers."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork

KEY = "prernn"
"""Under which the description stands in a file's metadata, as JSON."""

FORM = 1
"""Of the description; a reader refuses later ones."""

KINDS = ("step", "sequence")


@dataclass(frozen=True)
class StateLeaf:
    """One tensor of the state, in the file's order; it starts as zeros.

    Attributes:
        name: such as "state_0_h": of layer and value.
        layer: which tensors belong together, counted from 0.
        shape: without the batch, as the network has it.
        file_shape: without the batch, as the file has it: at most three dimensions, which small runtimes need.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What a file holds.

    Attributes:
        kind: "step" or "sequence".
        frame_shape: of one step, ``(C, H, W)`` or as `SequenceNetwork.frame_shape`.
        free_size: whether height and width are free.
        input_type: "float32", or "int64" for numbers of words.
        states: the state's tensors.
        outputs: number of outputs K.
        recipe: the network's, as plain data: labels, transform, rate, task and how it was made.
        delay: steps by which an output comes late.
        precision: "float32", or "int8" where convolutions and products are in integers.
        version: of prernn.
        form: of this description.
    """

    kind: str
    frame_shape: tuple[int, ...]
    free_size: bool
    input_type: str
    states: tuple[StateLeaf, ...]
    outputs: int
    recipe: dict[str, Any]
    delay: int = 0
    precision: str = "float32"
    version: str = ""
    form: int = FORM

    def to_json(self) -> str:
        """The description as text, with labels, transform, frame rate and reset for readers that know no recipe."""
        found = Recipe.from_json(self.recipe)
        snippet = self.frame_shape[1] if len(self.frame_shape) == 4 else 1
        more = {name: getattr(found, name) for name in ("labels", "transform", "rate", "reset")} | {"snippet": snippet}
        return json.dumps({**dataclasses.asdict(self), **more})

    @classmethod
    def from_json(cls, text: str | None, place: str) -> "Description":
        """The description in a file's metadata.

        Raises:
            ValueError: there is none, or one of a later form; ``place`` is named.
        """
        try:
            values = json.loads(text or "null")
            form = values["form"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{place}: expected a file that prernn export wrote, found none of its metadata") from None
        if not isinstance(form, int) or form > FORM:
            made = values.get("version", "a later version")
            raise ValueError(f"{place}: expected an export of form {FORM}, got {form} of prernn {made}: update prernn")
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        leaves = tuple(
            StateLeaf(leaf["name"], leaf["layer"], tuple(leaf["shape"]), tuple(leaf["file_shape"]))
            for leaf in values["states"]
        )
        return cls(**{**kept, "states": leaves, "frame_shape": tuple(values["frame_shape"])})


def file_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A leaf's shape without the batch ``(D, H, W)`` as it stands in a file: of 3-D maps time and height are one."""
    return shape if len(shape) < 4 else (shape[0], shape[1] * shape[2], shape[3])


def in_file(leaf: Tensor) -> Tensor:
    """A leaf of the state, with its batch, in its `file_shape`."""
    return leaf.flatten(2, 3) if leaf.ndim == 5 else leaf


def describe(
    net: SequenceNetwork, kind: str, frame_shape: tuple[int, ...], outputs: int, free_size: bool
) -> Description:
    """The description of a network's file, for frames of a shape."""
    from prernn import __version__

    size = frame_shape[1:] if len(frame_shape) > 2 else None
    state, names = net.init_state(1, size), iter(net.state_names)
    leaves = []
    for layer, part in enumerate(state):
        for leaf in part:
            shape = tuple(leaf.shape[1:])
            leaves.append(StateLeaf(next(names), layer, shape, file_shape(shape)))
    return Description(
        kind=kind,
        frame_shape=tuple(frame_shape),
        free_size=free_size,
        input_type=str(net.input_type).removeprefix("torch."),
        states=tuple(leaves),
        outputs=outputs,
        recipe=net.recipe.to_json(),
        delay=net.delay,
        version=__version__,
    )
