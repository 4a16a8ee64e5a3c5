"""Training on cached features: what the part of a network that does not train gives for each video, kept in memory.

A frozen trunk need not run again in every epoch. It runs once over a data set (several times for augmentation), and
networks that share it are then compared at a fraction of the cost.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from prernn.training.dataset import VideoDataset

INPUTS = "input_"
"""Beginning of an item's further inputs; the first stands under ``video``, whose length is the item's."""


@torch.no_grad()  # not inference_mode, whose tensors nothing could be trained on
def cached(
    trunk: nn.Module | None, dataset: VideoDataset, *, passes: int = 1, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The data set's items with the trunk's outputs in place of the videos, ``passes`` of them for each video.

    Args:
        trunk: as `prernn.conversion.cut.split` gives it: frames ``(T, C, H, W)`` to a tuple of tensors with T rows;
            None keeps the videos.
        dataset: of videos; pass n reads them as epoch n does. Videos that can't be read are left out as it says.
        passes: how often to run over it; more than one makes sense for training items alone.
        advance: called after each video.

    Returns:
        Items, all those of the first pass first; ``number`` says which video an item is of.
    """
    items = []
    for epoch in range(passes):
        dataset.set_epoch(epoch)
        for number in range(len(dataset)):
            item = dataset[number]
            advance()
            if "reason" in item:
                continue
            first, *others = (item["video"],) if trunk is None else trunk(item["video"])  # (T, C...) each
            more = {f"{INPUTS}{i}": value for i, value in enumerate(others)}
            items.append({**item, "video": first, **more, "number": number})
    return items


def outputs(rest: fx.GraphModule, state: tuple, batch: dict[str, Any]) -> Tensor:
    """Outputs ``(B, T, K)`` of the part behind the trunk for a batch of cached items, from a state of B streams."""
    names = ["video", *sorted(name for name in batch if name.startswith(INPUTS))]
    size, steps = batch["video"].shape[:2]
    inputs = tuple(batch[name].transpose(0, 1).flatten(0, 1) for name in names)  # (T*B, C...) each
    out, _ = rest(inputs, state)
    return out.unflatten(0, (steps, size)).transpose(0, 1)
