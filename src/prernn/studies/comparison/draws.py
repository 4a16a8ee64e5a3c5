"""Which of the training videos a network learns from, and which are used to judge it."""

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
    """Training items split by video; the part for judging (``share`` of them) in its first pass only."""
    numbers = sorted({item["number"] for item in items})
    count = max(1, round(share * len(numbers)))
    judges = set(np.random.default_rng(0).permutation(numbers)[:count].tolist())
    rest, judged = ([item for item in items if (item["number"] in judges) is judging] for judging in (False, True))
    return rest, once(judged)


def beside(
    items: Items, labels: Sequence[int], chosen: Collection[int], share: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items of chosen videos, and others to judge them, in their first pass only.

    Judges are a share of the remaining videos of each class, at least one: a share of the few chosen videos could not
    distinguish learning rates. If a class has no remaining videos, its judges are taken from its chosen videos, which
    are then not learned from, except for one.

    Args:
        items: items of the training videos.
        labels: labels of the videos, by their number.
        chosen: numbers of the chosen videos.
        share: share of a class used for judging.

    Raises:
        ValueError: no videos are left for judging.
    """
    numbers, chance = sorted({item["number"] for item in items}), np.random.default_rng(0)
    judges: set[int] = set()
    for label in sorted({labels[number] for number in numbers}):
        own = [number for number in numbers if labels[number] == label]
        left = [number for number in own if number not in chosen]
        most = len(left) or len(own) - 1
        judges.update(chance.permutation(left or own)[: min(max(1, round(share * len(left or own))), most)].tolist())
    if not judges:
        raise ValueError("expected videos besides the drawn ones, to judge learning rates by, got none")
    train = [item for item in items if item["number"] in chosen and item["number"] not in judges]
    return train, once([item for item in items if item["number"] in judges])


def drawn(labels: Sequence[int], few: int, seed: int) -> list[int]:
    """Numbers of ``few`` videos of each label, or all if there are fewer, determined by the seed."""
    order = np.random.default_rng([few, seed]).permutation(len(labels)).tolist()
    counts: dict[int, int] = {}
    chosen = []
    for number in order:
        counts[labels[number]] = counts.get(labels[number], 0) + 1
        if counts[labels[number]] <= few:
            chosen.append(number)
    return sorted(chosen)
