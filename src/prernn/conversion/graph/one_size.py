"""Tracing a forward that reads shapes: the graph is valid for frames of one size, and for any number of them."""

import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._symbolic_trace import _maybe_revert_all_patches
from torch.fx.proxy import TraceError

from prernn.conversion.graph import shapes, tracing
from prernn.conversion.graph.nodes import inputs_of

BATCHES = (2, 3)
"""A value that is the same for both numbers of frames is taken to be the same for any."""


class OneSize(nn.Module):
    """Passes on frames of the size that the rest of a graph was traced for, and rejects others."""

    def __init__(self, frame_shape: tuple[int, ...]):
        super().__init__()
        self.frame_shape = frame_shape

    def forward(self, frames: Tensor) -> Tensor:
        """Returns frames ``(N, *frame_shape)`` unchanged; ValueError for any other shape."""
        if tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(
                f"expected frames {self.frame_shape}, the only ones that this network was traced for, as the CNN's "
                f"forward asks for their size: got {tuple(frames.shape[1:])}; convert with image_size"
            )
        return frames


class Measured(tracing.Aliased):
    """A value that can be converted to Python numbers if they follow from the frames' size."""

    def __getattr__(self, name: str) -> Any:
        if name == "shape":  # fx's own proxy for an attribute has no value
            return self.tracer.create_proxy("call_function", getattr, (self, "shape"), {})
        return super().__getattr__(name)

    def __index__(self) -> int:
        return operator.index(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __len__(self) -> int:
        return int(self._tracer().value_of(self, len))

    def __iter__(self) -> Iterator[Any]:
        return iter(
            [self.tracer.create_proxy("call_function", operator.getitem, (self, n), {}) for n in range(len(self))]
        )

    def _number(self) -> Any:
        return self._tracer().value_of(self)

    def _tracer(self) -> "OneSizeTracer":
        assert isinstance(self.tracer, OneSizeTracer)
        return self.tracer


class OneSizeTracer(tracing.CNNTracer):
    """Traces the path through the forward that frames ``(N, *frame_shape)`` take."""

    def __init__(self, frame_shape: tuple[int, ...] = ()):  # torch.fx creates one without arguments when it unpickles
        super().__init__()
        self.frame_shape = frame_shape

    def proxy(self, node: fx.Node) -> Measured:
        """Like CNNTracer's, with `Measured` values."""
        return Measured(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Which way a branch goes."""
        return bool(self.value_of(obj))

    def value_of(self, obj: fx.Proxy, ask: Any = lambda value: value) -> Any:
        """The number behind a value, computed from shapes only.

        Raises:
            TraceError: it depends on the frames' contents or their number.
        """
        values = [ask(self._run(obj.node, batch)) for batch in BATCHES]
        if not isinstance(values[0], bool | int | float):
            raise TraceError(f"{obj.node} depends on the contents of the frames")
        if values[0] != values[1]:
            raise TraceError(f"{obj.node} depends on the number of frames")
        return values[0]

    def _run(self, node: fx.Node, batch: int) -> Any:
        so_far = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        so_far.graph_copy(self.graph, copies)
        so_far.output(copies[node])
        others = [None] * (len(inputs_of(so_far)) - 1)  # arguments that were fixed at their defaults
        parameter = next(self.root.parameters(), torch.empty(0))
        # tracing has replaced modules' calls by recorders
        with _maybe_revert_all_patches(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            frames = torch.empty(batch, *self.frame_shape, dtype=parameter.dtype, device=parameter.device)
            return _Quiet(fx.GraphModule(self.root, so_far)).run(frames, *others)


class _Quiet(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.extra_traceback = False


def trace_for_one_size(cnn: nn.Module, image_size: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Like `tracing.trace`, for frames of ``image_size`` or of the first usual size that the CNN accepts; it warns.

    Raises:
        NotImplementedError: the forward depends on more than the frames' size, or accepts none of the usual sizes.
    """
    reasons = []
    for shape in shapes.shapes_for(cnn.modules(), image_size):
        try:
            module = tracing.trace(cnn, OneSizeTracer(shape))
            break
        except NotImplementedError as error:
            reasons.append(error)
    else:
        raise reasons[0]
    module.add_submodule("one_size", OneSize(shape))
    (frames, *_) = inputs_of(module.graph)
    with module.graph.inserting_after(frames):
        guard = module.graph.call_module("one_size", (frames,))
    frames.replace_all_uses_with(guard, delete_user_cb=lambda user: user is not guard)
    module.recompile()
    message = f"the forward of {type(cnn).__name__} reads the size of its frames: traced only for {shape}"
    warnings.warn(f"{message}; image_size sets another size", UserWarning, stacklevel=2)
    return module
