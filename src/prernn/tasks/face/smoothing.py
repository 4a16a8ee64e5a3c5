"""The One-Euro filter: it smooths points at rest strongly, and moving points only a little, so that they hardly lag.

Casiez, Roussel and Vogel, "1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems",
CHI 2012.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from prernn.layers.arguments import real


class PointFilter(Protocol):
    """Filters points in time: `Smoothing`, or `prernn.tasks.face.kalman.Kalman`."""

    def step(self, points: Tensor, time: Tensor, size: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The next value of points ``(..., N, 2)``, and the next state; see `smooth_step`."""


@dataclass(frozen=True)
class Smoothing:
    """Settings of the filter.

    Attributes:
        min_cutoff: cutoff frequency of a point at rest in Hz; lower values tremble less and lag more.
        beta: how the cutoff grows with a point's speed, in Hz per face size a second; higher values lag less in motion.
        derivative_cutoff: cutoff frequency of the speed itself in Hz.

    Raises:
        ValueError: cutoffs not above 0, or a negative beta.
    """

    min_cutoff: float = 1.0
    beta: float = 10.0
    derivative_cutoff: float = 1.0

    def __post_init__(self) -> None:
        real("smooth min_cutoff", self.min_cutoff, 0, above=True)
        real("smooth beta", self.beta, 0)
        real("smooth derivative_cutoff", self.derivative_cutoff, 0, above=True)

    def step(self, points: Tensor, time: Tensor, size: Tensor, state: "Smoothed | None") -> "tuple[Tensor, Smoothed]":
        """`smooth_step` with these settings."""
        return smooth_step(points, time, size, state, self)


class Smoothed(NamedTuple):
    """The filter's state: points ``(..., N, 2)``, their velocity in face sizes a second, and the time ``(...)``."""

    points: Tensor
    velocity: Tensor
    time: Tensor


def smoothing_from(text: str) -> Smoothing | None:
    """Settings from ``MIN_CUTOFF,BETA``; "none" for no filter.

    Raises:
        ValueError: the text has another form.
    """
    if text == "none":
        return None
    try:
        cutoff, beta = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f'smooth: expected MIN_CUTOFF,BETA as in 1,10, or "none", got {text!r}') from None
    return Smoothing(cutoff, beta)


def smooth_step(
    points: Tensor, time: Tensor, size: Tensor, state: Smoothed | None, smoothing: Smoothing
) -> tuple[Tensor, Smoothed]:
    """The filter's next value, and the next state.

    .. math:: \\hat x_t = \\alpha x_t + (1 - \\alpha) \\hat x_{t-1}, \\quad
        \\alpha = \\frac{1}{1 + \\tau / T_e}, \\quad \\tau = \\frac{1}{2 \\pi f_c}, \\quad
        f_c = f_{min} + \\beta \\|\\hat{\\dot x}_t\\|

    with ``T_e`` the seconds since the previous step; the velocity is that of ``(x_t - \\hat x_{t-1}) / T_e``, smoothed
    in the same way with ``derivative_cutoff``. The paper filters a single number; here a point has one speed, so that
    it is smoothed equally in all directions.

    A repeated time stamp leaves everything unchanged; one that jumps back restarts the filter, like the first step.

    Args:
        points: ``(..., N, 2)`` in pixels.
        time: ``(...)`` in seconds.
        size: ``(...)`` of the face in pixels, the unit of speed.
        state: of the previous step; None for the first.
        smoothing: the settings.
    """
    if state is None:
        return points, Smoothed(points, torch.zeros_like(points), time)
    passed = (time - state.time)[..., None, None]  # T_e
    known = passed.clamp(min=torch.finfo(passed.dtype).tiny)
    velocity = (points - state.points) / (known * size[..., None, None])
    velocity = torch.lerp(state.velocity, velocity, _share(smoothing.derivative_cutoff, known).expand_as(velocity))
    cutoff = smoothing.min_cutoff + smoothing.beta * torch.linalg.vector_norm(velocity, dim=-1, keepdim=True)
    value = torch.lerp(state.points, points, _share(cutoff, known).to(points.dtype).expand_as(points))
    value = torch.where(passed == 0, state.points, torch.where(passed < 0, points, value))
    velocity = torch.where(passed == 0, state.velocity, torch.where(passed < 0, 0.0, velocity))
    return value, Smoothed(value, velocity, time)


def _share(cutoff: Tensor | float, passed: Tensor) -> Tensor:
    """The weight alpha of a new value."""
    turns = 2 * math.pi * cutoff * passed
    return turns / (1 + turns)


def smooth(points: Tensor, time: Tensor, size: Tensor, smoothing: PointFilter) -> Tensor:
    """Points ``(..., T, N, 2)`` filtered along time, each row from its first step; `smooth_on` without a state."""
    return smooth_on(points, time, size, smoothing, None)[0]


def smooth_on(points: Tensor, time: Tensor, size: Tensor, smoothing: PointFilter, state: Any) -> tuple[Tensor, Any]:
    """Points ``(..., T, N, 2)`` filtered along time from a state, None for none, and the final state.

    Args:
        points: in pixels.
        time: ``(..., T)`` in seconds.
        size: ``(..., T)`` of the face in pixels.
        smoothing: the filter.
        state: the filter's state before the first step.
    """
    values = []
    steps = zip(points.unbind(-3), time.double().unbind(-1), size.double().unbind(-1), strict=True)
    for value, at, scale in steps:
        value, state = smoothing.step(value.double(), at, scale, state)
        values.append(value)
    return torch.stack(values, -3).to(points.dtype), state
