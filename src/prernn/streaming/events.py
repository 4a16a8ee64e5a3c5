"""Turns the probabilities of each moment into events: what happened, from when until when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from prernn.layers.arguments import real


@dataclass(frozen=True)
class EventRule:
    """Which probabilities of a label make an event.

    An event is a run of moments in which the label's probability is at least ``low``, and at least ``high`` in one of
    them (hysteresis, as in Canny's edge detector). So it begins and ends where the action does, not where the network
    is most confident.

    Attributes:
        high: probability that makes a run an event.
        low: probability below which a run ends.
        least: minimum duration of an event in seconds; shorter runs make no event.
        cool_down: seconds after an event in which its label can't begin another.

    Raises:
        ValueError: a probability outside 0 to 1, ``low`` of 0 or above ``high``, negative seconds.
    """

    high: float = 0.5
    low: float = 0.4
    least: float = 0.2
    cool_down: float = 0.0

    def __post_init__(self) -> None:
        real("events high", self.high, 0, 1, above=True)
        real("events low", self.low, 0, 1, above=True)
        if self.low > self.high:
            raise ValueError(f"events low: expected at most high, {self.high:g}, got {self.low:g}")
        real("events least", self.least, 0)
        real("events cool_down", self.cool_down, 0)


@dataclass(frozen=True)
class EventSpan:
    """An event of a stream.

    Attributes:
        label: what happened.
        start: time in seconds at which it began.
        end: time of the first moment after it; None while it is going on.
        score: the label's highest probability so far.
        start_frame: number of its first frame.
        end_frame: number of the first frame after it.
    """

    label: str
    start: float
    end: float | None
    score: float
    start_frame: int
    end_frame: int | None = None


class _Run(NamedTuple):
    """Moments in which a label's probability has not fallen below ``low``."""

    start: float
    frame: int
    score: float
    event: bool  # whether it has been reported as an event


class EventTracker:
    """Finds the events of a stream as its probabilities arrive, for each label separately.

    It is causal, and depends on times and probabilities only: frame by frame it gives the same events as all at once.

    Example:
        >>> import torch
        >>> from prernn.streaming.events import EventRule, EventTracker
        >>> tracker = EventTracker(["background", "wave"], EventRule(high=0.6, low=0.4, least=0.0), quiet=(0,))
        >>> wave = [0.1, 0.5, 0.9, 0.5, 0.1]
        >>> for i, p in enumerate(wave):
        ...     for event in tracker.push(i, i / 10, torch.tensor([1 - p, p])):
        ...         print(event.label, event.start, event.end, round(event.score, 2))
        wave 0.1 None 0.9
        wave 0.1 0.4 0.9

    Args:
        labels: names of the K outputs.
        rule: what makes an event.
        quiet: outputs that never make an event, such as the background.
    """

    def __init__(self, labels: Sequence[str], rule: EventRule | None = None, *, quiet: Sequence[int] = ()) -> None:
        self.labels, self.rule = list(labels), EventRule() if rule is None else rule
        self.quiet = frozenset(quiet)
        self.reset()

    def reset(self) -> None:
        """Forgets everything it has seen."""
        self._runs: dict[int, _Run] = {}
        self._ready: dict[int, float] = {}  # when a label that had an event may begin another
        self._last: tuple[int, float] | None = None  # frame and time of the latest moment
        self._next: tuple[int, float] | None = None  # ... and of the moment expected after it

    @property
    def open(self) -> list[EventSpan]:
        """The events that are going on."""
        return [self._span(label, run) for label, run in self._runs.items() if run.event]

    def push(self, frame: int, time: float, probabilities: Tensor) -> list[EventSpan]:
        """Takes the probabilities ``(K,)`` of a moment; returns events that have begun (``end`` None) or ended.

        Raises:
            ValueError: the number of probabilities is not that of labels, or a time is not after the previous one.
        """
        if probabilities.shape != (len(self.labels),):
            raise ValueError(f"expected probabilities ({len(self.labels)},), got shape {tuple(probabilities.shape)}")
        if self._last is not None and not time >= self._last[1]:
            raise ValueError(f"expected a time from {self._last[1]} on, got {time}")
        found: list[EventSpan] = []
        for label, p in enumerate(probabilities.tolist()):
            if label in self.quiet:
                continue
            if p >= self.rule.low and time >= self._ready.get(label, time):
                found += self._go_on(label, frame, time, p)
            elif label in self._runs:
                found += self._end(label, frame, time)
        if self._last is not None:
            self._next = (2 * frame - self._last[0], 2 * time - self._last[1])
        else:
            self._next = (frame + 1, time)
        self._last = (frame, time)
        return found

    def finish(self) -> list[EventSpan]:
        """Returns the events that end with the source, one moment after its last; then the tracker is reset."""
        assert self._next is not None or not self._runs
        found = [event for label in list(self._runs) for event in self._end(label, *(self._next or (0, 0.0)))]
        self.reset()
        return found

    def _go_on(self, label: int, frame: int, time: float, p: float) -> list[EventSpan]:
        run = self._runs.get(label, _Run(time, frame, p, event=False))
        run = run._replace(score=max(run.score, p))
        begins = not run.event and run.score >= self.rule.high and self._lasts(run, time)
        self._runs[label] = run._replace(event=run.event or begins)
        return [self._span(label, run)] if begins else []

    def _end(self, label: int, frame: int, time: float) -> list[EventSpan]:
        run = self._runs.pop(label)
        if not run.event and not (run.score >= self.rule.high and self._lasts(run, time)):
            return []
        self._ready[label] = time + self.rule.cool_down
        begun = self._span(label, run)
        return [*([] if run.event else [begun]), replace(begun, end=time, end_frame=frame)]

    def _lasts(self, run: _Run, time: float) -> bool:
        return time - run.start >= self.rule.least - 1e-9  # times are sums of steps and have rounding errors

    def _span(self, label: int, run: _Run) -> EventSpan:
        return EventSpan(self.labels[label], run.start, None, run.score, run.frame)


def ended(events: Sequence[EventSpan]) -> list[EventSpan]:
    """The events among these that have ended, in the order of their starts."""
    return sorted((event for event in events if event.end is not None), key=lambda event: (event.start, event.label))


def events_of(
    times: Sequence[float], probabilities: Tensor, labels: Sequence[str], rule: EventRule, quiet: Sequence[int] = ()
) -> list[EventSpan]:
    """The events of a whole sequence, in the order of their starts.

    Args:
        times: T seconds, ascending.
        probabilities: ``(T, K)``.
        labels: K names.
        rule: what makes an event.
        quiet: as in `EventTracker`.

    Raises:
        ValueError: as in `EventTracker.push`.
    """
    tracker = EventTracker(labels, rule, quiet=quiet)
    found = [event for i, time in enumerate(times) for event in tracker.push(i, time, probabilities[i])]
    return ended(found + tracker.finish())
