"""Cached features for training: the outputs for each video of the part that does not train, kept in memory.

A frozen trunk need not run again in every epoch. It runs once over a data set (several times for augmentation), and
networks that share it can then be compared at a fraction of the cost.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from prernn.conversion.network import by_lengths
from prernn.conversion.sequence_network import NetworkState
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.training.dataset import VideoDataset

Trunk = Callable[[Tensor], tuple[Tensor, ...]]
"""From frames ``(N, C, H, W)`` to values with N rows."""

FURTHER = "input_"
"""Prefix of the names of an item's further inputs; the first is ``input``, whose length is the item's."""


@torch.no_grad()  # not inference_mode, whose tensors can't be used in training
def cached(
    trunk: Trunk | None,
    dataset: VideoDataset,
    *,
    passes: int = 1,
    at_once: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The data set's items with the trunk's outputs instead of the videos, ``passes`` of them for each video.

    Args:
        trunk: as returned by `prernn.conversion.graph.trunk.split`: from frames ``(T, C, H, W)`` to a tuple of tensors
            with T rows; None keeps the videos.
        dataset: of videos; pass n reads them as epoch n does. Videos that can't be read are skipped as it says.
        passes: number of passes over it; more than one makes sense only for training items.
        at_once: number of videos that go through the trunk together.
        advance: called after each video.

    Returns:
        Items, all those of the first pass first; ``number`` is the number of an item's video.
    """
    items: list[dict[str, Any]] = []
    for epoch in range(passes):
        dataset.set_epoch(epoch)
        for numbers in batched(range(len(dataset)), at_once):
            read = [(number, dataset[number]) for number in numbers]
            for _ in read:
                advance()
            known = [(number, item) for number, item in read if "reason" not in item]
            items += [item | {"number": number} for number, item in known] if trunk is None else _through(trunk, known)
    return items


@torch.no_grad()
def through(trunk: Trunk, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of videos, as kept by `cached` without a trunk, with the trunk's outputs for their frames."""
    return [found for item in items for found in _through(trunk, [(item["number"], item)])]


def _through(trunk: Trunk, known: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Items with the trunk's outputs for their frames, which it processes all together."""
    if not known:
        return
    lengths = [len(item["input"]) for _, item in known]
    values = trunk(torch.cat([item["input"] for _, item in known]))  # (T1 + T2 + ..., C...) each
    for (number, item), own in zip(known, zip(*(value.split(lengths) for value in values), strict=True), strict=True):
        more = {f"{FURTHER}{i}": value for i, value in enumerate(own[1:])}
        yield {**item, "input": own[0], **more, "number": number}


def batched(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The numbers, ``size`` at a time."""
    return (numbers[first : first + size] for first in range(0, len(numbers), size))


def inputs_in(item: dict[str, Any]) -> list[str]:
    """Names of an item's inputs, or a batch's, in the order in which the part behind the trunk expects them."""
    return ["input", *sorted(name for name in item if name.startswith(FURTHER))]


def outputs(rest: fx.GraphModule, state: NetworkState, batch: dict[str, Any]) -> tuple[Tensor, NetworkState]:
    """Outputs ``(B, T, K)`` of the part behind the trunk for a batch of cached items, and the next state.

    Args:
        rest: as returned by `prernn.conversion.graph.trunk.split`.
        state: of B streams.
        batch: with ``lengths``, after which outputs are 0; the next state is that at each item's end.
    """
    values = [batch[name] for name in inputs_in(batch)]

    def run(rows: Tensor | slice, begin: int, end: int, state: NetworkState) -> tuple[Tensor, NetworkState]:
        parts = [value[rows, begin:end] for value in values]
        out, state = rest(tuple(part.transpose(0, 1).flatten(0, 1) for part in parts), state)  # (T*B, C...) each
        return out.unflatten(0, (end - begin, -1)).transpose(0, 1), state

    steps, lengths = values[0].shape[1], batch["lengths"]
    if bool((lengths == steps).all()):
        return run(slice(None), 0, steps, state)
    layers = [module for module in rest.modules() if isinstance(module, RecurrentLayer)]
    return by_lengths(run, lengths, steps, state, layers)
