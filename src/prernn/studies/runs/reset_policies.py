"""Which reset policy suits a network: each is run over the test videos, one after the other as on a camera."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from prernn.conversion.sequence_network import NetworkState
from prernn.media.transforms import TransformSpec
from prernn.streaming.resets import Cut, reset_policy, thumbnail
from prernn.tasks.task import Metrics, Task
from prernn.training.batches import collate
from prernn.training.evaluation import Advance, going_on
from prernn.training.frozen_trunk.features import inputs_in

THUMBNAILS = "thumbnails"
"""Name of an item's thumbnails ``(T, 16, 16, 3)``, by which cuts are found."""

MARGIN = 0.01
"""Margin of a score such as an accuracy by which another policy must be better than never resetting."""

NEVER, CUT = "never", "cut"


class Pictured(Dataset):
    """Items with thumbnails of their pictures, for the policy ``cut``.

    Args:
        dataset: items with ``input (T, 3, H, W)``.
        spec: the transform that made this input from the pictures.
    """

    def __init__(self, dataset: Any, spec: TransformSpec):
        self.dataset = dataset
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """As in the data set."""
        self.dataset.set_epoch(epoch)

    def __getitem__(self, number: int) -> dict[str, Any]:
        item = self.dataset[number]
        if "reason" in item:
            return item
        pictures = (255 * (item["input"] * self._std + self._mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return {**item, THUMBNAILS: torch.stack([thumbnail(picture) for picture in pictures])}


def candidates(items: Sequence[dict[str, Any]], snippet: int = 1) -> list[str]:
    """Policies to try: never, a cut if there are thumbnails, and states as old as two and as four of the videos."""
    steps = sorted(len(item["input"]) for item in items)[len(items) // 2]
    cut = [CUT] if all(THUMBNAILS in item for item in items) else []
    return [NEVER, *cut, *(f"every:{2 * clips * steps * snippet}" for clips in (1, 2))]


def evaluate_policy(
    advance: Advance,
    metrics: Metrics,
    items: Sequence[dict[str, Any]],
    orders: Sequence[Sequence[int]],
    text: str,
    snippet: int = 1,
) -> dict[str, Tensor]:
    """A task's metrics over items in several orders, each a stream whose state is reset by a policy.

    Args:
        advance: the network, or the part behind its trunk.
        metrics: new metrics of the task.
        items: videos, or the trunk's outputs for them, with `THUMBNAILS` for ``cut``.
        orders: orders of their numbers, one stream each.
        text: ``never``, ``cut`` or ``every:N``, see `prernn.streaming.resets`.
        snippet: number of frames of a step, each of which counts in ``every:N``.
    """
    policies = [reset_policy(text) for _ in orders]
    half = policies[0] // (2 * snippet) if isinstance(policies[0], int) else 0
    state: NetworkState | None = None
    ages = [0] * len(orders)  # steps of each stream so far
    with torch.inference_mode():
        for numbers in zip(*orders, strict=True):
            own = [items[number] for number in numbers]
            if half:
                out, state = _by_age(advance, own, state, ages, half)
            else:
                starts = [_cuts(policy, item) for policy, item in zip(policies, own, strict=True)]
                out, state = _through(advance, own, state, starts)
            ages = [age + len(item["input"]) for age, item in zip(ages, own, strict=True)]
            metrics.update(out.float(), collate(own))
    return metrics.compute()


def best_policy(scores: dict[str, float], task: Task) -> str:
    """The policy with the best score; never, unless one is better by `MARGIN` (for an error: by that share of it)."""
    least = task.score[1] == "min"
    merit = {name: -score if least else score for name, score in scores.items()}
    best = max(merit, key=lambda name: merit[name])
    margin = MARGIN * abs(scores[NEVER]) if least else MARGIN
    return best if merit[best] > merit[NEVER] + margin else NEVER


def _by_age(
    advance: Advance, items: Sequence[dict[str, Any]], state: NetworkState | None, ages: Sequence[int], half: int
) -> tuple[Tensor, NetworkState]:
    """Outputs of streams with two states each, which are reset in turn every ``half`` steps; the older one answers."""
    starts: list[list[int]] = []
    for turn in (0, 1):
        for age, item in zip(ages, items, strict=True):
            ends = range(max(age, 1), age + len(item["input"]))  # the very first step starts from zero anyway
            starts.append([end - age for end in ends if end % half == 0 and end // half % 2 == turn])
    out, state = _through(advance, [*items, *items], state, starts)
    steps = torch.arange(out.shape[1])
    begun = (torch.tensor(ages).unsqueeze(1) + steps) // half  # (B, T), how often one was reset
    older = torch.where(begun == 0, 0, (begun - 1) % 2).unsqueeze(2).to(out.device)
    rows = len(items)
    return torch.where(older == 0, out[:rows], out[rows:]), state


def _cuts(policy: Cut | Any, item: dict[str, Any]) -> list[int]:
    """Steps of an item at which the policy resets its stream."""
    if policy is None:
        return []
    return [step for step, picture in enumerate(item[THUMBNAILS]) if policy.due(picture, 0.0)]


def _through(
    advance: Advance, items: Sequence[dict[str, Any]], state: NetworkState | None, starts: Sequence[Sequence[int]]
) -> tuple[Tensor, NetworkState]:
    """Outputs ``(B, T, K)`` of rows that are reset at the given steps, and the next state."""
    lengths = [len(item["input"]) for item in items]
    parts = []
    for begin, end in itertools.pairwise(sorted({0, max(lengths), *itertools.chain(*starts)})):
        rows = torch.tensor([row for row, length in enumerate(lengths) if length > begin])
        batch = collate([_of_steps(items[row], begin, end) for row in rows.tolist()])
        going = torch.tensor([begin not in starts[row] for row in rows.tolist()])
        own = None if state is None else going_on(tree_map(lambda value, rows=rows: value[rows], state), going)
        out, following = advance(batch, own)
        state = following if state is None else _put(state, rows, following)  # at first all rows take part
        parts.append(out.new_zeros(len(items), *out.shape[1:]).index_copy(0, rows, out))
    assert state is not None  # there is at least one step
    return torch.cat(parts, 1), state


def _of_steps(item: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The inputs of a network for some steps of an item."""
    return {"path": item["path"], **{name: item[name][begin:end] for name in inputs_in(item)}}


def _put(state: NetworkState, rows: Tensor, following: NetworkState) -> NetworkState:
    put: NetworkState = tree_map(lambda value, new: value.index_copy(0, rows, new), state, following)
    return put
