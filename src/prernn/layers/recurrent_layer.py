"""A recurrent layer: a cell and a hidden-to-hidden structure, for vectors and for feature maps."""

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.types import Device

from prernn import ops
from prernn.layers.calibration import Restoration
from prernn.layers.cells import ROW_STATES, Cell, VRNNCell, recurrent_gates
from prernn.layers.dropout import Dropout, Masks
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.input_to_hidden import InputToHidden
from prernn.layers.starts import CNN, gain_of, set_biases
from prernn.layers.structures.base import Structure
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.reference import State


class RecurrentLayer(nn.Module):
    """``s_t = cell(u_t, s_{t-1})`` with ``u_t`` from an input-to-hidden module: one recurrent layer of a network.

    Args:
        input_to_hidden: maps the layer's inputs of ``N = T*B`` frames, time first, to gate inputs
            ``(N, G, D)`` or ``(N, 1, D)`` (feature maps: ``(N, G, D, H, W)``).
        cell: gate equations.
        size: hidden size ``D``.
        hidden: structure of ``W_hh``, unless the cell prescribes one.
        start: how the layer is initialized, see `prernn.layers.starts`: a number that multiplies ``W_hh``, "lasting" or
            "cnn".
        activation: the module that a VRNN cell applies, registered here so that its parameters are trained.

    Attributes:
        begins_as_cnn: whether, before training, the layer's outputs equal the CNN layer's, at the same scale: a VRNN
            with ``start="cnn"``.
        dropout: used in training only; `prernn fit` sets it.
        masks: dropout masks, set while a sequence runs in parts.
    """

    dropout = Dropout()
    masks: Masks | None = None

    def __init__(
        self,
        input_to_hidden: InputToHidden,
        cell: Cell,
        size: int,
        hidden: str | Structure = "full",
        *,
        start: float | str = 1.0,
        activation: nn.Module | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.input_to_hidden = input_to_hidden
        self.cell = cell
        self.activation = activation
        structure = hidden_structure(hidden)  # checked even if the cell prescribes its own
        structure = hidden_structure(getattr(cell, "structure", structure))
        gain = gain_of(start, cell, structure)
        gates = recurrent_gates(cell)
        self.hidden_to_hidden = HiddenToHidden(size, gates, structure, gain=gain, device=device, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(gates, size, device=device, dtype=dtype))
        set_biases(self.bias, start, cell, structure)
        self.calibration: nn.Module = nn.Identity()  # of gate inputs, see `prernn.calibrate`
        self.begins_as_cnn = start == CNN and isinstance(cell, VRNNCell)
        restores = start == CNN and not self.begins_as_cnn
        self.restoration = Restoration(size, device=device, dtype=dtype) if restores else nn.Identity()  # of outputs

    @property
    def hidden_size(self) -> int:
        """``D``."""
        return self.hidden_to_hidden.size

    def state_shapes(self, batch_size: int, *map_size: int) -> list[tuple[int, ...]]:
        """Shapes of the cell's state tensors: ``(B, D)``, for feature maps ``(B, D, H, W)``; flags are ``(B, 1)``."""
        unit = (batch_size, self.hidden_size, *map_size)
        return [(batch_size, 1) if name in ROW_STATES else unit for name in self.cell.states]

    def init_state(self, batch_size: int, *map_size: int) -> State:
        """Zeros of `state_shapes`."""
        return tuple(self.bias.new_zeros(shape) for shape in self.state_shapes(batch_size, *map_size))

    def draw_masks(self, rows: int) -> Masks | None:
        """Masks for a sequence of ``rows`` videos: those set by `lent` if any, else new ones; None without dropout."""
        if not self.training or not self.dropout.any:
            return None
        return self.masks or self.dropout.draw(rows, self.bias, self.hidden_to_hidden.weight)

    def run(self, u: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Gate inputs ``(T, B, G, D)`` or maps ``(T, B, G, D, H, W)`` to outputs ``(T, B, D...)`` and the last state.

        ``G`` may be 1, one input for all gates. For vectors, ``lengths (B,)`` may tell where each sequence ends: the
        last state is then the one at that step, and later outputs are 0.

        The recurrence runs in the precision of its own weights, even under autocast: rounding errors of a
        half-precision state would accumulate over time.
        """
        exporting = torch.compiler.is_exporting()  # an exported program has no autocast and can't switch it
        with contextlib.nullcontext() if exporting else torch.autocast(u.device.type, enabled=False):
            u = u.to(self.bias.dtype)
            masks = self.draw_masks(u.shape[1])
            if masks is not None:
                u = masks.on_inputs(u)
            if u.ndim == 4:
                out, state = self._run_vectors(u, state, masks, lengths=lengths)
            else:
                out, state = self._run_maps(u, state, masks)
            return out if masks is None else masks.on_outputs(out), state

    def _run_maps(self, u: Tensor, state: State, masks: Masks | None) -> tuple[Tensor, State]:
        """Runs maps as vectors: every position of a map becomes a row."""
        steps, batch, _, size, *extent = u.shape
        shapes, wanted = [tuple(tensor.shape) for tensor in state], self.state_shapes(batch, *extent)
        if shapes != wanted:
            raise ValueError(f"expected a state with shapes {wanted} for maps of these frames, got {shapes}")
        places = math.prod(extent)
        u = u.flatten(4).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (T, B*H*W, G, D)
        rows = tuple(
            tensor.flatten(2).transpose(1, 2).flatten(0, 1)  # (B*H*W, D)
            if tensor.ndim > 2
            else tensor.repeat_interleave(places, dim=0)  # (B*H*W, 1)
            for tensor in state
        )
        out, rows = self._run_vectors(u, rows, masks, places)
        out = out.unflatten(1, (batch, places)).transpose(2, 3).reshape(steps, batch, size, *extent)
        split = [row.unflatten(0, (batch, places)) for row in rows]  # (B, H*W, D) or (B, H*W, 1)
        return out, tuple(
            row.transpose(1, 2).reshape(shape) if len(shape) > 2 else row[:, 0]
            for row, shape in zip(split, wanted, strict=True)
        )

    def _run_vectors(
        self, u: Tensor, state: State, masks: Masks | None, places: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        weights = self.hidden_to_hidden.weights(self.bias)
        dropped = weights if masks is None else masks.on_weights(weights, places)
        return ops.sequence(self.cell, dropped, u, state, lengths)

    def forward(self, inputs: tuple[Tensor, ...], state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Maps ``T*B`` frames, time first, and states of ``B`` streams to outputs ``(T*B, D...)`` and the last state.

        ``lengths`` is as in `run`.
        """
        u = self.calibration(self.input_to_hidden(*inputs))  # (T*B, G, D...)
        batch = state[0].shape[0]
        u = u.unflatten(0, (-1, batch)) if batch else u.unsqueeze(0)  # (T, B, G, D...); T is 1 if B is 0
        out, state = self.run(u, state, lengths)
        return self.restoration(out.flatten(0, 1)), state
