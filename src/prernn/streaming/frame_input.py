"""Turns a stream's frames into network input, and refuses those that don't fit."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.clip_network import frames_a_step
from prernn.conversion.sequence_network import DIMENSIONS, SequenceNetwork

if TYPE_CHECKING:  # imported when first used, as they load PyAV and torchvision
    from prernn.media.source import Address
    from prernn.media.transforms import TransformSpec

Frame = np.ndarray | Tensor

FrameTransform = Callable[[Frame], Tensor]


class FrameInput:
    """Makes network input from the frames of parallel streams: call it with one frame of each.

    uint8 pictures ``(H, W, 3)`` go through the transform; float frames, and the numbers of words, pass unchanged. It
    keeps nothing between frames.

    Args:
        net: the network, or one in an engine.
        transform: for uint8 pictures: a TransformSpec, its dict, or a function from uint8 ``(H, W, 3)`` to float
            ``(C, H, W)``. None takes ``net.recipe.transform``.
        batch_size: number of parallel streams; with several, frames have a leading dimension.
    """

    def __init__(
        self,
        net: SequenceNetwork,
        transform: "TransformSpec | Mapping[str, Any] | FrameTransform | None" = None,
        batch_size: int = 1,
    ):
        self.net, self.batch_size = net, batch_size
        self._words = len(net.frame_shape) == 1 and net.input_type == torch.int64  # the numbers of words are the input
        self._transform = _frame_transform(net.recipe.transform if transform is None else transform)

    def __call__(self, frame: Frame) -> Tensor:
        """Input ``(B, C, H, W)``, or ``(B, C, D, H, W)`` for a snippet; a single picture of a snippet has no D yet.

        Raises:
            ValueError: a dtype or shape that doesn't fit, NaN or infinite values, uint8 without a transform.
        """
        # copied, because arrays may be read-only or have negative strides (a BGR picture turned into RGB)
        value = torch.from_numpy(np.array(frame, order="C")) if isinstance(frame, np.ndarray) else frame
        if not isinstance(value, Tensor):
            raise ValueError(f"expected a frame as array or tensor, got {type(frame).__name__}")
        if self.batch_size == 1:
            value = value.unsqueeze(0)
        elif value.ndim == 0 or value.shape[0] != self.batch_size:
            raise ValueError(f"expected frames of {self.batch_size} streams, got shape {tuple(value.shape)}")
        shape = self.net.frame_shape
        if value.dtype == torch.uint8:
            value = self._transformed(value)
            shape = (shape[0], *shape[-2:])  # one frame of a snippet
        fits = value.dtype == torch.int64 if self._words else value.is_floating_point()
        if not fits or value.ndim != len(shape) + 1 or value.shape[1] != shape[0]:
            raise ValueError(f"expected a frame {self._wanted()}, got {value.dtype} {tuple(value.shape[1:])}")
        if not self._words and not bool(value.isfinite().all()):
            raise ValueError("expected a frame of finite numbers, got NaN or infinite ones")
        return value.to(self.net.device, self.net.input_type)

    def _transformed(self, pictures: Tensor) -> Tensor:
        if self._transform is None:
            raise ValueError(
                "expected a float frame, got uint8: the network's recipe has no transform for it; pass transform="
            )
        return torch.stack([self._transform(picture) for picture in pictures])  # (B, C, H, W)

    def _wanted(self) -> str:
        """Describes a frame that fits."""
        shape = self.net.frame_shape
        wanted = f"({', '.join([str(shape[0]), *DIMENSIONS[len(shape)].split(', ')[1:]])})"
        if self._words:
            return f"int64 {wanted}"
        return f"uint8 (H, W, 3) or float {wanted}" if len(shape) > 2 else f"float {wanted}"


def frames_of(net: SequenceNetwork, source: "Address", limit: int) -> Tensor:
    """The first frames of a source as input of a network, ``(T, C, H, W)`` or snippets ``(T, C, D, H, W)``.

    Raises:
        ValueError: the network's input is not pictures, or the source has no frames; also VideoError, a ValueError.
    """
    from prernn.media.video import read_frames

    takes, snippet = FrameInput(net), frames_a_step(net)
    found = [takes(picture)[0] for _, picture in islice(read_frames(source), limit * snippet)]
    if len(found) < snippet:
        raise ValueError(f"{source}: expected at least {snippet} frames, got too few")
    if len(net.frame_shape) < 4:
        return torch.stack(found)
    return torch.stack([torch.stack(found[t : t + snippet], 1) for t in range(0, len(found) - snippet + 1, snippet)])


def _frame_transform(transform: Any) -> FrameTransform | None:
    """A transform as a function, in whatever form it was given."""
    if transform is None or callable(transform):
        return transform
    from prernn.media.transforms import TransformSpec, frame_transform

    return frame_transform(TransformSpec.from_dict(dict(transform)) if isinstance(transform, Mapping) else transform)
