"""The description in an exported file: everything needed to feed it a video and to interpret its answers."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork

KEY = "prernn"
"""The key of the description, as JSON, in a file's metadata."""

FORM = 1
"""Version of the description's form; a reader refuses later ones."""

KINDS = ("step", "sequence")


@dataclass(frozen=True)
class StateLeaf:
    """One tensor of the state, in the file's order; it starts as zeros.

    Attributes:
        name: made from layer and value, such as "state_0_h".
        layer: number of the layer that the tensor belongs to, from 0.
        shape: without the batch, as in the network.
        file_shape: without the batch, as in the file: at most three dimensions, as small runtimes require.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """The contents of a file.

    Attributes:
        kind: "step" or "sequence".
        frame_shape: of one step, ``(C, H, W)`` or as in `SequenceNetwork.frame_shape`.
        free_size: whether height and width are free.
        input_type: "float32", or "int64" for numbers of words.
        states: the state's tensors.
        outputs: number of outputs K.
        recipe: the network's, as plain data: labels, transform, rate, task and how it was made.
        delay: number of steps by which an output lags behind its frame.
        precision: "float32", or "int8" if convolutions and products are computed in integers.
        version: of prernn.
        form: version of this description's form.
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
        """The description as text, with labels, transform, frame rate and reset for readers that don't know recipes."""
        found = Recipe.from_json(self.recipe)
        snippet = self.frame_shape[1] if len(self.frame_shape) == 4 else 1
        more = {name: getattr(found, name) for name in ("labels", "transform", "rate", "reset")} | {"snippet": snippet}
        return json.dumps({**dataclasses.asdict(self), **more})

    @classmethod
    def from_json(cls, text: str | None, place: str) -> "Description":
        """Reads the description in a file's metadata.

        Raises:
            ValueError: there is none, or it has a later form; the message names ``place``.
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
    """A leaf's shape without the batch ``(D, H, W)`` as in a file: for 3-D maps time and height are merged."""
    return shape if len(shape) < 4 else (shape[0], shape[1] * shape[2], shape[3])


def in_file(leaf: Tensor) -> Tensor:
    """A leaf of the state, with its batch, in its `file_shape`."""
    return leaf.flatten(2, 3) if leaf.ndim == 5 else leaf


def describe(
    net: SequenceNetwork, kind: str, frame_shape: tuple[int, ...], outputs: int, free_size: bool
) -> Description:
    """The description of a network's file, for frames of a given shape."""
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
