"""Recurrence over time: a cell and a hidden-to-hidden structure, for vectors and for feature maps."""

import torch
from torch import Tensor, nn

from prernn import ops
from prernn.cells import Cell, State
from prernn.hidden import HiddenToHidden
from prernn.structures import Structure


class RecurrentLayer(nn.Module):
    """``s_t = cell(u_t, s_{t-1})`` with ``u_t`` from an input-to-hidden module: one recurrent layer of a network.

    Args:
        input_to_hidden: maps the layer's inputs of ``N = T*B`` frames, time first, to gate inputs
            ``(N, G, D)`` or ``(N, 1, D)`` (feature maps: ``(N, G, D, H, W)``).
        cell: gate equations.
        size: hidden size ``D``.
        hidden: structure of ``W_hh``.
        activation: the module that a VRNN cell applies, registered here so that its parameters train.
    """

    def __init__(
        self,
        input_to_hidden: nn.Module,
        cell: Cell,
        size: int,
        hidden: str | Structure = "full",
        *,
        activation: nn.Module | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.input_to_hidden = input_to_hidden
        self.cell = cell
        self.activation = activation
        self.hidden_to_hidden = HiddenToHidden(size, len(cell.gates), hidden, device=device, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(len(cell.gates), size, device=device, dtype=dtype))

    @property
    def hidden_size(self) -> int:
        """``D``."""
        return self.hidden_to_hidden.size

    def init_state(self, batch_size: int, *map_size: int) -> State:
        """Zeros ``(B, D)``, or ``(B, D, H, W)`` for feature maps, one for each state tensor of the cell."""
        shape = (batch_size, self.hidden_size, *map_size)
        return tuple(self.bias.new_zeros(shape) for _ in self.cell.states)

    def run(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """Gate inputs ``(T, B, G, D)`` or maps ``(T, B, G, D, H, W)`` to outputs ``(T, B, D...)`` and the last state.

        ``G`` may be 1, one input for all gates.

        The recurrence runs in the precision of its own weights, also under autocast: rounding errors of a
        half-precision state would add up over time.
        """
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(self.bias.dtype)
            if u.ndim == 4:
                return self._run_vectors(u, state)
            steps, batch, _, size, *extent = u.shape
            u = u.flatten(4).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (T, B*H*W, G, D)
            rows = tuple(tensor.flatten(2).transpose(1, 2).flatten(0, 1) for tensor in state)  # (B*H*W, D)
            out, rows = self._run_vectors(u, rows)
            out = out.unflatten(1, (batch, -1)).transpose(2, 3).reshape(steps, batch, size, *extent)
            maps = tuple(row.unflatten(0, (batch, -1)).transpose(1, 2).reshape(batch, size, *extent) for row in rows)
            return out, maps

    def _run_vectors(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return ops.sequence(self.cell, self.hidden_to_hidden.weights(self.bias), u, state)

    def forward(self, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:
        """``T*B`` frames, time first, and the state of ``B`` streams to outputs ``(T*B, D...)`` and the last state."""
        u = self.input_to_hidden(*inputs)  # (T*B, G, D...)
        u = u.unflatten(0, (-1, state[0].shape[0]))  # (T, B, G, D...)
        out, state = self.run(u, state)
        return out.flatten(0, 1), state
