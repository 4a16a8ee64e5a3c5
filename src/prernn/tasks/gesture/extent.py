"""When a gesture begins and ends, from a network that was trained to spike.

A network trained with CTC says "no gesture" nearly everywhere, and is confident of a gesture in only a step or two,
mostly when it is over. Around that spike, though, the probability of some gesture is higher than at rest. This extent
is taken as that of the event here.
"""

import math
from collections import deque
from dataclasses import replace
from typing import Any

import torch

from prernn.layers.arguments import real, whole
from prernn.tasks.events.ctc_decoders import BLANK, Decoder, Event, make_decoder
from prernn.tasks.gesture.sure import SureGestures

DEFAULT_EXTENT = 0.2
"""Share of the way from rest to peak at which a gesture begins and ends; chosen on training videos."""

FAINTEST = 1e-6
"""Probabilities of some gesture below this are treated as equal, because the logarithms of smaller ones are noise."""


class WholeGestures(Decoder):
    """The events of another decoder, extended from the begin to the end of the gesture.

    The evidence of a step is the log-odds of some gesture, ``log((1 - p_blank) / p_blank)``. An event extends backward
    and forward over neighboring steps in which the evidence is above ``rest + share (peak - rest)``: peak is the
    highest in the event so far, rest the lowest of the latest ``reach`` steps. Events don't overlap: none begins before
    the previous one ended. A begin is reported when the other decoder reports it; an end as soon as the evidence falls.

    Args:
        decoder: finds the gestures.
        share: share of the way from rest to peak, from 0 to 1.
        reach: number of steps that are remembered.

    Raises:
        ValueError: a share outside 0 to 1, a reach below 1.
    """

    def __init__(self, decoder: Decoder, share: float = DEFAULT_EXTENT, reach: int = 16) -> None:
        self.decoder, self.share, self.reach = decoder, real("extent", share, 0, 1), whole("reach", reach)
        super().__init__()

    def reset(self) -> None:
        """Forgets everything it has seen."""
        super().reset()
        self.decoder.reset()
        self._evidence: deque[float] = deque(maxlen=self.reach)  # of the latest steps
        self._seen = 0
        self._ending: Event | None = None  # whose end the other decoder has reported
        self._free = 0  # step from which on a gesture can begin

    def _step(self, scores: list[float]) -> list[Event]:
        self._evidence.append(_log_odds(scores[BLANK]))
        self._seen += 1
        found = self.decoder.push(torch.tensor(scores, dtype=torch.float64))
        return [event for one in found for event in self._take(one)] + self._close(self._seen)

    def _last(self) -> list[Event]:
        found = self.decoder.finish()
        return [event for one in found for event in self._take(one)] + self._close(self._seen, at_once=True)

    def _take(self, event: Event) -> list[Event]:
        """Handles an event of the other decoder; its end waits for the evidence to fall."""
        if event.kind == "end":
            self._ending = event
            return []
        before = self._close(event.begin, at_once=True)
        begin, level = event.begin, self._level(event.begin, self._seen)
        while begin > self._free and self._above(begin - 1, level):
            begin -= 1
        self.open = replace(event, begin=begin)
        return [*before, self.open]

    def _close(self, stop: int, *, at_once: bool = False) -> list[Event]:
        """The end of the event that is waiting for it, before step ``stop``: once the evidence falls, or at once."""
        if self._ending is None or self._ending.end is None or self.open is None:
            return []
        end, level = self._ending.end, self._level(self._ending.begin, self._ending.end)
        while end < stop and self._above(end, level):
            end += 1
        if self._above(end - 1, level) and end >= stop > self._ending.end and not at_once:
            return []  # it goes on
        event = replace(self._ending, begin=self.open.begin, end=end, step=self.steps)
        self.open, self._ending, self._free = None, None, end
        return [event]

    def _level(self, begin: int, end: int) -> float:
        """The evidence required of neighbors of steps ``begin`` to ``end - 1``; infinite once these are forgotten."""
        first = self._seen - len(self._evidence)
        own = [value for step, value in enumerate(self._evidence, first) if begin <= step < end]
        rest = min(self._evidence)
        return rest + self.share * (max(own) - rest) if own else math.inf

    def _above(self, step: int, level: float) -> bool:
        place = step - (self._seen - len(self._evidence))
        return 0 <= place < len(self._evidence) and self._evidence[place] > level


def gesture_decoder(
    kind: str, options: dict[str, Any] | None = None, extent: float = DEFAULT_EXTENT, threshold: float = 0.0
) -> Decoder:
    """A decoder by its name (`prernn.tasks.events.ctc_decoders.make_decoder`) whose events are whole gestures.

    Args:
        kind: the name.
        options: options of its constructor.
        extent: share of `WholeGestures`; at 1 events are left as the decoder finds them.
        threshold: threshold of `prernn.tasks.gesture.sure.SureGestures`; at 0 all events are kept.

    Raises:
        ValueError: an unknown name or options, an extent or threshold outside 0 to 1.
    """
    decoder = make_decoder(kind, options)
    if real("threshold", threshold, 0, 1) > 0:
        decoder = SureGestures(decoder, threshold)
    return decoder if real("extent", extent, 0, 1) == 1 else WholeGestures(decoder, extent)


def _log_odds(blank: float) -> float:
    """The log-odds of some gesture, from the log-probability of none."""
    some = min(max(-math.expm1(min(blank, 0.0)), FAINTEST), 1 - FAINTEST)
    return math.log(some / (1 - some))
