"""Classes that are swapped by mirroring a picture: training must not mirror them."""

import re
from collections.abc import Sequence

OPPOSITES = {"left": "right", "clockwise": "counterclockwise", "east": "west", "l": "r", "cw": "ccw"}
"""Words that are swapped in a mirror."""

SWAPPED = OPPOSITES | {second: first for first, second in OPPOSITES.items()}
WORD = re.compile(r"left|right|counterclockwise|clockwise|east|west|(?<![a-z])(?:l|r|cw|ccw)(?![a-z])")


def mirrored_pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of labels that differ only by such words, such as "swipe left" and "swipe right"."""
    known = {_plain(label): label for label in labels}
    pairs = [(label, known.get(WORD.sub(lambda word: SWAPPED[word[0]], name))) for name, label in known.items()]
    return sorted({(min(a, b), max(a, b)) for a, b in pairs if b is not None and a != b})


def mirroring(flip: bool, labels: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    """Whether training may mirror videos of these classes, and a line that says so if it may not although requested."""
    pairs = mirrored_pairs(labels) if flip else []
    if not pairs:
        return flip, ()
    more = f" (and {len(pairs) - 1} more pairs)" if len(pairs) > 1 else ""
    return False, (f"flip is off: mirrored, {pairs[0][0]!r} would be {pairs[0][1]!r}{more}",)


def _plain(label: str) -> str:
    return re.sub(r"(?:counter|anti)[ _-]?clockwise", "counterclockwise", label.lower())
