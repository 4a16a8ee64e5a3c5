"""How well found events agree with the true ones: overlap in time, and which were found.

Source: Lea, Flynn, Vidal, Reiter and Hager, "Temporal Convolutional Networks for Action Segmentation and Detection",
CVPR 2017 (the segmental F1 score and its thresholds on temporal IoU).
"""

from collections.abc import Sequence
from typing import NamedTuple

LEVELS = (0.1, 0.25, 0.5)
"""The temporal IoUs from which on a found event counts, as in Lea et al."""


class Interval(NamedTuple):
    """A label's interval from ``begin`` up to, but not including, ``end``; in any unit of time."""

    label: int
    begin: float
    end: float


class Match(NamedTuple):
    """A found event and the true one that it matches, by their positions in their lists, and the IoU of the two."""

    found: int
    true: int
    iou: float


def temporal_iou(first: Interval, second: Interval) -> float:
    """Time in both over time in either, ``|A ∩ B| / |A ∪ B|``, 0 to 1; labels are ignored.

    Example:
        >>> temporal_iou(Interval(1, 0, 4), Interval(1, 2, 6))
        0.3333333333333333
    """
    both = max(0.0, min(first.end, second.end) - max(first.begin, second.begin))
    either = (first.end - first.begin) + (second.end - second.begin) - both
    return both / either if either > 0 else 0.0


def matches(found: Sequence[Interval], true: Sequence[Interval], least: float) -> list[Match]:
    """Which true event each found one matches, counted as in Lea et al.

    Each found event, in order, matches the true event of its label with the greatest IoU, if that is above 0 and at
    least ``least`` and no earlier one has matched it. All others are false alarms.
    """
    pairs: list[Match] = []
    taken: set[int] = set()
    for place, event in enumerate(found):
        overlaps = [(temporal_iou(event, other), i) for i, other in enumerate(true) if other.label == event.label]
        iou, best = max(overlaps, key=lambda pair: (pair[0], -pair[1]), default=(0.0, -1))
        if iou > 0 and iou >= least and best not in taken:
            taken.add(best)
            pairs.append(Match(place, best, iou))
    return pairs


def f1(hits: float, found: float, true: float) -> float:
    """``2 P R / (P + R)`` of precision ``hits / found`` and recall ``hits / true``; NaN without any event.

    Example:
        >>> f1(2, 4, 2)
        0.6666666666666666
    """
    return 2 * hits / (found + true) if found + true else float("nan")


def first_right(answers: Sequence[int], true: Sequence[Interval]) -> list[int | None]:
    """Steps from the begin of each true event to the first correct answer in it; None if there is none.

    Args:
        answers: the label of each step.
        true: events in whole steps.
    """
    return [
        next((i - begin for i in range(begin, min(end, len(answers))) if answers[i] == label), None)
        for label, begin, end in ((event.label, int(event.begin), int(event.end)) for event in true)
    ]
