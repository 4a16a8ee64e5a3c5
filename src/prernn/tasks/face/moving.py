"""Clips of one annotated picture of a face, moved along a known path: motion whose landmarks are exact.

So a data set of single pictures, or of videos of a few frames, yields videos of any length, and shows how much a
network's points tremble while a face is still, and how far they lag behind one that moves.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import real, whole

WAVES = 6
"""Number of sinusoids in each component of a path."""

SETTLING = 0.2
"""Seconds that a face takes to come to rest, or to start moving."""

AT_ONCE = 64
"""Number of pictures drawn together, which bounds memory."""


@dataclass(frozen=True)
class Moving:
    """How far and how fast a picture moves, and the noise of its camera.

    Attributes:
        frames: number of frames of a clip.
        shift: largest shift to each side, in sides of the face's box.
        scale: largest share by which the face grows or shrinks.
        turn: largest rotation in the plane in each direction, in degrees.
        speed: highest frequency of the motion, in Hz.
        rest: share of the time in which the face rests.
        noise: standard deviation of each pixel's camera noise, out of 255.
        fps: frames a second.

    Raises:
        ValueError: numbers out of range.
    """

    frames: int = 48
    shift: float = 0.1
    scale: float = 0.1
    turn: float = 12.0
    speed: float = 1.5
    rest: float = 0.4
    noise: float = 5.0
    fps: float = 25.0

    def __post_init__(self) -> None:
        whole("moving frames", self.frames)
        for name, most in (("shift", 1.0), ("scale", 0.5), ("turn", 45.0), ("rest", 1.0), ("noise", 255.0)):
            real(f"moving {name}", getattr(self, name), 0, most)
        for name in ("speed", "fps"):
            real(f"moving {name}", getattr(self, name), 0, above=True)


def path(moving: Moving, side: float, center: Tensor, chance: torch.Generator) -> Tensor:
    """Affine maps ``(T, 2, 3)`` from the picture's pixels to those of each frame, float64; the first is the identity.

    Horizontal and vertical shift, scale and rotation each follow a sum of `WAVES` sinusoids of up to ``speed`` Hz, with
    amplitudes inversely proportional to the frequency, kept within the limits by tanh. Their time stops while the face
    rests.

    Args:
        moving: how far and how fast.
        side: of the face's box in pixels.
        center: ``(2,)`` center of the box, around which the face grows and turns.
        chance: draws the path.
    """
    waves = _waves(_clock(moving, chance), moving.speed, chance)  # (4, T), within -1..1
    x, y, growth, turn = waves * waves.new_tensor([moving.shift, moving.shift, moving.scale, moving.turn])[:, None]
    angle = torch.deg2rad(turn)
    cos, sin = (1 + growth) * angle.cos(), (1 + growth) * angle.sin()
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (T, 2, 2)
    offset = center.double() + side * torch.stack([x, y], -1) - linear @ center.double()  # (T, 2)
    return torch.cat([linear, offset[..., None]], -1)


def _clock(moving: Moving, chance: torch.Generator) -> Tensor:
    """Seconds of motion ``(T,)`` at each frame: less than the elapsed time, because the face rests at times."""
    count = moving.frames
    drawn = torch.rand(1 + math.ceil(count / moving.fps * 2), generator=chance, dtype=torch.float64)
    moves = (drawn >= moving.rest).double()  # one draw per half second
    each = torch.arange(count, dtype=torch.float64) / moving.fps * 2
    at = moves[each.long()]
    width = max(1, round(SETTLING * moving.fps))
    smooth = torch.hann_window(width + 2, periodic=False, dtype=torch.float64)[1:-1]
    before = torch.cat([at[:1].expand(width - 1), at])
    rate = F.conv1d(before[None, None], (smooth / smooth.sum())[None, None])[0, 0]
    return (rate.cumsum(0) - rate[0]) / moving.fps


def _waves(seconds: Tensor, speed: float, chance: torch.Generator) -> Tensor:
    """Four smooth functions of time ``(4, T)`` that start at 0 and stay within -1..1."""
    frequency = speed * (0.1 + 0.9 * torch.rand(4, WAVES, 1, generator=chance, dtype=torch.float64))
    phase = 2 * math.pi * torch.rand(4, WAVES, 1, generator=chance, dtype=torch.float64)
    amplitude = 1 / frequency
    angles = 2 * math.pi * frequency * seconds + phase
    return ((amplitude * (angles.sin() - phase.sin())).sum(1) / amplitude.square().sum(1).sqrt()).tanh()


def moved_points(points: Tensor, maps: Tensor) -> Tensor:
    """Points ``(N, 2)`` of the picture in each frame, ``(T, N, 2)``."""
    return points.double() @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]


def moved_pictures(picture: np.ndarray, maps: Tensor, noise: float, chance: torch.Generator) -> np.ndarray:
    """The picture uint8 ``(H, W, 3)`` moved by each of the maps, ``(T, H, W, 3)``, with a camera's noise.

    Sampled bilinearly; beyond the picture's edge, the edge is continued.

    Args:
        picture: of the face.
        maps: ``(T, 2, 3)``, as returned by `path`.
        noise: standard deviation of normal noise on each value, out of 255.
        chance: draws the noise.
    """
    height, width = picture.shape[:2]
    source = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    # from -1..1 of the frame to its pixels, by the inverse to the picture's, and to its -1..1
    whole_maps = torch.cat([maps, maps.new_tensor([0.0, 0.0, 1.0]).expand(len(maps), 1, 3)], 1)
    half = maps.new_tensor([width / 2, height / 2])
    pixels = torch.diag(torch.cat([half, half.new_ones(1)]))
    pixels[:2, 2] = half - 0.5
    theta = (torch.linalg.inv(pixels) @ torch.linalg.inv(whole_maps) @ pixels)[:, :2].float()
    frames = []
    for part in theta.split(AT_ONCE):
        grid = F.affine_grid(part, [len(part), 3, height, width], align_corners=False)
        drawn = F.grid_sample(source.expand(len(part), -1, -1, -1), grid, padding_mode="border", align_corners=False)
        drawn = drawn + noise * torch.randn(drawn.shape, generator=chance)
        frames.append(drawn.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(frames).numpy()
