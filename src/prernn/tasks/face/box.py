"""The square that a network sees of a face: its position, coordinates in it, and its pixels.

A box is ``(x0, y0, x1, y1)``: its edges in pixels of the picture, whose pixel centers are at whole numbers (so the
picture extends from -0.5 to W - 0.5). Box coordinates are measured from the box's center in units of its side: the
edges are at -0.5 and 0.5, and pixel j of a crop of S pixels has its center at ``(j + 0.5) / S - 0.5``.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.media.transforms import TransformSpec

Box = Sequence[float]
"""Four edges, x0, y0, x1, y1."""


def face_box(points: Tensor, margin: float) -> Tensor:
    """The square box ``(..., 4)`` around points ``(..., N, 2)``.

    Its center is that of the points' upright bounding box, and its side is that box's longer side, enlarged at each
    end by ``margin`` times that side.
    """
    low, high = points.amin(-2), points.amax(-2)
    return square(torch.cat([low, high], -1), margin)


def square(box: Tensor, margin: float = 0.0) -> Tensor:
    """The square around the center of a box ``(..., 4)`` with its longer side, enlarged by ``margin`` at each end."""
    center = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]).amax(-1, keepdim=True) * (0.5 + margin)
    return torch.cat([center - half, center + half], -1)


def moved(box: Tensor, shift: Tensor, scale: Tensor | float) -> Tensor:
    """A square box ``(..., 4)`` moved by ``shift`` ``(2,)`` in units of its side, and ``scale`` times as large."""
    side = box[..., 2:] - box[..., :2]
    center = (box[..., :2] + box[..., 2:]) / 2 + shift * side
    return torch.cat([center - side * scale / 2, center + side * scale / 2], -1)


def to_box(points: Tensor, box: Tensor) -> Tensor:
    """Pixel coordinates ``(..., N, 2)`` as coordinates in square boxes ``(..., 4)``."""
    center, side = _frame(box)
    return (points - center) / side


def from_box(points: Tensor, box: Tensor) -> Tensor:
    """Coordinates ``(..., N, 2)`` in square boxes ``(..., 4)`` as pixel coordinates."""
    center, side = _frame(box)
    return center + points * side


def _frame(box: Tensor) -> tuple[Tensor, Tensor]:
    """Center ``(..., 1, 2)`` and side ``(..., 1, 1)``."""
    center = (box[..., None, :2] + box[..., None, 2:]) / 2
    return center, (box[..., 2] - box[..., 0])[..., None, None]


def share_inside(box: Tensor, height: int, width: int) -> float:
    """Share of a box's area ``(4,)`` that is inside the picture."""
    edge = box.new_tensor([width, height]) - 0.5
    low, high = box[:2].clamp(min=-0.5), torch.minimum(box[2:], edge)
    return float((high - low).clamp(min=0).prod() / (box[2:] - box[:2]).prod())


def overlap(a: Tensor, b: Tensor) -> float:
    """Area that two boxes ``(4,)`` share, over that of their union."""
    common = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def crop_face(frame: np.ndarray | Tensor, box: Tensor, size: int) -> Tensor:
    """The pixels in a square box, float32 ``(3, size, size)`` from 0 to 255, by bilinear interpolation.

    If the box is larger than the crop, it is sampled more finely and averaged, to avoid aliasing. Outside the picture,
    its edge is continued.

    Args:
        frame: uint8 ``(H, W, 3)``.
        box: ``(4,)``.
        size: pixels.

    Raises:
        ValueError: a frame of the wrong dtype or shape, a box that is not finite or has no area.
    """
    if frame.dtype not in (np.uint8, torch.uint8) or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected uint8 (H, W, 3), got {frame.dtype} {tuple(frame.shape)}")
    x0, y0, x1, y1 = (float(edge) for edge in box)
    side = x1 - x0
    if not 0 < side < math.inf or not (math.isfinite(x0) and math.isfinite(y0)):
        raise ValueError(f"box: expected four finite edges with an area between them, got {box.tolist()}")
    rows, columns = _window(y0, y1, frame.shape[0]), _window(x0, x1, frame.shape[1])
    patch = torch.as_tensor(np.ascontiguousarray(frame[rows, columns])).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
    height, width = patch.shape[2:]
    # from -1..1 of the crop to -1..1 of the patch, both from edge to edge
    theta = torch.tensor(
        [
            [side / width, 0.0, (x0 + x1 + 1 - 2 * columns.start) / width - 1],
            [0.0, side / height, (y0 + y1 + 1 - 2 * rows.start) / height - 1],
        ]
    )
    finer = min(max(1, math.ceil(side / size - 1e-6)), 8)
    grid = F.affine_grid(theta[None], [1, 3, size * finer, size * finer], align_corners=False)
    crop = F.grid_sample(patch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(crop, finer)[0] if finer > 1 else crop[0]  # (3, size, size)


def _window(low: float, high: float, size: int) -> slice:
    """The pixels needed for a box's side from ``low`` to ``high``, at least one: a small part of a large picture."""
    start = min(max(math.floor(low) - 1, 0), size - 1)
    return slice(start, min(max(math.ceil(high) + 2, start + 1), size))


def normalize(crops: Tensor, spec: TransformSpec) -> Tensor:
    """Turns crops ``(..., 3, S, S)`` from 0 to 255, as returned by `crop_face`, into network input."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return (crops / 255 - mean) / std
