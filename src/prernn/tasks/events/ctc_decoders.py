"""Decodes gestures from the outputs of a network trained with CTC, as the outputs arrive.

CTC (Graves, Fernandez, Gomez and Schmidhuber, "Connectionist Temporal Classification", ICML 2006) reads one output per
step, over K - 1 labels and the blank 0, here "no gesture". A path, one output per step, stands for the labels that
remain when repeats are merged and blanks dropped; the probability of a labeling is the sum over all its paths.

A decoder takes the log-probabilities of one step after the other and returns `Event`s. What it has reported is never
revised. All numbers of steps count from 0 when the decoder is created or `reset`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from prernn.layers.arguments import check_lengths, real, whole

BLANK = 0
"""The output that means no gesture."""

CLOSE = 0.1
"""How far the sum of probabilities may differ from 1: logarithms in bfloat16 have two digits."""


@dataclass(frozen=True)
class Event:
    """A gesture begins, or one that began earlier has ended. Begins and ends alternate; gestures don't overlap.

    Attributes:
        kind: "begin", reported as soon as the decoder is certain of the label, or "end".
        label: 1 to K - 1.
        begin: step in which the gesture began, at most ``step``.
        end: the step after its last one; None in a "begin".
        step: step at whose arrival the event was reported (the number of steps, if `Decoder.finish` reported it).
        probability: of the label. Greedy: the highest of its steps so far. Beam: the share of the beam that agreed.
    """

    kind: Literal["begin", "end"]
    label: int
    begin: int
    end: int | None
    step: int
    probability: float


class Decoder:
    """What decoders have in common. All state is in plain attributes, so `copy.deepcopy` copies it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything it has seen."""
        self.steps = 0
        self.open: Event | None = None
        """The gesture that has begun but not ended."""
        self._outputs = 0  # K, known from the first step on

    def push(self, log_probs: Tensor) -> list[Event]:
        """Takes the log-probabilities ``(K,)`` of the next step; returns the events that are now certain.

        Raises:
            ValueError: a wrong shape or type, or numbers that are not log-probabilities.
        """
        scores = self._checked(log_probs)
        events = self._step(scores)
        self.steps += 1
        return events

    def finish(self) -> list[Event]:
        """Returns the events that remain after the last step; then the decoder is reset."""
        events = self._last()
        self.reset()
        return events

    def events(self, log_probs: Tensor) -> list[Event]:
        """All events of a sequence ``(T, K)``, from a fresh start. Raises ValueError like `push`."""
        _check_type(log_probs)
        if log_probs.ndim != 2:
            raise ValueError(f"expected log-probabilities (T, K), got shape {tuple(log_probs.shape)}")
        self.reset()
        events = [event for step in log_probs.detach().cpu() for event in self.push(step)]
        return events + self.finish()

    def decode(self, log_probs: Tensor) -> list[int]:
        """The labels of a sequence ``(T, K)``, from a fresh start. Raises ValueError like `push`."""
        return [event.label for event in self.events(log_probs) if event.kind == "begin"]

    def _step(self, scores: list[float]) -> list[Event]:
        raise NotImplementedError

    def _last(self) -> list[Event]:
        raise NotImplementedError

    def _checked(self, log_probs: Tensor) -> list[float]:
        _check_type(log_probs)
        if log_probs.ndim != 1 or len(log_probs) < 2 or self._outputs not in (0, len(log_probs)):
            wanted = f"({self._outputs},)" if self._outputs else "(K,) of at least 2 outputs"
            raise ValueError(f"expected log-probabilities {wanted}, got shape {tuple(log_probs.shape)}")
        scores = [float(score) for score in log_probs.tolist()]
        total = math.fsum(math.exp(min(score, 1.0)) for score in scores)  # NaN stays
        if not abs(total - 1) < CLOSE:
            raise ValueError(f"step {self.steps}: expected log-probabilities, whose sum is 1, got {scores}")
        self._outputs = len(scores)
        return scores

    def _begin(self, label: int, begin: int, probability: float) -> Event:
        self.open = Event("begin", label, begin, None, self.steps, probability)
        return self.open

    def _end(self, end: int) -> Event:
        assert self.open is not None
        event = replace(self.open, kind="end", end=end, step=self.steps)
        self.open = None
        return event


class GreedyDecoder(Decoder):
    """The most probable output of each step; repeats are merged and blanks dropped.

    A gesture begins in the first step in which its label is the most probable, and ends when another output becomes so.

    Args:
        threshold: a label with a probability below this counts as no gesture.

    Raises:
        ValueError: a threshold outside 0 to 1.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = real("threshold", threshold, 0, 1)
        super().__init__()

    def _step(self, scores: list[float]) -> list[Event]:
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
        probability = math.exp(scores[best])
        label = best if probability >= self.threshold else BLANK
        if self.open is not None and label == self.open.label:
            self.open = replace(self.open, probability=max(self.open.probability, probability))
            return []
        events = [self._end(self.steps)] if self.open is not None else []
        return [*events, self._begin(label, self.steps, probability)] if label != BLANK else events

    def _last(self) -> list[Event]:
        return [self._end(self.steps)] if self.open is not None else []


class _Ending(NamedTuple):
    """The paths of one labeling with the same ending, in a blank or in the last label.

    mass: logarithm of the sum of their probabilities.
    best: logarithm of the largest of these.
    spans: (first step, step after the last) of each label in the most probable path.
    """

    mass: float = -math.inf
    best: float = -math.inf
    spans: tuple[tuple[int, int], ...] = ()


class _Prefix(NamedTuple):
    """A labeling so far: its paths ending in a blank, and those ending in its last label."""

    blank: _Ending = _Ending()
    label: _Ending = _Ending()

    @property
    def mass(self) -> float:
        return _log_add(self.blank.mass, self.label.mass)

    @property
    def likelier(self) -> _Ending:
        """The ending that contains the most probable path."""
        return max(self, key=lambda ending: ending.best)


class BeamDecoder(Decoder):
    """The most probable labeling, by prefix beam search: it follows the ``width`` most probable labelings.

    A label is reported as soon as the labelings that agree on it, and on all labels before it, make up the share
    ``certainty`` of the beam; the others are dropped. The steps in which it begins and ends are those of the most
    probable path of the most probable labeling; its end is reported once most of that labeling's paths have left it.
    With ``width=None, certainty=1, patience=None`` the result is exactly the most probable labeling.

    Args:
        width: number of labelings to follow; None for all, whose number grows as K to the power of T.
        certainty: share, above 0.5 and up to 1.
        patience: steps after which the most probable labeling is trusted about what began, and what did not. It
            bounds memory and delay on an endless stream, in which an undecided label would hold up all later gestures
            and a faint label would add up to a gesture; None waits for certainty.

    Raises:
        ValueError: numbers out of these ranges.
    """

    def __init__(self, width: int | None = 10, *, certainty: float = 0.9, patience: int | None = 12) -> None:
        self.width = None if width is None else whole("width", width)
        self.certainty = real("certainty", certainty, 0.5, 1, above=True)
        self.patience = None if patience is None else whole("patience", patience)
        super().__init__()

    def reset(self) -> None:
        """Forgets everything it has seen."""
        super().reset()
        # Labellings without what was reported before, except the last label, to recognize a repeat of it.
        self._beam: dict[tuple[int, ...], _Prefix] = {(): _Prefix(blank=_Ending(0.0, 0.0))}
        self._given = 0  # number of leading labels of every labeling in the beam that were reported: 0 or 1
        self._free = 0  # step from which on a gesture can begin

    def _step(self, scores: list[float]) -> list[Event]:
        grown = _grown(self._beam, scores, self.steps)
        order = sorted(grown.items(), key=lambda item: -item[1].mass)[: self.width]
        top = order[0][1].mass
        # Relative to the most probable one, because logarithms would lose digits over a long stream.
        self._beam = {
            labels: _Prefix(*(ending._replace(mass=ending.mass - top, best=ending.best - top) for ending in prefix))
            for labels, prefix in order
        }
        return self._old() + self._certain() + self._ended()

    def _last(self) -> list[Event]:
        events: list[Event] = []
        labels = next(iter(self._beam))
        for label in labels[self._given :]:
            events += self._give(label)
        if self.open is not None:
            end = self._beam[labels[-1:]].likelier.spans[0][1]
            events.append(self._end(max(end, self.open.begin + 1)))
        return events

    def _old(self) -> list[Event]:
        """Reports what began too long ago in the best labeling; labelings that contradict it are dropped."""
        if self.patience is None:
            return []
        old = self.steps - self.patience
        labels = next(iter(self._beam))
        events = []
        while len(labels) > self._given and self._next_begin(labels) <= old:
            given = self._given
            events += self._give(labels[given])
            labels = labels[given:]
        self._beam = {
            labels: prefix
            for labels, prefix in self._beam.items()
            if len(labels) == self._given or self._next_begin(labels) > old
        }
        return events

    def _certain(self) -> list[Event]:
        """Reports the labels on which enough of the beam agrees."""
        events: list[Event] = []
        while True:
            shares: dict[int, float] = {}  # by the next label, BLANK if there is none
            for labels, prefix in self._beam.items():
                label = labels[self._given] if len(labels) > self._given else BLANK
                shares[label] = shares.get(label, 0.0) + math.exp(prefix.mass)
            label = max(shares, key=shares.__getitem__)
            others = math.fsum(share for other, share in shares.items() if other != label)
            # By the rest, which keeps its digits. Certainty 1 is reached if nothing else is possible.
            doubt = others > (1 - self.certainty) * (others + shares[label])
            if label == BLANK or doubt or (self.certainty == 1 and len(shares) > 1):
                return events
            events += self._give(label)

    def _ended(self) -> list[Event]:
        """Reports the end of the current gesture, if most of the best labeling's paths have left it."""
        if self.open is None:
            return []
        labels, prefix = next(iter(self._beam.items()))
        if len(labels) == self._given and prefix.label.mass > prefix.blank.mass:
            return []
        ending = prefix.likelier if len(labels) > self._given else prefix.blank
        return [self._end(max(ending.spans[0][1], self.open.begin + 1))]

    def _next_begin(self, labels: tuple[int, ...]) -> int:
        """The step in which the first label that was not reported yet begins."""
        return self._beam[labels].likelier.spans[self._given][0]

    def _give(self, label: int) -> list[Event]:
        """The event that `label` begins, after the end of the previous gesture; drops all labelings that disagree."""
        place = self._given
        agree = {labels: prefix for labels, prefix in self._beam.items() if labels[place : place + 1] == (label,)}
        everything, those = (sum(math.exp(x.mass) for x in beam.values()) for beam in (self._beam, agree))
        spans = next(iter(agree.values())).likelier.spans
        # The previous gesture may be from another labeling's path: it gives way if the two overlap.
        begin = max(spans[place][0], self._free, self.open.begin if self.open else 0)
        events = [self._end(min(max(spans[0][1], self.open.begin + 1), begin))] if self.open is not None else []
        self._beam = {
            labels[place:]: _Prefix(*(ending._replace(spans=ending.spans[place:]) for ending in prefix))
            for labels, prefix in agree.items()
        }
        self._given = 1
        return [*events, self._begin(label, begin, those / everything)]

    def _end(self, end: int) -> Event:
        event = super()._end(end)
        self._free = event.end or 0
        return event


DECODERS: dict[str, type[Decoder]] = {"greedy": GreedyDecoder, "beam": BeamDecoder}


def make_decoder(kind: str, options: dict[str, Any] | None = None) -> Decoder:
    """A decoder by its name in `DECODERS`, with its constructor's options.

    Raises:
        ValueError: an unknown name, options that this decoder does not have or accept.
    """
    if kind not in DECODERS:
        raise ValueError(f"decoder: expected one of {sorted(DECODERS)}, got {kind!r}")
    try:
        return DECODERS[kind](**(options or {}))
    except TypeError as error:
        raise ValueError(f"decoder {kind!r}: {error}") from error


def label_scores(log_probs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """``log p([k])`` of every labeling of one label, ``(K - 1,)`` from ``(T, K)``; ``(B, K - 1)`` from ``(B, T, K)``.

    The paths of the labeling ``[k]`` are blanks, then ``k`` at least once, then blanks.

    Args:
        log_probs: log-probabilities with the blank at 0.
        lengths: ``(B,)`` steps of each sequence; what follows is padding. None takes all.

    Raises:
        ValueError: shapes that don't match, lengths outside 1..T, numbers that are not log-probabilities. NaN gives
            NaN.
    """
    _check_type(log_probs)
    if log_probs.ndim == 2 and lengths is None:
        return label_scores(log_probs[None])[0]
    if log_probs.ndim != 3 or log_probs.shape[1] < 1 or log_probs.shape[2] < 2:
        raise ValueError(f"expected log-probabilities (T, K), or (B, T, K), got shape {tuple(log_probs.shape)}")
    batch, steps, outputs = log_probs.shape
    lengths = check_lengths([steps] * batch if lengths is None else lengths, steps, batch, log_probs.device, least=1)
    assert lengths is not None  # not None from here on
    lengths = lengths[:, None]
    total = log_probs.detach().exp().sum(2)[torch.arange(steps, device=log_probs.device) < lengths]
    if bool(((total - 1).abs() >= CLOSE).any()):
        raise ValueError(f"expected log-probabilities, whose sum is 1 in every step, got sums up to {total.max():.3g}")
    before = log_probs.new_zeros(batch, 1)  # the sum of the paths that have not reached the label yet
    within = log_probs.new_full((batch, outputs - 1), -math.inf)  # ... that are in it
    after = within  # ... that have left it
    for step in range(steps):
        blank, label = log_probs[:, step, :1], log_probs[:, step, 1:]
        valid = step < lengths
        after, within, before = (
            torch.where(valid, torch.logaddexp(after, within) + blank, after),
            torch.where(valid, torch.logaddexp(within, before) + label, within),
            before + blank,
        )
    return torch.logaddexp(within, after)  # (B, K - 1)


def _check_type(log_probs: Tensor) -> None:
    if not isinstance(log_probs, Tensor) or not log_probs.is_floating_point():
        got = str(log_probs.dtype) if isinstance(log_probs, Tensor) else type(log_probs).__name__
        raise ValueError(f"expected log-probabilities as a tensor of floats, got {got}")


def _grown(beam: dict[tuple[int, ...], _Prefix], scores: list[float], step: int) -> dict[tuple[int, ...], _Prefix]:
    """The labelings that a beam grows into with one more step; impossible ones are left out."""
    grown: dict[tuple[int, ...], _Prefix] = {}

    def add(labels: tuple[int, ...], place: int, paths: _Ending, score: float, spans: tuple) -> None:
        if paths.mass + score == -math.inf:
            return
        endings = list(grown.get(labels, _Prefix()))
        endings[place] = _joined(endings[place], _Ending(paths.mass + score, paths.best + score, spans))
        grown[labels] = _Prefix(*endings)

    for labels, prefix in beam.items():
        likelier = prefix.likelier
        both = _Ending(prefix.mass, likelier.best, likelier.spans)
        add(labels, 0, both, scores[BLANK], both.spans)
        for label in range(1, len(scores)):
            paths = both
            if labels[-1:] == (label,):
                if prefix.label.spans:
                    longer = (*prefix.label.spans[:-1], (prefix.label.spans[-1][0], step + 1))
                    add(labels, 1, prefix.label, scores[label], longer)
                paths = prefix.blank  # the same label again, which must be separated from the previous one by a blank
            add((*labels, label), 1, paths, scores[label], (*paths.spans, (step, step + 1)))
    return grown


def _joined(first: _Ending, second: _Ending) -> _Ending:
    best = max(first, second, key=lambda ending: ending.best)
    return best._replace(mass=_log_add(first.mass, second.mass))


def _log_add(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
