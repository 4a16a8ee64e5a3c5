"""A source at the network's own rate: at each tick of its clock the newest frame that has come.

A network that learnt motion at 12 frames a second sees everything at double speed from a camera of 24. So a stream is
resampled by the time stamps of its frames, causally: where the source is slower than the network, a frame is held, and
where it is faster, frames are dropped.
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
"""What a stream can be asked for: frames a second, "source" for frames as they come, None for what the recipe says."""

FOLDER_RATE = 25.0
"""Frames a second of a folder of frames where nobody says another, nor what rate the network wants."""

LONGEST_HOLD = 10.0
"""Seconds for which a frame is held: the clock stands still in a longer gap, as after a camera that was asleep."""

NEAR = 0.4
"""A frame is of a tick when it comes this near to it, as a share of a period, its own or the clock's, the shorter one:
below a half, where it would be as near to the next tick."""

RECENT = 30
"""Gaps between frames that tell the source's own period."""

STUCK = 10
"""Frames in a row with one time stamp after which the stamps are taken for none, and frames for one a period."""

CHANGED = 1.25
"""Factor by which the source's period differs from what it was, when its rate has changed."""


@dataclass
class Counts:
    """What became of a source's frames.

    Attributes:
        read: frames of the source.
        shown: pictures that the network saw, one a tick: read - dropped + held.
        held: ticks at which no new frame had come, so that the network saw the one before again.
        dropped: frames that a newer one had replaced before the next tick.
        gaps: gaps of more than `LONGEST_HOLD`, of which the rest was left out.
        back: jumps of the time stamps back in time.
        repeated: frames with the time stamp of the one before.
        changes: changes of the source's rate by a quarter or more.
        over: ticks that were left out, as the network is too slow for them.
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
        """In words, without what never happened; empty where nothing did."""
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
    """The clock of a stream: call it with (time, frame) pairs, get those that the network sees.

    Frame k of what it yields is that of tick k. Its time is that of the frame where the frame came with the tick, so
    that a source at the network's own rate passes untouched, and that of the tick where a frame is held or comes late.
    Rates within 2 % are one (29.97 and 30): the clock follows the source's, and so it does where the source's is a
    multiple. A few milliseconds of jitter change nothing. As nothing is known of a tick before a later frame has
    come, a held frame is yielded then, with those that follow.

    A gap of more than 10 s is held for so long, then the clock goes over it. Stamps that jump back are taken to go on
    from the frame before; frames with the same stamp replace each other, but where the stamps stand still for good,
    each counts as a period. Where frames were dropped because the network is slower than its own rate (`fell_behind`),
    their ticks are left out: to hold them would make it later still, without end. All is counted, and each kind of it
    said once, as a RuntimeWarning.

    Example:
        >>> pace = Pace(2)
        >>> [(time, frame) for time, frame in pace([(0.0, "a"), (0.25, "b"), (0.5, "c"), (2.0, "d")])]
        [(0.0, 'a'), (0.5, 'c'), (1.0, 'c'), (1.5, 'c'), (2.0, 'd')]
        >>> str(pace.counts)
        '2 held, 1 dropped'

    Args:
        rate: ticks a second; None takes all frames as they come, and counts what is odd about them.
        remark: said as a UserWarning when the first frame has come.

    Attributes:
        counts: of what has been yielded so far.

    Raises:
        ValueError: a rate that is none.
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
        tick, ahead = math.nan, 0  # the next tick; 1 where the newest frame has not been shown, and may still be
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
        """Says that frames before the next one were dropped, because those before took too long."""
        self._behind = True

    def jumped_back(self, seconds: float) -> None:
        """Counts a jump that the reader has mended already, see `prernn.media.video.read_frames`."""
        self._say("back", f"time stamps that jump back, by {seconds:.3g} s")

    def _noted(self, stamps: "_Stamps", stamp: float) -> float:
        """The time of a frame, once what is odd about its stamp is counted."""
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
            warnings.warn(f"the source has {text}; counted, and said of the first alone", RuntimeWarning, stacklevel=3)


class _Stamps:
    """The time stamps of a source, mended, and the period that they keep.

    Attributes:
        stamp: of the latest frame, as it came.
        step: the source's period in seconds that `Pace` compares with, 0 as long as too few frames have come.
        near: how far from a tick a frame still is of it, in seconds.
    """

    def __init__(self, period: float):
        self.period, self.near = period, NEAR * period
        self.stamp: float | None = None
        self.step = 0.0
        self._time, self._shift, self._same = 0.0, 0.0, 0
        self._gaps: deque[float] = deque(maxlen=RECENT)

    def time_of(self, stamp: float) -> float:
        """Seconds on a clock that never runs back."""
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
        """By how much the clock goes with a source of its own rate, or a multiple, whose frame came late or early."""
        usual = 1.5 * statistics.median_low(self._gaps) if self._gaps else 0.0
        mean = statistics.fmean([gap for gap in self._gaps if gap <= usual] or [self.period])
        times = max(1, round(self.period / mean))  # frames of the source a tick
        if not same_rate(times * mean, self.period):
            return 0.0
        most = RATES_AGREE * self.period
        return min(max(late, -most), most)


UNKNOWN = (
    "the network does not say at what rate it was trained, so frames are taken as they come, and a camera that is "
    "faster or slower than the training videos shows other motion: say the rate (--fps 12.5, in Python rate=12.5), or "
    'that this is meant (--fps source, in Python rate="source")'
)


def clock_for(nets: Sequence[SequenceNetwork], asked: Rate = None) -> Pace:
    """The clock at which networks follow a source together.

    Args:
        nets: the networks.
        asked: a rate, "source" for frames as they come, or None for the rate of the networks' recipes. Where none of
            those says one, frames are taken as they come, and a UserWarning says what to do.

    Raises:
        ValueError: another text than "source", a rate that is none.
        NotImplementedError: networks that were trained at different rates.
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
