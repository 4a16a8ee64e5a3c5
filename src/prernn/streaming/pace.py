"""Resamples a source to the network's own rate: at each tick of its clock, the newest frame that has arrived.

A network that learned motion at 12 frames a second sees everything at double speed from a camera at 24. So a stream is
resampled causally, by the time stamps of its frames: if the source is slower than the network, frames are held, and if
it is faster, frames are dropped.
"""

import math
import statistics
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.sampling import RATES_AGREE, same_rate

Picture = TypeVar("Picture")

Rate = float | Literal["source"] | None
"""A requested rate: frames a second, "source" to take every frame as it comes, None for the rate in the recipe."""

FOLDER_RATE = 25.0
"""Frames a second of a folder of frames if neither the caller nor the network gives a rate."""

LONGEST_HOLD = 10.0
"""Longest time in seconds that a frame is held: in a longer gap, as after a camera was asleep, the clock stops."""

NEAR = 0.4
"""A frame belongs to a tick if it comes this close to it, as a share of its own period or the clock's, whichever is
shorter. It is below a half, at which the frame would be as close to the next tick."""

RECENT = 30
"""Number of gaps between frames from which the source's own period is estimated."""

STUCK = 10
"""Consecutive frames with one time stamp after which stamps are ignored, and each frame counts as one period."""

CHANGED = 1.25
"""Factor by which the source's period must differ from before for its rate to count as changed."""


@dataclass
class Counts:
    """What became of a source's frames.

    Attributes:
        read: frames read from the source.
        shown: pictures that the network saw, one per tick: read - dropped + held.
        held: ticks at which no new frame had come, so that the network saw the previous one again.
        dropped: frames that a newer one had replaced before the next tick.
        gaps: gaps longer than `LONGEST_HOLD`, the rest of which was skipped.
        back: times that the time stamps jumped back.
        repeated: frames with the time stamp of the previous one.
        changes: changes of the source's rate by a quarter or more.
        over: ticks that were skipped because the network is too slow for them.
    """

    read: int = 0
    shown: int = 0
    held: int = 0
    dropped: int = 0
    gaps: int = 0
    back: int = 0
    repeated: int = 0
    changes: int = 0
    over: int = 0

    def __str__(self) -> str:
        """The counts in words, without those that are 0; empty if all are."""
        parts = {
            f"{self.held} held": self.held,
            f"{self.dropped} dropped": self.dropped,
            f"{self.gaps} gaps of more than {LONGEST_HOLD:g} s": self.gaps,
            f"{self.back} jumps back in time": self.back,
            f"{self.repeated} repeated time stamps": self.repeated,
            f"{self.changes} changes of rate": self.changes,
            f"{self.over} ticks left out, as the network is too slow": self.over,
        }
        return ", ".join(text for text, count in parts.items() if count)


class Pace:
    """The clock of a stream: call it with (time, frame) pairs to get those that the network sees.

    Frame k of the output belongs to tick k. Its time is the frame's own if the frame came with the tick, so that a
    source at the network's own rate passes unchanged, and the tick's if the frame is held or comes late. Rates within
    2 % of each other count as equal (29.97 and 30): the clock then follows the source's, and likewise if the source's
    rate is a multiple. A few milliseconds of jitter change nothing. What belongs to a tick is known only once a later
    frame has come, so a held frame is yielded then, together with the frames that follow.

    In a gap of more than 10 s the frame is held for 10 s, then the clock skips the rest. If stamps jump back, time
    continues from the previous frame. Frames with the same stamp replace each other, but if the stamps stay the same
    for good, each frame counts as one period. If frames were dropped because the network is slower than its own rate
    (`fell_behind`), their ticks are skipped, because holding frames for them would make it ever later. All of this is
    counted, and each kind is reported once, as a RuntimeWarning.

    Example:
        >>> pace = Pace(2)
        >>> [(time, frame) for time, frame in pace([(0.0, "a"), (0.25, "b"), (0.5, "c"), (2.0, "d")])]
        [(0.0, 'a'), (0.5, 'c'), (1.0, 'c'), (1.5, 'c'), (2.0, 'd')]
        >>> str(pace.counts)
        '2 held, 1 dropped'

    Args:
        rate: ticks a second; None takes all frames as they come, and only counts irregularities.
        remark: shown as a UserWarning when the first frame has come.

    Attributes:
        counts: the counts up to what has been yielded so far.

    Raises:
        ValueError: the rate is not above 0.
    """

    def __init__(self, rate: float | None, remark: str = ""):
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"expected a rate above 0 frames a second, got {rate}")
        self.rate, self.counts = rate, Counts()
        self._remark = remark
        self._said: set[str] = set()
        self._behind = False

    def __call__(self, frames: Iterable[tuple[float, Picture]]) -> Iterator[tuple[float, Picture]]:
        """Yields (time in seconds, frame) for each tick, the first with the first frame."""
        if self.rate is not None:
            yield from self._ticks(frames, 1 / self.rate)
            return
        stamps = _Stamps(1 / FOLDER_RATE)
        for stamp, frame in frames:
            self._noted(stamps, stamp)
            self.counts.shown += 1
            yield stamp, frame

    def _ticks(self, frames: Iterable[tuple[float, Picture]], period: float) -> Iterator[tuple[float, Picture]]:
        counts, stamps = self.counts, _Stamps(period)
        tick, ahead = math.nan, 0  # the next tick; 1 if the newest frame has not been shown yet, but may be
        newest: Picture | None = None
        for stamp, frame in frames:
            time = self._noted(stamps, stamp)
            tick = time if math.isnan(tick) else tick
            longest, gap = tick + LONGEST_HOLD, time - tick
            if self._behind and gap > period:
                counts.over += round(gap / period)
                tick = time
            self._behind = False
            while time > tick + stamps.near:
                if gap > LONGEST_HOLD and tick > longest:
                    tick = time
                    self._say("gaps", f"a gap of {gap:.1f} s, of which {LONGEST_HOLD:g} s are held")
                    break
                counts.held, ahead = counts.held + (not ahead), 0
                counts.shown += 1
                yield tick, newest  # type: ignore[misc]  # there is one, as it is not the first
                tick += period
            counts.dropped, ahead, newest = counts.dropped + ahead, 1, frame
            if time >= tick - stamps.near:
                ahead = 0
                counts.shown += 1
                yield time, frame
                tick += period + stamps.pull(time - tick)
        counts.dropped += ahead

    def fell_behind(self) -> None:
        """Tells the clock that frames before the next one were dropped because earlier ones took too long."""
        self._behind = True

    def jumped_back(self, seconds: float) -> None:
        """Counts a jump that the reader has already corrected, see `prernn.media.video.read_frames`."""
        self._say("back", f"time stamps that jump back, by {seconds:.3g} s")

    def _noted(self, stamps: "_Stamps", stamp: float) -> float:
        """The time of a frame, after counting what is irregular about its stamp."""
        if self.counts.read == 0 and self._remark:
            warnings.warn(self._remark, UserWarning, stacklevel=4)
        self.counts.read += 1
        before, step = stamps.stamp, stamps.step
        time = stamps.time_of(stamp)
        if before is not None and stamp < before:
            self.jumped_back(before - stamp)
        elif stamp == before:
            self._say("repeated", "time stamps that repeat themselves")
        if step and stamps.step != step:
            self._say("changes", f"a rate that changes, from {1 / step:.4g} to {1 / stamps.step:.4g} frames a second")
        return time

    def _say(self, kind: str, text: str) -> None:
        setattr(self.counts, kind, getattr(self.counts, kind) + 1)
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(f"the source has {text}; counted, but reported only once", RuntimeWarning, stacklevel=3)


class _Stamps:
    """The time stamps of a source, corrected, and the period they keep.

    Attributes:
        stamp: of the latest frame, as it came.
        step: the source's period in seconds that `Pace` compares with; 0 until enough frames have come.
        near: how far from a tick, in seconds, a frame may be to belong to it.
    """

    def __init__(self, period: float):
        self.period, self.near = period, NEAR * period
        self.stamp: float | None = None
        self.step = 0.0
        self._time, self._shift, self._same = 0.0, 0.0, 0
        self._gaps: deque[float] = deque(maxlen=RECENT)

    def time_of(self, stamp: float) -> float:
        """Time in seconds that never decreases."""
        before, self.stamp = self.stamp, stamp
        if before is None:
            self._time = stamp
            return stamp
        self._same = self._same + 1 if stamp == before else 0
        own = statistics.median_low(self._gaps) if self._gaps else self.period
        if stamp < before or self._same >= STUCK:
            self._shift = self._time + own - stamp
        time = stamp + self._shift
        if stamp > before:
            self._learn(time - self._time)
        self._time = time
        return time

    def _learn(self, gap: float) -> None:
        self._gaps.append(gap)
        period = statistics.median_low(self._gaps)
        self.near = NEAR * min(self.period, period)
        if len(self._gaps) == RECENT and not self.step / CHANGED < period < self.step * CHANGED:
            self.step = period

    def pull(self, late: float) -> float:
        """How the clock moves to follow a source at its own rate, or a multiple, whose frame came late or early."""
        usual = 1.5 * statistics.median_low(self._gaps) if self._gaps else 0.0
        mean = statistics.fmean([gap for gap in self._gaps if gap <= usual] or [self.period])
        times = max(1, round(self.period / mean))  # frames of the source per tick
        if not same_rate(times * mean, self.period):
            return 0.0
        most = RATES_AGREE * self.period
        return min(max(late, -most), most)


UNKNOWN = (
    "the network does not say at what rate it was trained, so frames are taken as they come, and a camera that is "
    "faster or slower than the training videos shows different motion: give the rate (--fps 12.5, in Python "
    'rate=12.5), or say that this is intended (--fps source, in Python rate="source")'
)


def clock_for(nets: Sequence[SequenceNetwork], asked: Rate = None) -> Pace:
    """The clock by which networks follow a source together.

    Args:
        nets: the networks.
        asked: a rate, "source" to take frames as they come, or None for the rate in the networks' recipes. If none of
            those gives one, frames are taken as they come, and a UserWarning says what to do.

    Raises:
        ValueError: a text other than "source", or a rate that is not above 0.
        NotImplementedError: the networks were trained at different rates.
    """
    if asked == "source":
        return Pace(None)
    if asked is not None:
        if isinstance(asked, str) or not 0 < asked < math.inf:
            raise ValueError(f"rate of a stream: expected frames a second above 0, or source, got {asked}")
        return Pace(float(asked))
    known = [net.recipe.rate for net in nets if net.recipe.rate is not None]
    if any(not same_rate(rate, known[0]) for rate in known):
        rates = " and ".join(f"{rate:g}" for rate in known)
        raise NotImplementedError(
            f"expected networks of one rate, got {rates} frames a second; --fps says which to take"
        )
    return Pace(known[0]) if known else Pace(None, remark=UNKNOWN)
