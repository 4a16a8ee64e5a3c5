"""The goals of speed, and how close a run came to them and to the floors of its machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from prernn.benchmarks.measuring import candidates
from prernn.benchmarks.measuring.report import Row
from prernn.benchmarks.measuring.timing import Ceilings, Work, layer_work, recurrence_work

MAIN = (16, 8, 2048)
LONG = (64, 32, 512)
STEP = (1, 1, 2048)
"""Shapes ``(T, B, D)`` of the goals."""
CELL_LOOP = "torch.nn cell loop"
SIH = "prernn SIH diagonal"


@dataclass(frozen=True)
class Goal:
    """``ours`` should be ``target`` times faster than ``theirs``.

    With ``at_most`` it should take at most ``target`` times as long. LSTM, one thread. ``prototype`` is what a
    prototype reached.
    """

    part: str
    mode: str
    shape: candidates.Shape
    ours: str
    theirs: str
    target: float
    prototype: str = ""
    at_most: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        """The measured ratio to compare with `target`."""
        return ours / theirs if self.at_most else theirs / ours

    def met(self, ratio: float) -> bool:
        """Whether a measured ratio is good enough."""
        return ratio <= self.target if self.at_most else ratio >= self.target

    def work(self) -> Work:
        """The minimum work of our side."""
        cell, hidden = candidates.KINDS["lstm"].cell, self.ours.split()[-1]
        count = recurrence_work if self.part == "recurrence" else layer_work
        work = count(cell, "lstm", hidden, self.shape, shared="SIH" in self.ours)
        return work.training() if self.mode == "training" else work


LOOPS = (
    ("forward", MAIN, 5, "4.4-5.5"),
    ("forward", LONG, 5, "4.4-5.5"),
    ("training", MAIN, 8, "5.3"),
    ("training", LONG, 18, "17.9"),
)
"""Goals against a plain torch loop, which can be written in two ways (`candidates.recurrences`)."""

GOALS = {
    "cpu": (
        Goal("recurrence", "forward", MAIN, "diagonal", "full", 100, "240"),
        *(
            Goal("recurrence", mode, shape, "diagonal", f"diagonal, {loop} loop", target, prototype)
            for loop in ("indexed", "torch")
            for mode, shape, target, prototype in LOOPS
        ),
        Goal("recurrence", "forward", MAIN, "band:3", "diagonal", 1.8, "1.6-2.1", at_most=True),
        Goal("recurrence", "forward", LONG, "band:3", "diagonal", 1.8, "1.6-2.1", at_most=True),
        Goal("layer", "forward", MAIN, "prernn diagonal", candidates.TORCH, 10, "10"),
        Goal("layer", "forward", MAIN, SIH, candidates.TORCH, 35, "35"),
        Goal("layer", "forward", LONG, "prernn diagonal", candidates.TORCH, 2.5, "2.4"),
        Goal("layer", "forward", LONG, SIH, candidates.TORCH, 7, "6.6"),
        Goal("layer", "forward", STEP, "prernn diagonal", CELL_LOOP, 2.7),
        Goal("layer", "forward", STEP, SIH, CELL_LOOP, 9),
        Goal("layer", "training", MAIN, "prernn diagonal", candidates.TORCH, 3.2, "3.1"),
        Goal("layer", "training", MAIN, SIH, candidates.TORCH, 13, "12.2"),
    ),
    "cuda": (
        Goal("recurrence", "forward", MAIN, "diagonal", candidates.ESTIMATE, 10),
        Goal("recurrence", "training", MAIN, "diagonal", candidates.ESTIMATE, 10),
        Goal("recurrence", "forward", LONG, "diagonal", candidates.ESTIMATE, 10),
        Goal("recurrence", "training", LONG, "diagonal", candidates.ESTIMATE, 10),
    ),
}


def check(rows: Sequence[Row], wanted: Sequence[Goal], ceilings: Ceilings) -> list[dict]:
    """Each goal whose rows were measured with one thread: ratio, floor of our side, and how close we are to it."""
    found = {row.key(): row.times.median for row in rows if row.times}
    lines = []
    for goal in wanted:
        keys = [(1, goal.part, goal.mode, "lstm", goal.shape, name) for name in (goal.ours, goal.theirs)]
        if not all(key in found for key in keys):
            continue
        ours, theirs = (found[key] for key in keys)
        ratio = goal.ratio(ours, theirs)
        floor, bound = ceilings.floor(goal.work())
        lines.append(
            {
                "part": goal.part,
                "mode": goal.mode,
                "TxBxD": "x".join(map(str, goal.shape)),
                "ours": goal.ours,
                "theirs": goal.theirs,
                "goal": f"{'<=' if goal.at_most else '>='} {goal.target:g}",
                "prototype": goal.prototype,
                "measured": f"{ratio:.3g}",
                "met": "yes" if goal.met(ratio) else "no",
                "ours, ms": f"{1e3 * ours:.3g}",
                "floor, ms": f"{1e3 * floor:.3g}",
                "% of floor": f"{floor / ours:.0%}",
                "floor set by": bound,
            }
        )
    return lines
