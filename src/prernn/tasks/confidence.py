"""Calibrates a network's confidence: temperature, a threshold for a given rate of false alarms, and "unknown"."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.layers.arguments import real
from prernn.streaming.events import EventRule, EventSpan, events_of
from prernn.streaming.prediction import Prediction

UNKNOWN = "unknown"
"""The label of an answer whose probability is too low."""


LIMIT = math.log(100)
"""Bound of the logarithm of a temperature, in both directions."""


@dataclass(frozen=True)
class Confidence:
    """How a stream's probabilities are calibrated.

    Attributes:
        temperature: T in ``softmax(logits / T)``; above 1 lowers the confidence.
        unknown_below: an answer with a probability below this is `UNKNOWN`.

    Raises:
        ValueError: a temperature not above 0, or a probability outside 0 to 1.
    """

    temperature: float = 1.0
    unknown_below: float = 0.0

    def __post_init__(self) -> None:
        real("temperature", self.temperature, 0, above=True)
        real("unknown_below", self.unknown_below, 0, 1)

    def calibrated(self, probabilities: Tensor) -> Tensor:
        """Probabilities ``(..., K)``, or any positive numbers proportional to them, at this temperature."""
        if self.temperature == 1:
            return probabilities
        # the logarithms are the logits up to a constant, to which the softmax is invariant
        return (probabilities.log() / self.temperature).softmax(-1)

    def named(self, label: str, probability: float) -> str:
        """The label, or `UNKNOWN` if its calibrated probability is too low."""
        return UNKNOWN if probability < self.unknown_below else label

    def of(self, prediction: Prediction) -> Prediction:
        """The prediction with calibrated probabilities; its label is `UNKNOWN` if the best of them is too low."""
        probabilities = self.calibrated(prediction.probabilities)
        best = float(probabilities.max())
        label = self.named(prediction.label, best)
        return dataclasses.replace(prediction, label=label, probability=best, probabilities=probabilities)


def found_events(
    times: Sequence[float],
    probabilities: Tensor,
    labels: Sequence[str],
    rule: EventRule,
    *,
    quiet: Sequence[int] = (),
    everything: bool = False,
) -> list[EventSpan]:
    """Like `prernn.streaming.events.events_of`; or everything that the rule would find with a lower ``high``.

    Args:
        times: T seconds, ascending.
        probabilities: ``(T, K)``, calibrated.
        labels: K names.
        rule: what makes an event.
        quiet: outputs that make no events.
        everything: find events with ``high`` as low as ``low``, and without a cool-down, in which a weak event could
            hide a strong one, as `threshold` requires.
    """
    rule = dataclasses.replace(rule, high=rule.low, cool_down=0.0) if everything else rule
    return events_of(times, probabilities, labels, rule, quiet)


def class_options(rule: EventRule, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
    """Options of a task whose events follow a rule, with this confidence, as plain data.

    The threshold, if given, becomes the rule's ``high``, within ``low`` and 1.
    """
    high = rule.high if threshold is None else min(max(threshold, rule.low), 1.0)
    events = dataclasses.asdict(dataclasses.replace(rule, high=high))
    return {"temperature": temperature, "unknown_below": unknown_below, "events": events}


def temperature(logits: Tensor, label: Tensor) -> float:
    """The temperature T above 0 that minimizes the cross entropy of ``softmax(logits / T)``, by LBFGS over ``log T``.

    It changes no answer, only the confidence (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017, section 4.2). Fit it on videos that the network was not trained on. If all answers are
    correct, the best temperature is 0, and if they are no better than chance, it is unbounded: T stays between 0.01
    and 100.

    Args:
        logits: ``(N, K)`` from held-out frames or clips.
        label: ``(N,)`` true classes.

    Raises:
        ValueError: shapes that don't match, no logits, or logits that are not finite.

    Example:
        >>> sure, label = 9.0 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
        >>> round((9 / torch.tensor(temperature(sure, label))).sigmoid().item(), 3)  # as sure as it is right: 8 of 10
        0.8
    """
    if logits.ndim != 2 or label.shape != logits.shape[:1] or not len(label):
        raise ValueError(f"expected logits (N, K) and labels (N,), got {tuple(logits.shape)} and {tuple(label.shape)}")
    logits = logits.detach().double()
    if not bool(logits.isfinite().all()):
        raise ValueError("expected logits that are finite, got others: has the network diverged?")
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / logarithm.clamp(-LIMIT, LIMIT).exp(), label)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]  # torch's annotation wants a float
    return float(logarithm.detach().clamp(-LIMIT, LIMIT).exp())


def threshold(events: Iterable[EventSpan], hours: float, per_hour: float) -> float:
    """The lowest score above which at most ``per_hour`` of these false events per hour remain.

    Pass the events of videos that show nothing the network knows, found with ``high`` equal to ``low``
    (`prernn.streaming.events.EventRule`, without a cool-down): with the result as ``high``, exactly those with at
    least this score are found there.

    Args:
        events: events that have ended.
        hours: hours of video in which they were found.
        per_hour: tolerated number per hour.

    Returns:
        A threshold, 0 if all may stay; above 1, which no event reaches, if even events of score 1 are too many.

    Raises:
        ValueError: hours not above 0, or a negative rate.

    Example:
        >>> seen = [EventSpan("wave", 0.0, 1.0, score, 0, 25) for score in (0.5, 0.9, 0.7)]
        >>> round(threshold(seen, hours=2.0, per_hour=0.5), 3)  # one in two hours
        0.7
    """
    real("hours", hours, 0, above=True)
    real("per_hour", per_hour, 0)
    scores = sorted((event.score for event in events), reverse=True)
    borne = int(hours * per_hour + 1e-9)
    if len(scores) <= borne:
        return 0.0
    # just above the first event that is one too many
    return math.nextafter(scores[borne], 2.0)
