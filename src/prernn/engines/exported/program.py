"""A network's step or sequence as torch's exported program, from which every format is made.

Height and width stay free where the network allows it, which torch.export finds out. If the state is a feature map, its
size follows that of the frames, so they are fixed.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from prernn import ops
from prernn.conversion.graph.tracing import first_line
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork, frame_shape_of
from prernn.engines.exported.description import Description, describe, in_file
from prernn.engines.exported.padding import simplify_padding
from prernn.layers.computed_weights import copy_of

STEPS = 3
"""Length of the traced sequence; no other size in the graph should be mistaken for it."""


@dataclass(frozen=True)
class Traced:
    """A network's program with its description.

    Attributes:
        program: from ``frame (B, C, H, W)`` or ``video (B, T, C, H, W)`` and the state to output and next state.
        description: of the file to be written.
        example: arguments with which it was traced.
    """

    program: ExportedProgram
    description: Description
    example: tuple[Any, ...]

    @property
    def input_names(self) -> list[str]:
        """The names of the frame or video, then of the state's leaves."""
        first = "frame" if self.description.kind == "step" else "video"
        return [first, *(leaf.name for leaf in self.description.states)]

    @property
    def output_names(self) -> list[str]:
        """The names of the output, then of the next state's leaves."""
        return ["output", *(f"next_{leaf.name}" for leaf in self.description.states)]


class _Exported(nn.Module):
    """``step`` or ``forward`` as a separate module, with a state of at most four dimensions."""

    def __init__(self, network: SequenceNetwork, kind: str, shapes: list[list[tuple[int, ...]]]):
        super().__init__()
        self.network, self._kind, self._shapes = network, kind, shapes

    def forward(self, frame: Tensor, state: tuple = ()) -> tuple[Tensor, tuple]:
        given = tuple(
            tuple(_opened(leaf, shape) for leaf, shape in zip(part, shapes, strict=True))
            for part, shapes in zip(state, self._shapes, strict=True)
        )
        out, following = (self.network.step if self._kind == "step" else self.network)(frame, given)
        return out, tuple(tuple(in_file(leaf) for leaf in part) for part in following)


def _opened(leaf: Tensor, shape: tuple[int, ...]) -> Tensor:
    return leaf.unflatten(2, shape[1:3]) if len(shape) == 4 else leaf


def plain_copy(net: SequenceNetwork) -> SequenceNetwork:
    """A copy as it goes into a file: float32, on the CPU, in evaluation mode."""
    copy = copy_of(net).float().cpu().eval()
    simplify_padding(copy)
    return copy


def traced(net: SequenceNetwork, kind: str, image_size: tuple[int, ...] | None = None) -> Traced:
    """The network's program.

    Args:
        net: the network, as returned by `plain_copy`.
        kind: "step" or "sequence".
        image_size: fixed ``(H, W)``; None leaves them free where the network allows.

    Raises:
        NotImplementedError: torch can't export this network.
    """
    shape = frame_shape_of(net, image_size)
    frames = torch.zeros(2, *([STEPS] if kind == "sequence" else []), *shape, dtype=net.input_type)
    state = net.init_state(2, shape[1:] if len(shape) > 2 else None)
    shapes = [[tuple(leaf.shape[1:]) for leaf in part] for part in state]
    closed: NetworkState = tuple(tuple(in_file(leaf) for leaf in part) for part in state)
    module = _Exported(net, kind, shapes)
    example = (frames, closed) if closed else (frames,)  # torch.onnx.export fails on an empty tuple
    may_be_free = image_size is None and len(shape) > 2 and not any(len(leaf) > 1 for part in shapes for leaf in part)
    program, free = _program(module, example, kind, may_be_free)
    return Traced(program, describe(net, kind, shape, _width(program), free), example)


def _width(program: ExportedProgram) -> int:
    """K, taken from the first output."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    return int(output.args[0][0].meta["val"].shape[-1])


def _program(module: nn.Module, example: tuple[Any, ...], kind: str, may_be_free: bool) -> tuple[ExportedProgram, bool]:
    """The program, and whether height and width are free in it."""
    if may_be_free:
        with contextlib.suppress(NotImplementedError):
            program = _exported(module, example, kind, free=True)
            if _are_free(program, range(example[0].ndim - 2, example[0].ndim)):
                return program, True
    return _exported(module, example, kind, free=False), False


def _exported(module: nn.Module, example: tuple[Any, ...], kind: str, free: bool) -> ExportedProgram:
    leading = 2 if kind == "sequence" else 1
    try:
        return _exported_with(module, example, [Dim("batch"), Dim("time")][:leading], free)
    except NotImplementedError:  # torch before 2.15 does not see that some networks accept any size, yet exports them
        program = _exported_with(module, example, [Dim.AUTO] * leading, free)
        if _are_free(program, range(leading)):
            return program
        raise


def _exported_with(module: nn.Module, example: tuple[Any, ...], leading: list[Any], free: bool) -> ExportedProgram:
    """The program, with the given batch and time."""
    first, frames = dict(enumerate(leading)), example[0]
    if free:
        first |= {frames.ndim - 2: Dim.AUTO, frames.ndim - 1: Dim.AUTO}
    dynamic: tuple[Any, ...] = (first,)
    if len(example) > 1:
        dynamic = (first, tuple(tuple({0: leading[0]} for _ in part) for part in example[1]))
    try:
        with torch.no_grad(), ops.using("reference"), quiet():  # no other runtime knows our kernels
            return torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # torch raises many types
        raise NotImplementedError(f"torch can't export this network: {first_line(error)}") from error


def _are_free(program: ExportedProgram, dimensions: Iterable[int]) -> bool:
    user_inputs = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == user_inputs[0])
    shape = node.meta["val"].shape
    return not any(is_concrete_int(shape[place]) for place in dimensions)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences torch's exporters, which warn that axes share the name "batch", as all of them should."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
