"""Which of the training videos a network learns from, and which judge it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prernn.training.frozen_trunk.learner import Items


def held_out(items: Items, share: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training items in two, apart by video; the part that judges (``share`` of them) in its first pass alone."""
    numbers = sorted({item["number"] for item in items})
    count = max(1, round(share * len(numbers)))
    judges = set(np.random.default_rng(0).permutation(numbers)[:count].tolist())
    seen, judged = set(), []
    for item in items:
        if item["number"] in judges and item["number"] not in seen:
            seen.add(item["number"])
            judged.append(item)
    return [item for item in items if item["number"] not in judges], judged


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
