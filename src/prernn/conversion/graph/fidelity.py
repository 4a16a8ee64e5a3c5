"""Whether a traced graph computes what its CNN does, tried on a small picture."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Target
from torch.utils._pytree import tree_leaves

from prernn.conversion.graph.shapes import input_type
from prernn.conversion.modes import evaluating
from prernn.layers.computed_weights import copy_of

SMALL = (32, 64)
"""Pixels that are tried before the size that the CNN was made for."""

CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Of the largest output: the steps are the same, and so are their results but for a kernel that is chosen otherwise."""


@torch.no_grad()
def check_graph(module: fx.GraphModule, cnn: nn.Module, frame_shape: tuple[int, ...], *, small: bool = True) -> None:
    """Compares the outputs of a graph with those of the CNN that it was traced from, in evaluation mode.

    Nothing is drawn from torch's generator, and a CNN without values (on the meta device) passes. Pictures smaller than
    ``frame_shape`` are tried first, if ``small``.

    Raises:
        NotImplementedError: they differ; names the first layer that does.
    """
    parameter = next(iter(cnn.parameters()), torch.empty(0))
    if parameter.is_meta:
        return
    if any(part.training for part in cnn.modules()):
        cnn = copy_of(cnn).eval()  # a batch normalization that is in training would count the picture
    with evaluating(module):
        for picture in _pictures(frame_shape, SMALL if small else (), parameter.device, input_type(module)):
            try:
                expected = cnn(picture)
            except Exception:  # too small
                continue
            # a CNN that draws numbers in evaluation mode too can't be compared
            if not _alike(module(picture), expected) and _alike(cnn(picture), expected):
                raise NotImplementedError(
                    f"the graph of {type(cnn).__name__} computes something else than the module"
                    f"{_where(module, cnn, picture)}: expected a forward that torch.fx can follow, without out=, "
                    "in-place work on parts of values, or attributes that it sets"
                )
            return


def _pictures(
    frame_shape: tuple[int, ...], small: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    sizes = [(*frame_shape[:-2], size, size) for size in small if len(frame_shape) > 2 and size < min(frame_shape[-2:])]
    for shape in (*sizes, frame_shape):
        numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).mul(0.7).sin()
        yield numbers.view(1, *shape).to(device, dtype)  # of words the first, 0


def _alike(one: Any, other: Any) -> bool:
    """Whether as many tensors are in both, of the same shapes and nearly the same values."""
    ones, others = _tensors(one), _tensors(other)
    alike = (a.shape == b.shape and _close(a, b) for a, b in zip(ones, others, strict=True))
    return len(ones) == len(others) and all(alike)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _close(one: Tensor, other: Tensor) -> bool:
    part = CLOSE.get(other.dtype, 1e-2)
    size = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=part, atol=part * size, equal_nan=True)


def _where(module: fx.GraphModule, cnn: nn.Module, picture: Tensor) -> str:
    """The first layer, in the graph's order, whose output is another in the graph."""
    wanted: dict[str, list[Any]] = {}
    handles = [
        layer.register_forward_hook(lambda layer, given, out, name=name: wanted.setdefault(name, []).append(_kept(out)))
        for name, layer in cnn.named_modules()
    ]
    try:
        cnn(picture)
    finally:
        for handle in handles:
            handle.remove()
    watched = _Watched(module)
    watched.run(picture)
    for name, out in watched.outputs:
        if wanted.get(name) and not _alike(out, wanted[name].pop(0)):
            return f", from layer {name!r} on"
    return ", behind its last layer"


def _kept(out: Any) -> list[Tensor]:
    """Copies, as a later step may work in place."""
    return [value.clone() for value in _tensors(out)]


class _Watched(fx.Interpreter):
    """Runs a graph and notes what its layers put out, with their names."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.outputs: list[tuple[str, list[Tensor]]] = []

    def call_module(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As fx.Interpreter's."""
        out = super().call_module(target, args, kwargs)
        self.outputs.append((str(target), _kept(out)))
        return out
