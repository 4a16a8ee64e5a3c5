"""From decoded frames to network input: how frames are resized, cropped, flipped and normalized (`TransformSpec`).

The specification is a plain record that can be stored as JSON. `prernn.media.sampling` says which frames make a clip.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

FLOW_MEAN = 128 / 255
"""Mean of optical flow as `prernn.media.flow` stores it, scaled to [0, 1]: the value for no motion."""


FLOW_STD = 0.226
"""Standard deviation that flow is divided by. By choice it is ImageNet's, averaged over the colors, so that a network
trained on color sees flow at the scale of its pictures. The flow's own is much smaller in most videos."""


@dataclass(frozen=True)
class TransformSpec:
    """How frames become network input.

    Attributes:
        size: side in pixels of the square that the network sees.
        resize: shorter side in pixels before evaluation's center crop; None means ``size``.
        mean: a number for each channel, or one for all, for pixel values in [0, 1]; stored as a tuple.
        std: like ``mean``.
        scale: range of a training crop's area as a share of the frame; its aspect ratio is between 3/4 and 4/3.
        flip: whether training mirrors half of the clips.
        rotation: training rotates each clip by up to this many degrees either way (together with shear and crop, the
            affine transformations of the RCN supplement, section 2); uncovered corners are black.
        shear: training shears each clip by up to this many degrees either way.
        flow: whether the channels are optical flow, x and y alternating, with 128 for no motion. Mirroring a clip then
            also negates x. See `prernn.media.flow`.
        grey: whether to convert colors to grey (the luma of BT.601 in each channel), for networks that see depth or
            infrared pictures.

    Raises:
        ValueError: numbers out of range, or options that exclude each other.
    """

    size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] | float = (0.485, 0.456, 0.406)
    std: tuple[float, ...] | float = (0.229, 0.224, 0.225)
    scale: tuple[float, float] = (0.6, 1.0)
    flip: bool = True
    rotation: float = 0.0
    shear: float = 0.0
    flow: bool = False
    grey: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std", "scale"):  # JSON gives lists
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, (int, float)) else tuple(value))
        if self.size < 1:
            raise ValueError(f"transform size: expected at least 1 pixel, got {self.size}")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"transform resize: expected at least size {self.size}, got {self.resize}")
        mean, std = self._statistics
        if not mean or not std or min(std) <= 0 or len({len(mean), len(std)} - {1}) > 1:
            wanted = "one number or as many as channels, std > 0"
            raise ValueError(f"transform mean, std: expected {wanted}, got {self.mean}, {self.std}")
        if self.flow and self.channels and self.channels % 2:
            raise ValueError(f"transform flow: expected mean, std of an even number of channels, got {self.channels}")
        if not 0 <= self.rotation <= 180 or not 0 <= self.shear < 90:
            wanted, got = "rotation of 0 to 180 and shear below 90 degrees", f"{self.rotation} and {self.shear}"
            raise ValueError(f"transform: expected {wanted}, got {got}")
        if self.flow and self.grey:
            raise ValueError("transform grey: expected pictures, got optical flow")
        if self.flow and (self.rotation or self.shear):
            raise ValueError("transform flow: expected no rotation and no shear, which would turn the motion itself")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"transform scale: expected 0 < low <= high <= 1, got {self.scale}")

    @property
    def channels(self) -> int | None:
        """C according to mean and std; None if each is a single number, which fits any C."""
        count = max(map(len, self._statistics))
        return count if count > 1 else None

    @property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        assert isinstance(self.mean, tuple)  # __post_init__ ensures this
        assert isinstance(self.std, tuple)
        return self.mean, self.std

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TransformSpec":
        """Builds a spec from the output of `dataclasses.asdict`, even after JSON; ValueError for unknown keys."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"transform: expected keys among {known}, got {unknown}")
        return cls(**values)


class _FlowFlip(v2.RandomHorizontalFlip):
    """Mirrors a flow clip ``(..., C, H, W)``, in which motion to the right becomes motion to the left."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mirrored = super().transform(inpt, params).clone()
        # the range 1 to 255 maps onto itself; 0, which stored flow never has, would become 256
        mirrored[..., 0::2, :, :] = (256 - mirrored[..., 0::2, :, :].int()).clamp(max=255).to(torch.uint8)
        return tv_tensors.wrap(mirrored, like=inpt)


class _Grey(v2.Transform):
    """Makes a clip ``(..., 3, H, W)`` grey; torchvision's own transform leaves a video unchanged."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        grey = v2.functional.rgb_to_grayscale(inpt.as_subclass(Tensor), num_output_channels=3)
        return tv_tensors.wrap(grey, like=inpt)


def clip_transform(spec: TransformSpec, train: bool) -> Callable[[Tensor], Tensor]:
    """A function from a uint8 clip ``(T, C, H, W)`` to a float32 clip ``(T, C, size, size)``.

    Evaluation resizes the shorter side and crops the center. Training takes a random crop of random scale
    and mirrors at random, the same for every frame and channel of a clip; randomness comes from torch's global
    generator. Resizing flow does not rescale its values: they stay in pixels of the frames it was computed on.

    The function raises ValueError for a clip that is not uint8, or whose number of channels is not the spec's.
    """
    if train:
        crop = [v2.RandomResizedCrop(spec.size, scale=spec.scale, antialias=True)]
        crop += [_FlowFlip() if spec.flow else v2.RandomHorizontalFlip()] if spec.flip else []
        crop += [_affine(spec)] if spec.rotation or spec.shear else []
    else:
        crop = [v2.Resize(spec.resize or spec.size, antialias=True), v2.CenterCrop(spec.size)]
    normalize = v2.Normalize(*spec._statistics)
    crop += [_Grey()] if spec.grey else []
    steps = v2.Compose([*crop, v2.ToDtype(torch.float32, scale=True), normalize, v2.ToPureTensor()])
    return partial(_transform_clip, steps, spec)  # a nested function could not be sent to worker processes


def _affine(spec: TransformSpec) -> v2.Transform:
    both = (-spec.shear, spec.shear, -spec.shear, spec.shear)
    return v2.RandomAffine(spec.rotation, shear=both, interpolation=v2.InterpolationMode.BILINEAR)


def frame_transform(spec: TransformSpec) -> Callable[[np.ndarray | Tensor], Tensor]:
    """A function from one uint8 frame ``(H, W, C)`` to float32 ``(C, size, size)``.

    It gives exactly what the evaluation `clip_transform` gives for that frame in a clip, and raises the same errors.
    """
    return partial(_transform_frame, clip_transform(spec, train=False), spec)


def _transform_clip(steps: Callable[[Tensor], Tensor], spec: TransformSpec, clip: Tensor) -> Tensor:
    if clip.dtype != torch.uint8 or clip.ndim != 4 or not _fits(clip.shape[1], spec):
        raise ValueError(f"clip: expected uint8 (T, {_wanted(spec)}, H, W), got {clip.dtype} {tuple(clip.shape)}")
    # One memory layout for all, so that the resize kernel gives the same result for a single frame as for a clip. It is
    # the layout of decoded pictures, in which torchvision resizes up to seven times as fast.
    layout = torch.channels_last if clip.shape[1] == 3 else torch.contiguous_format
    video = tv_tensors.Video(clip.contiguous(memory_format=layout))
    return steps(video).contiguous()  # (T, C, size, size)


def _transform_frame(transform: Callable[[Tensor], Tensor], spec: TransformSpec, frame: np.ndarray | Tensor) -> Tensor:
    image = torch.as_tensor(frame)
    if image.dtype != torch.uint8 or image.ndim != 3 or not _fits(image.shape[2], spec):
        raise ValueError(f"frame: expected uint8 (H, W, {_wanted(spec)}), got {image.dtype} {tuple(image.shape)}")
    return transform(image.permute(2, 0, 1)[None])[0]  # (C, size, size)


def _fits(channels: int, spec: TransformSpec) -> bool:
    return channels == spec.channels or (spec.channels is None and not (spec.flow and channels % 2))


def _wanted(spec: TransformSpec) -> str:
    return str(spec.channels or ("C even" if spec.flow else "C"))
