"""The shape of every value in a graph, found without computing values."""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import Target
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn.modules.batchnorm import _BatchNorm

from prernn.conversion.graph.nodes import nodes_of, submodule_of
from prernn.conversion.graph.tracing import first_line
from prernn.layers.arguments import whole
from prernn.layers.computed_weights import refresh_all

IMAGE_SIZES = ((224, 224), (299, 299), (256, 256), (112, 112), (96, 96), (64, 64), (48, 48), (32, 32), (28, 28))
"""Frame sizes that are tried in turn if the CNN's input size is unknown; C is read from the first layer."""

SNIPPET_SIZES = ((16, 112, 112), (8, 112, 112), (16, 224, 224), (8, 224, 224), (4, 224, 224), (32, 224, 224))
"""Snippet sizes, for a CNN whose first layer convolves over time."""


class UnknownFrame(NotImplementedError):
    """No usual frame fits a CNN."""


def frame_candidates(module: fx.GraphModule, image_size: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
    """Shapes ``(C, H, W)`` or ``(C, D, H, W)`` to try, from the kind and the channels of the first layer.

    With ``image_size`` only the channels remain to be found.

    Raises:
        ValueError: an invalid ``image_size``.
        UnknownFrame: there is neither a convolution nor an fc layer.
    """
    return shapes_for((submodule_of(module, node) for node in nodes_of(module.graph)), image_size)


def shapes_for(layers: Iterable[nn.Module | None], image_size: tuple[int, ...] | None) -> list[tuple[int, ...]]:
    """Like `frame_candidates`, for a CNN that has these layers in this order."""
    image_size = None if image_size is None else checked_size(image_size)
    for layer in layers:
        if isinstance(layer, nn.Embedding):
            return [(1,)]
        if isinstance(layer, (nn.Conv3d, nn.Conv2d)):
            usual = SNIPPET_SIZES if isinstance(layer, nn.Conv3d) else IMAGE_SIZES
            sizes = usual if image_size is None else [image_size]
            # 3 channels last: some CNNs rearrange pixels into channels before their first layer
            return [(channels, *size) for channels in dict.fromkeys((layer.in_channels, 3)) for size in sizes]
        if isinstance(layer, nn.Linear):
            features = layer.in_features
            if image_size is not None:
                return [(features // math.prod(image_size), *image_size)]
            shapes = [(c, *size) for c in (1, 3) for size in IMAGE_SIZES if c * size[0] * size[1] == features]
            return [*shapes, (features, 1, 1), (features,)]
    raise UnknownFrame("expected a CNN with at least one convolution or fc layer, found none")


def input_type(module: fx.GraphModule) -> torch.dtype:
    """Type of a frame's numbers: int64 if an embedding of word indices comes first, else the parameters' type."""
    for node in nodes_of(module.graph):
        layer = submodule_of(module, node)
        if isinstance(layer, nn.Embedding):
            return torch.int64
        if isinstance(layer, (nn.Conv3d, nn.Conv2d, nn.Linear)):
            break
    return next(iter(module.parameters()), torch.empty(0)).dtype


def check_type(module: fx.GraphModule, frames: Tensor) -> None:
    """Raises ValueError if whole numbers, such as a decoder's uint8, go into a network of real ones."""
    if not frames.is_floating_point() and (own := input_type(module)).is_floating_point:
        raise ValueError(
            f"expected frames of {own}, scaled to 0..1 and normalized as the CNN was trained, got {frames.dtype} "
            "(prernn.Stream takes uint8 pictures)"
        )


def checked_size(image_size: Sequence[int]) -> tuple[int, ...]:
    """``(H, W)`` or ``(D, H, W)`` as ints. ValueError if it is anything else."""
    if isinstance(image_size, str) or not isinstance(image_size, Sequence):
        raise ValueError(f"image_size: expected (H, W) or (D, H, W), got {image_size!r}")
    return tuple(whole("image_size", extent) for extent in image_size)


def propagate(module: fx.GraphModule, frame_shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Stores each value's shape in ``node.meta["shape"]``, without computing; returns the first frame shape that fits.

    Raises:
        UnknownFrame: the CNN accepts none of them.
    """
    failures = []
    parameter = next(iter(module.parameters()), torch.empty(0))
    for shape in frame_shapes:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            # a batch of 2, which is unlikely to be confused with another size in the graph
            frames = torch.empty(2, *shape, dtype=input_type(module), device=parameter.device)
            try:
                with torch.no_grad(), _quiet():
                    _Shapes(module, mode).propagate_dont_convert_inputs(frames)
            except Exception as error:
                failures.append(f"{shape}: {first_line(error)}")
                continue
            finally:
                refresh_all(module)
        for node in nodes_of(module.graph):
            value = node.meta.pop("val", None)
            node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        return shape
    raise UnknownFrame(
        f"the CNN takes none of the frame shapes tried; pass image_size. Tried {'; '.join(failures[:3])}"
    )


class _Shapes(FakeTensorProp):
    """Runs fake tensors through a graph, but skips two kinds of layers, whose shapes are known: most of the time."""

    def call_module(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Like FakeTensorProp's, except for batch normalization and fc layers."""
        assert isinstance(target, str)
        layer, value = self.fetch_attr(target), args[0] if args else None
        if isinstance(layer, _BatchNorm) and isinstance(value, Tensor) and value.shape[1] == layer.num_features:
            return value
        if type(layer) is nn.Linear and isinstance(value, Tensor) and _fits(layer, value):
            return value.new_empty(*value.shape[:-1], layer.out_features)
        return super().call_module(target, args, kwargs)


def _fits(layer: nn.Linear, value: Tensor) -> bool:
    """Whether the layer takes the value; if not, FakeTensorProp says why."""
    return value.shape[-1:] == (layer.in_features,) and value.dtype == layer.weight.dtype


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's log about frame shapes that don't fit, which are expected here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
