"""What a recurrent layer's units do from frame to frame, in a few numbers: for a strip on a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prernn.streaming.stream import Stream

HIDDEN = "_h"
"""What the names of hidden states end in; a cell's other values, such as LSTM's c, are left out where there is one."""


class Activity:
    """Looks at the hidden states of streams, which every engine hands out.

    Of each recurrent layer, in ``bins`` groups of neighbouring units (channels, of maps), the means over the group of

    - ``level``: ``|h_t|``;
    - ``change``: ``|h_t - h_{t-1}|``, which is what the gates let through: of a GRU (PreRNN, eq. 3)
      ``h_t - h_{t-1} = z_t * (n_t - h_{t-1})``, so that it is 0 where the update gate z is closed. Before the first
      frame h is zero; where the stream's own policy has cleared it, that counts as change.

    Args:
        bins: groups of a layer; a layer of fewer units has one for each.
    """

    def __init__(self, bins: int):
        self._bins = bins
        self._before: dict[tuple[int, str], Tensor] = {}

    def __call__(self, streams: Sequence[Stream]) -> list[dict[str, Any]]:
        """For each layer ``name``, ``level`` and ``change``; nothing before the first frame, or without states."""
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
        """The streams have started anew."""
        self._before = {}

    def _means(self, values: Tensor) -> list[float]:
        units = values.float().abs().reshape(len(values), -1).mean(1)  # (D,)
        groups = units.tensor_split(min(self._bins, len(units)))
        return [round(float(mean), 4) for mean in torch.stack([group.mean() for group in groups])]


def _hidden(stream: Stream) -> Mapping[str, Tensor]:
    """Its hidden states by name, each ``(D, ...)``."""
    names = stream.net.state_names
    wanted = [name for name in names if name.endswith(HIDDEN)] or list(names)
    values = stream.state_dict()
    return {name: values[name][0] for name in wanted if name in values}
