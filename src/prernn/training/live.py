"""Evaluation as on a camera: one video after the other, without resetting the state."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.sequence_network import NetworkState
from prernn.streaming.pace import Pace
from prernn.tasks.task import Metrics
from prernn.training.batches import collate, of_each_frame
from prernn.training.evaluation import Advance

PIECE = 500
"""Number of frames at a time of a still picture."""


def random_orders(items: int, orders: int, seed: int = 0) -> list[list[int]]:
    """Random orders of ``items`` items, determined by the seed."""
    return [np.random.default_rng([seed, number]).permutation(items).tolist() for number in range(orders)]


def evaluate_live(
    advance: Advance, metrics: Metrics, items: Sequence[dict[str, Any]], orders: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """A task's metrics over items in several orders, through each of which one state is carried from first to last.

    The orders are parallel streams, so they take little longer than one.

    Args:
        advance: the network, or the part behind its trunk.
        metrics: new metrics of the task.
        items: videos, or the trunk's outputs for them.
        orders: orders of their numbers.
    """
    state: NetworkState | None = None
    with torch.inference_mode():
        for numbers in zip(*orders, strict=True):
            # here a piece of a video continues from whatever came before it
            rows = ({name: value for name, value in items[n].items() if name != "goes_on"} for n in numbers)
            batch = collate(list(rows))
            out, state = advance(batch, state)
            metrics.update(out.float(), batch)
    return metrics.compute()


def at_rate(item: dict[str, Any], rate: float) -> dict[str, Any]:
    """An item as a camera at ``rate`` times the frame rate would deliver it: frames are repeated or left out.

    All tensors with one row per frame change in the same way, ``input (T, ...)`` to ``(max(1, T rate), ...)``.
    """
    steps = len(item["input"])
    shown = torch.arange(max(1, int(steps * rate + 1e-6))).div(rate).add(1e-6).long().clamp(max=steps - 1)
    return of_each_frame(item, lambda value: value[shown])


def through_clock(item: dict[str, Any], rate: float) -> dict[str, Any]:
    """What a stream at the network's rate shows it from such a camera (`prernn.streaming.pace`)."""
    seen = at_rate(item, rate)
    stamps = ((number / rate, number) for number in range(len(seen["input"])))
    shown = torch.tensor([number for _, number in Pace(1.0)(stamps)])
    return of_each_frame(seen, lambda value: value[shown])


def stand_still(advance: Advance, item: dict[str, Any], frames: int) -> dict[str, float]:
    """What a network does while the last picture of a video stands still for a number of frames.

    Returns:
        ``changes``, how often the best output changes, not counting the first answer to the picture; ``drift``, the
        largest change of an output after the first tenth of the frames; ``largest``, the largest magnitude in a state,
        and ``first``, the same before the picture.
    """
    changes, largest, answer, outputs = 0, 0.0, None, []
    with torch.inference_mode():
        _, state = advance(collate([item]), None)
        first = _largest(state)
        for batch in _pieces(item, frames):
            out, state = advance(batch, state)
            best = out[0].argmax(-1)
            whole = best if answer is None else torch.cat([answer, best])
            changes += int((whole[1:] != whole[:-1]).sum())
            answer, largest = best[-1:], max(largest, _largest(state))
            outputs.append(out[0])
    settled = torch.cat(outputs)[frames // 10 :]  # (T, K)
    drift = float((settled.amax(0) - settled.amin(0)).max())
    return {"changes": changes, "drift": drift, "largest": largest, "first": first}


def _pieces(item: dict[str, Any], frames: int) -> Iterator[dict[str, Any]]:
    """Batches of one row in which the item's last frame stands still."""
    for begin in range(0, frames, PIECE):
        count = min(PIECE, frames - begin)

        def hold(value: Tensor, count: int = count) -> Tensor:
            return value[-1:].expand(count, *value.shape[1:])

        yield collate([of_each_frame(item, hold)])


def _largest(state: NetworkState) -> float:
    return max((float(value.abs().max()) for part in state for value in part), default=0.0)
