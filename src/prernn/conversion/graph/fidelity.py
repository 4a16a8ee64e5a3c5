"""Checks, on a small picture, that a traced graph computes the same as its CNN."""

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
"""Sizes in pixels to try before the size that the CNN was made for."""

CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Tolerance relative to the largest output: both run the same operations, but torch may choose different kernels."""


@torch.no_grad()
def check_graph(module: fx.GraphModule, cnn: nn.Module, frame_shape: tuple[int, ...], *, small: bool = True) -> None:
    """Compares the outputs of a graph with those of the CNN that it was traced from, in evaluation mode.

    torch's random generator is not used, and a CNN on the meta device always passes. With ``small``, pictures smaller
    than ``frame_shape`` are tried first.

    Raises:
        NotImplementedError: the outputs differ; the message names the first layer that does.
    """
    parameter = next(iter(cnn.parameters()), torch.empty(0))
    if parameter.is_meta:
        return
    if any(part.training for part in cnn.modules()):
        cnn = copy_of(cnn).eval()  # batch normalization in training mode would include the picture in its statistics
    with evaluating(module):
        for picture in _pictures(frame_shape, SMALL if small else (), parameter.device, input_type(module)):
            try:
                expected = cnn(picture)
            except Exception:  # too small
                continue
            # a CNN that is random even in evaluation mode can't be compared
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
        yield numbers.view(1, *shape).to(device, dtype)  # as indices of words these are all 0


def _alike(one: Any, other: Any) -> bool:
    """Whether both contain equally many tensors, with the same shapes and nearly the same values."""
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
    """The first layer, in the graph's order, whose output differs, as the end of a message."""
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
    """Copies, because a later step may modify the values in place."""
    return [value.clone() for value in _tensors(out)]


class _Watched(fx.Interpreter):
    """Runs a graph and records the outputs of its layers with their names."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.outputs: list[tuple[str, list[Tensor]]] = []

    def call_module(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Like fx.Interpreter's, but records the output."""
        out = super().call_module(target, args, kwargs)
        self.outputs.append((str(target), _kept(out)))
        return out
