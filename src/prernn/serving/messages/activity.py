"""Summarizes the activity of a recurrent layer's units from frame to frame in a few numbers, for a strip on a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prernn.streaming.stream import Stream

HIDDEN = "_h"
"""Suffix of the names of hidden states; if a cell has one, its other values, such as LSTM's c, are left out."""


class Activity:
    """Looks at the hidden states of streams, which every engine returns.

    For each recurrent layer, in ``bins`` groups of neighboring units (channels, for maps), the means over the group of

    - ``level``: ``|h_t|``;
    - ``change``: ``|h_t - h_{t-1}|``, which is what the gates let through: for a GRU (PreRNN, eq. 3)
      ``h_t - h_{t-1} = z_t * (n_t - h_{t-1})``, so that it is 0 if the update gate z is closed. Before the first
      frame h is zero; if the stream's own policy has reset it, that counts as change.

    Args:
        bins: groups per layer; a layer with fewer units has one group per unit.
    """

    def __init__(self, bins: int):
        self._bins = bins
        self._before: dict[tuple[int, str], Tensor] = {}

    def __call__(self, streams: Sequence[Stream]) -> list[dict[str, Any]]:
        """For each layer ``name``, ``level`` and ``change``; empty before the first frame, or without states."""
        found = []
        now = {(i, name): value for i, stream in enumerate(streams) for name, value in _hidden(stream).items()}
        for place, value in now.items():
            before = self._before.get(place)
            change = value - before if before is not None and before.shape == value.shape else value
            level, moved = (self._means(part) for part in (value, change))
            found.append({"name": place[1], "level": level, "change": moved})
        self._before = now
        return found

    def forget(self) -> None:
        """Tells it that the streams were reset."""
        self._before = {}

    def _means(self, values: Tensor) -> list[float]:
        units = values.float().abs().reshape(len(values), -1).mean(1)  # (D,)
        groups = units.tensor_split(min(self._bins, len(units)))
        return [round(float(mean), 4) for mean in torch.stack([group.mean() for group in groups])]


def _hidden(stream: Stream) -> Mapping[str, Tensor]:
    """A stream's hidden states by name, each ``(D, ...)``."""
    names = stream.net.state_names
    wanted = [name for name in names if name.endswith(HIDDEN)] or list(names)
    values = stream.state_dict()
    return {name: values[name][0] for name in wanted if name in values}
