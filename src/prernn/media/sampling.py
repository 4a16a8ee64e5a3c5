"""Which frames of a video make a clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

Rule = Literal["uniform", "random", "consecutive", "all"]

RATES_AGREE = 0.02
"""Rates that differ by at most this share count as equal: 29.97 and 30 frames per second, or a camera's inexact 25."""


def same_rate(rate: float, other: float) -> bool:
    """Whether two rates in frames per second count as equal, see `RATES_AGREE`."""
    return abs(rate - other) <= RATES_AGREE * other


@dataclass(frozen=True)
class Sampling:
    """Which frames make a clip.

    Attributes:
        rule: "uniform" takes the center of each of ``frames`` equal segments; "random" takes one random frame of each;
            "consecutive" takes a run of ``frames`` frames, ``stride`` apart; "all" takes every ``stride``-th frame, at
            most ``frames``.
        frames: how many; None, only for "all", means no limit.
        fps: first resample to this rate, by the nearest frame in time. Above the video's own rate this repeats
            frames for "consecutive" and "all", to keep the pace; "uniform" and "random" never repeat a frame.
        stride: distance from one picked frame to the next, for "consecutive" and "all".

    Raises:
        ValueError: an unknown rule, or numbers that the rule cannot use.
    """

    frames: int | None = 16
    rule: Rule = "uniform"
    fps: float | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"sampling rule: expected one of {get_args(Rule)}, got {self.rule!r}")
        if self.frames is None and self.rule != "all":
            raise ValueError(f'sampling frames: expected a number for rule "{self.rule}", got None')
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"sampling frames: expected at least 1, got {self.frames}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"sampling fps: expected a rate above 0, got {self.fps}")
        if self.stride < 1 or (self.stride > 1 and self.rule in ("uniform", "random")):
            raise ValueError(f'sampling stride: expected at least 1, and 1 for "{self.rule}", got {self.stride}')


def sample_indices(total: int, sampling: Sampling, generator: torch.Generator | None = None) -> list[int]:
    """The indices, ascending and without repeats, that ``sampling`` picks out of ``total`` frames.

    Without a generator nothing is random: "random" gives what "uniform" gives, "consecutive" is centered.
    A video that is too short gives fewer indices. ``sampling.fps`` is ignored here.

    Raises:
        ValueError: a negative total.
    """
    if total < 0:
        raise ValueError(f"total frames: expected 0 or more, got {total}")
    if sampling.rule == "all":
        return list(range(0, total, sampling.stride))[: sampling.frames]
    assert sampling.frames is not None  # Sampling allows None for "all" only
    if sampling.rule == "consecutive":
        count = min(sampling.frames, math.ceil(total / sampling.stride))
        starts = total - (count - 1) * sampling.stride  # how many positions the run can start at
        start = _draw(0, starts, generator) if generator else (starts - 1) // 2
        return [start + i * sampling.stride for i in range(count)]
    count = min(sampling.frames, total)
    if sampling.rule == "uniform" or generator is None:
        return [(2 * i + 1) * total // (2 * count) for i in range(count)]
    return [_draw(i * total // count, (i + 1) * total // count, generator) for i in range(count)]


def sample_times(times: Sequence[float], sampling: Sampling, generator: torch.Generator | None = None) -> list[int]:
    """The indices, ascending, that ``sampling`` picks out of frames shown at ``times`` (seconds, ascending).

    Like `sample_indices`, after resampling to ``sampling.fps`` from the first frame to the last.
    """
    nearest = list(range(len(times)))
    if sampling.fps is not None and nearest:
        shown = np.asarray(times) - times[0]
        # The 1e-6 s make the rounding of a tick that falls exactly on a frame, or halfway, well defined.
        ticks = np.arange(math.floor((shown[-1] + 1e-6) * sampling.fps) + 1) / sampling.fps
        nearest = np.searchsorted((shown[1:] + shown[:-1]) / 2, ticks - 1e-6).tolist()
    picks = [nearest[i] for i in sample_indices(len(nearest), sampling, generator)]
    return sorted(set(picks)) if sampling.rule in ("uniform", "random") else picks


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, max(high, low + 1), (), generator=generator))
