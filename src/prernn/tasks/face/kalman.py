"""The Kalman filter of a point in uniform motion with noise: the baseline without an RNN in PreRNN's Figure 3.

Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960; the model of motion is the continuous white
noise acceleration of Bar-Shalom, Li and Kirubarajan, "Estimation with Applications to Tracking and Navigation", 2001,
section 6.2.2. Neither the paper nor its supplement says which filter the figure used.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prernn.layers.arguments import real

FIRST_SPEED = 1.0
"""Initial standard deviation of a point's speed, in face sizes a second."""


class Tracked(NamedTuple):
    """The state of the filter: points ``(..., N, 2)`` in pixels, their velocity in pixels a second, the covariance
    ``(..., 2, 2)`` of position and velocity, the same for all points, in face sizes, and the time ``(...)``."""

    points: Tensor
    velocity: Tensor
    covariance: Tensor
    time: Tensor


@dataclass(frozen=True)
class Kalman:
    """Settings of the filter. They were not tuned, and are of the order of magnitude of a face in a video call.

    Attributes:
        motion: square root of the spectral density of the acceleration, in face sizes a second after one second: how
            much a speed deviates from its earlier value.
        noise: standard deviation of the network's points, in face sizes.

    Raises:
        ValueError: numbers not above 0.
    """

    motion: float = 1.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        real("kalman motion", self.motion, 0, above=True)
        real("kalman noise", self.noise, 0, above=True)

    def step(self, points: Tensor, time: Tensor, size: Tensor, state: Tracked | None) -> tuple[Tensor, Tracked]:
        """The filter's next value and the next state: prediction over the elapsed time, then correction.

        .. math:: x^-_t = F x_{t-1}, \\quad P^-_t = F P_{t-1} F^T + q^2
            \\begin{pmatrix} d^3/3 & d^2/2 \\\\ d^2/2 & d \\end{pmatrix}, \\quad
            F = \\begin{pmatrix} 1 & d \\\\ 0 & 1 \\end{pmatrix}

        .. math:: k = P^-_t e_1 / (e_1^T P^-_t e_1 + r^2), \\quad x_t = x^-_t + k (z_t - e_1^T x^-_t), \\quad
            P_t = P^-_t - k e_1^T P^-_t

        with q ``motion``, r ``noise``, d the seconds since the previous step and z the point. A repeated time stamp
        leaves everything unchanged; one that jumps back restarts the filter, like the first step.

        Args:
            points: ``(..., N, 2)`` in pixels, float64.
            time: ``(...)`` in seconds.
            size: ``(...)`` of the face in pixels, the filter's unit of length.
            state: of the previous step; None for the first.
        """
        begun = self._begin(points, time, size)
        if state is None:
            return points, begun
        passed = time - state.time
        place, velocity, covariance = self._predicted(state, passed.clamp(min=0))
        gain = covariance[..., 0] / (covariance[..., 0, 0] + self.noise**2)[..., None]  # (..., 2)
        missed = points - place
        place = place + gain[..., 0, None, None] * missed
        velocity = velocity + gain[..., 1, None, None] * missed
        covariance = covariance - gain[..., :, None] * covariance[..., None, 0, :]
        new = Tracked(place, velocity, covariance, time)
        parts = zip(begun, state, new, strict=True)
        chosen = Tracked(*(_by_time(passed, anew, held, on) for anew, held, on in parts))
        return chosen.points, chosen

    def _begin(self, points: Tensor, time: Tensor, size: Tensor) -> Tracked:
        variances = torch.tensor([self.noise**2, FIRST_SPEED**2], dtype=points.dtype, device=points.device)
        covariance = torch.diag(variances).expand(*size.shape, 2, 2)
        return Tracked(points, torch.zeros_like(points), covariance, time)

    def _predicted(self, state: Tracked, passed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, velocity and covariance after ``passed`` seconds."""
        one, none = torch.ones_like(passed), torch.zeros_like(passed)
        moved = torch.stack([one, passed, none, one], -1).unflatten(-1, (2, 2))  # F
        drift = torch.stack([passed**3 / 3, passed**2 / 2, passed**2 / 2, passed], -1).unflatten(-1, (2, 2))
        covariance = moved @ state.covariance @ moved.mT + self.motion**2 * drift
        return state.points + passed[..., None, None] * state.velocity, state.velocity, covariance


def _by_time(passed: Tensor, anew: Tensor, held: Tensor, on: Tensor) -> Tensor:
    """A part of the state: restarted where time jumps back, unchanged where it stands still, updated elsewhere."""
    passed = passed.reshape((*passed.shape, *[1] * (on.ndim - passed.ndim)))
    return torch.where(passed < 0, anew, torch.where(passed == 0, held, on))
