"""From decoded frames to network input: how each is resized, cropped, flipped and normalised (`TransformSpec`).

The specification is a plain record that goes into JSON and back. Which frames make a clip says `prernn.media.sampling`.
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
"""Mean of optical flow as `prernn.media.flow` stores it, in [0, 1]: that of no motion."""


FLOW_STD = 0.226
"""Standard deviation that flow is divided by. A choice: ImageNet's, averaged over the colours, so that flow goes into
a network that was trained on colour on the scale of its pictures. The flow's own is smaller by far in most videos."""


@dataclass(frozen=True)
class TransformSpec:
    """How frames become network input.

    Attributes:
        size: side in pixels of the square that the network sees.
        resize: shorter side in pixels before the centre crop of evaluation; None means ``size``.
        mean: a number for each channel, or one for all, for pixel values in [0, 1]; kept as a tuple.
        std: as ``mean``.
        scale: range of the area that a training crop takes of the frame; its aspect ratio is within 3/4 and 4/3.
        flip: whether training mirrors half of the clips.
        rotation: training turns each clip by up to so many degrees to either side (with shear and crop, the affine
            transformations of the RCN supplement, section 2); what comes in from outside is black.
        shear: training shears each clip by up to so many degrees to either side.
        flow: the channels are optical flow, x and y in turn, with 128 for no motion: a clip that is mirrored has its x
            negated too. See `prernn.media.flow`.
        grey: colours are made grey (the luma of BT.601 in each channel): of a network for depth or infrared, whose
            pictures have none.

    Raises:
        ValueError: numbers that make no sense.
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
        """C as mean and std tell it, None where they have one number for any C."""
        count = max(map(len, self._statistics))
        return count if count > 1 else None

    @property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        assert isinstance(self.mean, tuple)  # __post_init__ saw to it
        assert isinstance(self.std, tuple)
        return self.mean, self.std

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TransformSpec":
        """Builds a spec from `dataclasses.asdict` output, also after JSON; ValueError for unknown keys."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"transform: expected keys among {known}, got {unknown}")
        return cls(**values)


class _FlowFlip(v2.RandomHorizontalFlip):
    """Mirrors a flow clip ``(..., C, H, W)``, in which motion to the right then is motion to the left."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mirrored = super().transform(inpt, params).clone()
        # 1 to 255 map onto themselves; 0, which no flow is stored as, has no counterpart in uint8
        mirrored[..., 0::2, :, :] = (256 - mirrored[..., 0::2, :, :].int()).clamp(max=255).to(torch.uint8)
        return tv_tensors.wrap(mirrored, like=inpt)


class _Grey(v2.Transform):
    """Makes a clip ``(..., 3, H, W)`` grey; torchvision's own lets a video pass as it is."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        grey = v2.functional.rgb_to_grayscale(inpt.as_subclass(Tensor), num_output_channels=3)
        return tv_tensors.wrap(grey, like=inpt)


def clip_transform(spec: TransformSpec, train: bool) -> Callable[[Tensor], Tensor]:
    """A function from a uint8 clip ``(T, C, H, W)`` to a float32 clip ``(T, C, size, size)``.

    Evaluation resizes the shorter side and crops the centre. Training takes a random crop of random scale
    and mirrors at random, the same for every frame and channel of a clip; torch's global generator supplies the
    chance. Resized flow keeps its values: they stay in pixels of the frames that it was computed on.

    The function raises ValueError for a clip that is not uint8, or of another number of channels than the spec.
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
    return partial(_transform_clip, steps, spec)  # not a nested function, which could not go to worker processes


def _affine(spec: TransformSpec) -> v2.Transform:
    both = (-spec.shear, spec.shear, -spec.shear, spec.shear)
    return v2.RandomAffine(spec.rotation, shear=both, interpolation=v2.InterpolationMode.BILINEAR)


def frame_transform(spec: TransformSpec) -> Callable[[np.ndarray | Tensor], Tensor]:
    """A function from one uint8 frame ``(H, W, C)`` to float32 ``(C, size, size)``.

    It gives exactly what the evaluation `clip_transform` gives for that frame in a clip, and raises as it does.
    """
    return partial(_transform_frame, clip_transform(spec, train=False), spec)


def _transform_clip(steps: Callable[[Tensor], Tensor], spec: TransformSpec, clip: Tensor) -> Tensor:
    if clip.dtype != torch.uint8 or clip.ndim != 4 or not _fits(clip.shape[1], spec):
        raise ValueError(f"clip: expected uint8 (T, {_wanted(spec)}, H, W), got {clip.dtype} {tuple(clip.shape)}")
    # One memory layout for all, so that no resize kernel can tell a single frame from its clip: that of decoded
    # pictures, in which torchvision resizes up to seven times as fast.
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
