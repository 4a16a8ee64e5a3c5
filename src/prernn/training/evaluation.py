"""The one way to evaluate: batches through a network into metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prernn.conversion.clip_network import answers_once, clip_outputs
from prernn.conversion.network import NetworkState, RecurrentNetwork
from prernn.reports.numbers import plain
from prernn.tasks.task import Metrics
from prernn.training.batches import collate, hold_last, none_readable

Batch = dict[str, Any]


def whole_outputs(net: RecurrentNetwork, batch: Batch) -> Tensor:
    """Outputs ``(B, T, K)`` of a network for a batch of videos; a clip network's one answer stands at every frame."""
    inputs, lengths = batch["input"], batch["lengths"]
    if answers_once(net, inputs):
        return clip_outputs(net, inputs, lengths).unsqueeze(1).expand(-1, inputs.shape[1], -1)
    return net(hold_last(inputs, lengths))[0]


def next_outputs(
    net: RecurrentNetwork, batch: Batch, state: NetworkState | None, checkpoint: int | None = None
) -> tuple[Tensor, NetworkState]:
    """Outputs ``(B, T, K)`` of a network that goes on from a state, None for zeros, and the state at each video's end.

    Raises:
        NotImplementedError: a network that answers once for a clip, and so has no state.
    """
    inputs, lengths = batch["input"], batch["lengths"]
    if answers_once(net, inputs):
        raise NotImplementedError("expected a network that goes through a video frame by frame, got one of whole clips")
    own = None if bool((lengths == inputs.shape[1]).all()) else lengths
    return net(inputs, state, own, checkpoint=checkpoint)


def add_batch(forward: Callable[[Batch], Tensor], metrics: Metrics, batch: Batch) -> Tensor | None:
    """Puts a batch through a network into metrics.

    Returns:
        The outputs ``(B, T, K)`` in float32; None where every item of the batch was skipped.
    """
    if "input" not in batch:
        return None
    out = forward(batch).float()
    metrics.update(out, batch)
    return out


def evaluate(forward: Callable[[Batch], Tensor], metrics: Metrics, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """A task's metrics over batches.

    Args:
        forward: outputs ``(B, T, K)`` of a batch; the network is in the mode that its caller has put it in.
        metrics: of the task, new.
        batches: as `prernn.training.batches.collate` makes them.

    Raises:
        ValueError: no item that could be read.
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
    """Those of a task's metrics that are one number each, as plain numbers."""
    return {name: plain(value) for name, value in values.items() if value.ndim == 0}


def in_batches(items: Sequence[Batch], size: int) -> Iterator[Batch]:
    """Items in batches, in their order."""
    for first in range(0, len(items), size):
        yield collate(list(items[first : first + size]))
