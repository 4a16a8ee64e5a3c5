"""Which of the training videos a network learns from, and which judge it."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from prernn.training.frozen_trunk.learner import Items


def once(items: Items) -> list[dict[str, Any]]:
    """Each video in its first pass."""
    first: dict[int, dict[str, Any]] = {}
    for item in items:
        first.setdefault(item["number"], item)
    return list(first.values())


def held_out(items: Items, share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training items in two, apart by video; the part that judges (``share`` of them) in its first pass alone."""
    numbers = sorted({item["number"] for item in items})
    count = max(1, round(share * len(numbers)))
    judges = set(np.random.default_rng(0).permutation(numbers)[:count].tolist())
    rest, judged = ([item for item in items if (item["number"] in judges) is judging] for judging in (False, True))
    return rest, once(judged)


def beside(
    items: Items, labels: Sequence[int], chosen: Collection[int], share: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items of chosen videos, and others that judge them, in their first pass alone.

    Judges are a share of what is left of each class, one video at least: a quarter of so few could not tell one rate
    from another. Of a class of which nothing is left they are of its chosen videos, which then are not learnt from,
    but for one.

    Args:
        items: of the training videos.
        labels: of the videos, by their number.
        chosen: numbers of videos.
        share: of a class that judges.

    Raises:
        ValueError: nothing is left to judge by.
    """
    numbers, chance = sorted({item["number"] for item in items}), np.random.default_rng(0)
    judges: set[int] = set()
    for label in sorted({labels[number] for number in numbers}):
        own = [number for number in numbers if labels[number] == label]
        left = [number for number in own if number not in chosen]
        most = len(left) or len(own) - 1
        judges.update(chance.permutation(left or own)[: min(max(1, round(share * len(left or own))), most)].tolist())
    if not judges:
        raise ValueError("expected videos beside those that are drawn, to judge learning rates by, got none")
    train = [item for item in items if item["number"] in chosen and item["number"] not in judges]
    return train, once([item for item in items if item["number"] in judges])


def drawn(labels: Sequence[int], few: int, seed: int) -> list[int]:
    """Numbers of ``few`` videos of each label, fewer where there are no more, by the seed."""
    order = np.random.default_rng([few, seed]).permutation(len(labels)).tolist()
    counts: dict[int, int] = {}
    chosen = []
    for number in order:
        counts[labels[number]] = counts.get(labels[number], 0) + 1
        if counts[labels[number]] <= few:
            chosen.append(number)
    return sorted(chosen)
