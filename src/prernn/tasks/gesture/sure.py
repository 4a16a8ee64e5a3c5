"""Keeps only the gestures of which the network is sure enough."""

from dataclasses import replace

import torch

from prernn.layers.arguments import real, whole
from prernn.tasks.events.ctc_decoders import Decoder, Event


class SureGestures(Decoder):
    """The events of another decoder whose probability reaches a threshold.

    A begin is reported as soon as it does, which may be later than the other decoder reports it; an event that never
    does, or not within ``patience`` steps, is dropped.

    Example:
        >>> import torch
        >>> from prernn.tasks.events.ctc_decoders import GreedyDecoder
        >>> decoder = SureGestures(GreedyDecoder(), 0.8)
        >>> p = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1], [0.3, 0.7], [0.9, 0.1]])
        >>> [(event.kind, event.begin, event.end, event.step) for event in decoder.events(p.log())]
        [('begin', 1, None, 2), ('end', 1, 3, 3)]

    Args:
        decoder: finds the gestures.
        threshold: probability that an event must reach.
        patience: number of steps within which it must do so.

    Raises:
        ValueError: a threshold outside 0 to 1, a patience below 1.
    """

    def __init__(self, decoder: Decoder, threshold: float, patience: int = 64) -> None:
        self.decoder, self.threshold = decoder, real("threshold", threshold, 0, 1)
        self.patience = whole("patience", patience)
        super().__init__()

    def reset(self) -> None:
        """Forgets everything it has seen."""
        super().reset()
        self.decoder.reset()

    def _step(self, scores: list[float]) -> list[Event]:
        found = self.decoder.push(torch.tensor(scores, dtype=torch.float64))
        return [*self._ends(found), *self._begins()]

    def _last(self) -> list[Event]:
        return self._ends(self.decoder.finish())

    def _ends(self, found: list[Event]) -> list[Event]:
        """Ends of reported gestures; for one that begins and ends at once, both events, if it is sure enough."""
        events: list[Event] = []
        for event in found:
            if event.kind == "begin":
                continue
            if self.open is None and event.probability >= self.threshold and self._young(event):
                events.append(replace(event, kind="begin", end=None, step=self.steps))
                self.open = events[-1]
            if self.open is not None:
                events.append(event)
                self.open = None
        return events

    def _begins(self) -> list[Event]:
        """The begin of the other decoder's open gesture, once it is sure enough, with its current probability."""
        going = self.decoder.open
        if going is None:
            return []
        if self.open is not None:
            self.open = replace(self.open, probability=going.probability)
        elif going.probability >= self.threshold and self._young(going):
            self.open = replace(going, step=self.steps)
            return [self.open]
        return []

    def _young(self, event: Event) -> bool:
        return self.steps - event.begin <= self.patience
