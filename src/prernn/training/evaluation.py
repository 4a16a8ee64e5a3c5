"""The one way to evaluate: from batches through a network into metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from prernn.conversion.clip_network import answers_once, clip_outputs, is_clip_network
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.reports.numbers import plain
from prernn.tasks.task import Metrics
from prernn.training.batches import PieceSampler, collate, hold_last, none_readable

Batch = dict[str, Any]
Advance = Callable[[Batch, NetworkState | None], tuple[Tensor, NetworkState]]
"""Outputs of a batch that continues from a state, None for zeros, and the next state."""


def whole_outputs(net: SequenceNetwork, batch: Batch) -> Tensor:
    """Outputs ``(B, T, K)`` of a network for a batch of videos; a clip network's one answer is at every frame."""
    inputs, lengths = batch["input"], batch["lengths"]
    if answers_once(net, inputs):
        return clip_outputs(net, inputs, lengths).unsqueeze(1).expand(-1, inputs.shape[1], -1)
    if net.wants_lengths:
        out: Tensor = net(inputs, lengths=lengths)[0]
        return out
    return net(hold_last(inputs, lengths))[0]


def hears_all(net: SequenceNetwork, inputs: Tensor) -> bool:
    """Whether a batch needs `whole_outputs` in training too, because the network must know where each sequence ends."""
    return net.wants_lengths or answers_once(net, inputs)


def next_outputs(
    net: SequenceNetwork, batch: Batch, state: NetworkState | None, checkpoint: int | None = None
) -> tuple[Tensor, NetworkState]:
    """Outputs ``(B, T, K)`` of a network that continues from a state, None for zeros, and the state at videos' ends.

    Raises:
        NotImplementedError: the network answers once per clip, and so has no state.
    """
    inputs, lengths = batch["input"], batch["lengths"]
    if answers_once(net, inputs):
        raise NotImplementedError("expected a network that goes through a video frame by frame, got one of whole clips")
    own = None if bool((lengths == inputs.shape[1]).all()) else lengths
    return net(inputs, state, own, checkpoint=checkpoint)


def going_on(state: NetworkState, going: Tensor) -> NetworkState:
    """The states of continuing rows, zeros for the others, even if theirs is not finite; ``going (B,)`` is Boolean."""

    def of_rows(value: Tensor) -> Tensor:
        on = going.to(value.device).view(-1, *[1] * (value.ndim - 1))
        return torch.where(on, value, torch.zeros_like(value))

    kept: NetworkState = tree_map(of_rows, state)
    return kept


class Onward:
    """Outputs of batches in which pieces of a video continue from the final state of the previous piece.

    A batch with ``goes_on (B,)`` consists of pieces: where it is not 0, the previous piece has the same ``path`` and is
    in the previous batch, as ordered by `prernn.training.batches.PieceSampler`. A video that occurs in several ways has
    ``way (B,)``, a number for each. So pieces of any length give the same as the whole video. Other batches consist of
    whole videos. No gradient flows from a piece to the previous one: in training this is truncated back-propagation.

    Args:
        advance: outputs of a batch that continues from a state, and the next state, such as `next_outputs`.
        whole: outputs of a batch of whole videos, such as `whole_outputs`.
    """

    def __init__(self, advance: Advance, whole: Callable[[Batch], Tensor]) -> None:
        self.advance, self.whole = advance, whole
        self._places: list[tuple[str, int]] = []  # of the previous batch
        self._ends: NetworkState = ()

    def __call__(self, batch: Batch) -> Tensor:
        """Outputs ``(B, T, K)``. Raises ValueError for a piece whose predecessor was not in the previous batch."""
        if "goes_on" not in batch:
            return self.whole(batch)
        out, ends = self.advance(batch, self._begins(batch))
        self._ends = tree_map(lambda value: value.detach(), ends)  # no gradient flows from one piece to another
        self._places = _places(batch)
        return out

    def _begins(self, batch: Batch) -> NetworkState | None:
        """The state that each piece of a batch starts from; None if all start from zeros."""
        going = batch["goes_on"] != 0
        if not bool(going.any()):
            return None
        places = _places(batch)
        wanted = [place for place, goes in zip(places, going.tolist(), strict=True) if goes]
        if absent := sorted(set(wanted) - set(self._places)):
            before = [path for path, _ in self._places]
            raise ValueError(f"{absent[0][0]}: expected the piece before in the batch before, got {before}")
        known = {place: row for row, place in enumerate(self._places)}
        rows = [known.get(place, 0) for place in places]
        return going_on(tree_map(lambda value: value[rows], self._ends), going)


def _places(batch: Batch) -> list[tuple[str, int]]:
    """Path and way of each video of a batch."""
    ways = batch["way"].tolist() if "way" in batch else [0] * len(batch["path"])
    return list(zip(batch["path"], ways, strict=True))


def onward(net: SequenceNetwork) -> Callable[[Batch], Tensor]:
    """`Onward` for a network; one that answers once per clip has no state, and answers for each piece separately."""
    whole = partial(whole_outputs, net)
    return whole if is_clip_network(net) else Onward(partial(next_outputs, net), whole)


def add_batch(forward: Callable[[Batch], Tensor], metrics: Metrics, batch: Batch) -> Tensor | None:
    """Runs a batch through a network and adds it to metrics.

    Returns:
        The outputs ``(B, T, K)`` in float32; None if every item of the batch was skipped.
    """
    if "input" not in batch:
        return None
    out = forward(batch).float()
    metrics.update(out, batch)
    return out


def evaluate(forward: Callable[[Batch], Tensor], metrics: Metrics, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """A task's metrics over batches.

    Args:
        forward: outputs ``(B, T, K)`` of a batch; the network is in the mode set by the caller.
        metrics: new metrics of the task.
        batches: as made by `prernn.training.batches.collate`.

    Raises:
        ValueError: no item could be read.
    """
    seen, skipped = 0, {}
    with torch.inference_mode():
        for batch in batches:
            add_batch(forward, metrics, batch)
            seen += len(batch["path"])
            skipped.update(batch.get("skipped", ()))
    if not seen:
        raise none_readable(skipped)
    return metrics.compute()


def scalars(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """A task's metrics that are a single number each, as plain numbers."""
    return {name: plain(value) for name, value in values.items() if value.ndim == 0}


def in_order(items: Sequence[Batch], size: int) -> Iterator[Batch]:
    """Items in batches as `Onward` needs them: continuing pieces are in the batch after those that they continue."""
    goes_on = [bool(item.get("goes_on")) for item in items]
    if not any(goes_on):
        return in_batches(items, size)
    return (collate([items[number] for number in numbers]) for numbers in PieceSampler(goes_on, size))


def in_batches(items: Sequence[Batch], size: int) -> Iterator[Batch]:
    """Items in batches, in the given order."""
    for first in range(0, len(items), size):
        yield collate(list(items[first : first + size]))
