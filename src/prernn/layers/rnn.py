"""Drop-ins for torch.nn.RNN, LSTM and GRU whose hidden-to-hidden weights have any structure."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.types import Device

from prernn import ops
from prernn.layers.cells import ACTIVATIONS, Cell, GRUCell, LSTMCell, VRNNCell
from prernn.layers.hidden_to_hidden import RecurrentWeights, draw_index, late_index
from prernn.layers.structures.base import Structure
from prernn.layers.structures.parse import hidden_structure
from prernn.ops.backends import forced
from prernn.ops.linear import linear
from prernn.ops.reference import State

TORCH_KERNELS: dict[str | None, Callable[..., Any]] = {
    "vrnn:tanh": torch._VF.rnn_tanh,
    "vrnn:relu": torch._VF.rnn_relu,
    "lstm": torch._VF.lstm,
    "gru:after:old": torch._VF.gru,
}
"""torch.nn's own recurrences, by the kernel name of the cell that they compute."""


class RecurrentStack(nn.Module):
    """Layers and directions of one cell, with torch.nn's parameter names, shapes and state layout.

    ``weight_hh_l0`` is torch's ``(G*D, D)`` when the structure is full, else the compact weight with the gates
    merged into its first dimension: ``(G*D,)`` diagonal, ``(G*D, C)`` band, ``(G*D, D/groups)`` grouped,
    ``(G*n,)`` sparse, ``(G*D, n)`` paths. The recurrent biases ``bias_hh`` start at 0. With
    ``hidden="full"`` a torch.nn ``state_dict`` loads as it is.
    """

    index: Tensor | None
    weight_hh_l0: nn.Parameter

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hidden: str | Structure = "full",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if input_size < 1 or hidden_size < 1 or num_layers < 1:
            sizes = f"input_size={input_size}, hidden_size={hidden_size}, num_layers={num_layers}"
            raise ValueError(f"expected sizes of at least 1, got {sizes}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"expected dropout between 0 and 1, got {dropout}")
        self.structure = hidden_structure(hidden)
        self.structure.check(hidden_size)
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = (
            bias,
            batch_first,
            dropout,
            bidirectional,
        )
        for number, suffix in enumerate(self.suffixes()):
            layer = number // self.directions
            features = input_size if layer == 0 else hidden_size * self.directions
            self._add_parameters(suffix, features, {"device": device, "dtype": dtype})
        self.register_buffer("index", draw_index(self.structure, hidden_size, self.weight_hh_l0), persistent=False)
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def suffixes(self) -> list[str]:
        """Ends of the parameters' names, one for each layer and direction: ``_l0``, ``_l0_reverse``."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _add_parameters(self, suffix: str, features: int, place: dict[str, Any]) -> None:
        rows = len(self.cell.gates) * self.hidden_size
        first, *rest = self.structure.weight_shape(self.hidden_size)
        self.register_parameter(f"weight_ih{suffix}", nn.Parameter(torch.empty(rows, features, **place)))
        recurrent = torch.empty(len(self.cell.gates) * first, *rest, **place)
        self.register_parameter(f"weight_hh{suffix}", nn.Parameter(recurrent))
        for name in ("bias_ih", "bias_hh"):
            value = nn.Parameter(torch.empty(rows, **place)) if self.bias else None
            self.register_parameter(f"{name}{suffix}", value)

    def reset_parameters(self) -> None:
        """torch.nn's start, uniform in ``+-1/sqrt(D)``; ``W_hh`` in ``+-1/sqrt(fan_in)``, recurrent biases 0."""
        for name, parameter in self.named_parameters():
            fan_in = self.structure.fan_in(self.hidden_size) if name.startswith("weight_hh") else self.hidden_size
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(parameter, -bound, bound)
            if name.startswith("bias_hh"):
                nn.init.zeros_(parameter)

    def flatten_parameters(self) -> None:
        """Does nothing; torch.nn's layers have it."""

    def hidden_matrix(self, layer: int = 0, *, reverse: bool = False) -> Tensor:
        """Dense ``W_hh`` of one layer and direction, ``(G, D, D)``."""
        weights = self.recurrent_weights(f"_l{layer}{'_reverse' if reverse else ''}")
        return self.structure.matrix(weights.weight, weights.index, self.hidden_size)

    def recurrent_weights(self, suffix: str) -> RecurrentWeights:
        """The recurrent product's weights of one layer and direction."""
        index = late_index(self, self.structure, self.hidden_size, self.weight_hh_l0)
        gates = (len(self.cell.gates), -1)
        weight, bias = getattr(self, f"weight_hh{suffix}"), getattr(self, f"bias_hh{suffix}")
        bias = None if bias is None else bias.unflatten(0, gates)  # (G, D)
        weight = weight.unflatten(0, gates)  # (G, *weight_shape)
        return RecurrentWeights(self.structure, self.hidden_size, weight, index, bias)

    def _gate_inputs(self, x: Tensor, suffix: str) -> Tensor:
        u = linear(x, getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}"))
        gates: Tensor = u.unflatten(-1, (len(self.cell.gates), -1))  # (..., G, D)
        return gates

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        """Whole sequences, as torch.nn.

        Args:
            x: ``(T, B, input_size)``, ``(B, T, input_size)`` with ``batch_first``, ``(T, input_size)`` without a
                batch, or a PackedSequence.
            state: ``(num_layers*directions, B, D)``, for LSTM a pair ``(h, c)``; None starts at zero.
            lengths: valid steps of each padded row; past its length a row puts out zeros and keeps its state.

        Returns:
            Outputs ``(T, B, directions*D)`` in the layout of ``x``, and the state after each row's last step.

        Raises:
            ValueError: shapes or lengths that don't fit.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, state)
        batched = x.ndim == 3
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(f"expected input (T, B, {self.input_size}), got shape {tuple(x.shape)}")
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        rows, lengths = self._open_state(state, x, batched), _check_lengths(lengths, x)
        if lengths is None and self._torch_is_faster(x):
            out, following = self._run_torch(x, self._close_state(rows, batched=True))
            if not batched:
                following = torch.utils._pytree.tree_map(lambda tensor: tensor.squeeze(1), following)
        else:
            out, rows = self._run(x, rows, lengths)
            following = self._close_state(rows, batched)
        if not batched:
            return out.squeeze(1), following
        return (out.transpose(0, 1) if self.batch_first else out), following

    def _forward_packed(
        self, packed: PackedSequence, state: Tensor | State | None
    ) -> tuple[PackedSequence, Tensor | State]:
        x, lengths = pad_packed_sequence(packed)  # in the caller's order
        out, rows = self._run(x, self._open_state(state, x, True), lengths.to(x.device))
        if packed.sorted_indices is not None:
            out, lengths = out.index_select(1, packed.sorted_indices), lengths[packed.sorted_indices.cpu()]
        data = pack_padded_sequence(out, lengths).data
        repacked = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return repacked, self._close_state(rows, True)

    def _torch_is_faster(self, x: Tensor) -> bool:
        """Whether torch's own kernel computes this layer, and sooner than one matrix product a step.

        cuDNN always does. On the CPU oneDNN brings the weights into its own order first, at every call, which
        pays over many steps or in training.
        """
        if self.cell.kernel not in TORCH_KERNELS or str(self.structure) != "full" or forced() is not None:
            return False
        if torch.compiler.is_compiling() or len(x) == 0 or x.shape[1] == 0:
            return False
        if x.device.type == "cuda":
            return True
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight_hh_l0.requires_grad)
        return x.device.type == "cpu" and (len(x) >= 32 or (trains and len(x) > 1))

    def _run_torch(self, x: Tensor, state: Tensor | State) -> tuple[Tensor, Tensor | State]:
        """All layers by torch.nn's kernel; the parameters have its names and order."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        weights = [getattr(self, f"{name}{suffix}") for suffix in self.suffixes() for name in names]
        run = TORCH_KERNELS[self.cell.kernel]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, False)
        out, *last = run(x, state, weights, *options)
        return out, last[0] if len(last) == 1 else tuple(last)

    def _run(self, x: Tensor, rows: list[State], lengths: Tensor | None) -> tuple[Tensor, list[State]]:
        """All layers over ``x (T, B, input_size)``; ``rows`` holds one state for each layer and direction."""
        if x.shape[0] == 0:
            raise ValueError("expected a sequence of at least one step, got none")
        following: list[State] = []
        for number, suffix in enumerate(self.suffixes()):
            if number % self.directions == 0:
                source, outputs = x, []
            reverse = suffix.endswith("_reverse")
            u = self._gate_inputs(_flip(source, lengths) if reverse else source, suffix)
            out, last = ops.sequence(self.cell, self.recurrent_weights(suffix), u, rows[number], lengths)
            outputs.append(_flip(out, lengths) if reverse else out)
            following.append(last)
            if len(outputs) == self.directions:
                x = torch.cat(outputs, dim=2)  # (T, B, directions*D)
                if number + 1 < len(rows):
                    x = F.dropout(x, self.dropout, self.training)
        return x, following

    def step(self, x: Tensor, state: Tensor | State | None = None) -> tuple[Tensor, Tensor | State]:
        """One step of a stream: ``x (B, input_size)`` gives ``(B, D)`` and the next state (layout as in `forward`).

        Raises:
            ValueError: a shape that doesn't fit.
            NotImplementedError: a bidirectional layer, which needs the future.
        """
        if self.bidirectional:
            raise NotImplementedError("expected a layer of one direction: a bidirectional one can't run step by step")
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"expected input (B, {self.input_size}), got shape {tuple(x.shape)}")
        rows = self._open_state(state, x.unsqueeze(0), True)
        following = []
        for number, suffix in enumerate(self.suffixes()):
            u = self._gate_inputs(x, suffix).unsqueeze(0)  # (1, B, G, D)
            out, last = ops.sequence(self.cell, self.recurrent_weights(suffix), u, rows[number])
            following.append(last)
            x = out[0]
            if number + 1 < len(rows):
                x = F.dropout(x, self.dropout, self.training)
        return x, self._close_state(following, True)

    def _open_state(self, state: Tensor | State | None, x: Tensor, batched: bool) -> list[State]:
        """torch's state layout to one tuple of ``(B, D)`` for each layer and direction."""
        count = self.num_layers * self.directions
        if state is None:
            zeros = x.new_zeros(x.shape[1], self.hidden_size)
            return [(zeros,) * len(self.cell.states)] * count
        tensors = (state,) if isinstance(state, Tensor) else tuple(state)
        expected = (count, x.shape[1], self.hidden_size) if batched else (count, self.hidden_size)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes != [expected] * len(self.cell.states):
            raise ValueError(f"expected {len(self.cell.states)} state tensors {expected}, got {shapes}")
        if not batched:
            tensors = tuple(tensor.unsqueeze(1) for tensor in tensors)
        return list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))

    def _close_state(self, rows: list[State], batched: bool) -> Tensor | State:
        tensors = tuple(torch.stack(column) for column in zip(*rows, strict=True))  # (layers*directions, B, D)
        if not batched:
            tensors = tuple(tensor.squeeze(1) for tensor in tensors)
        return tensors[0] if len(tensors) == 1 else tensors

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, hidden={str(self.structure)!r}"


class VRNN(RecurrentStack):
    """``h_t = H(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``: torch.nn.RNN with any structure of ``W_hh``.

    Args:
        hidden: structure of ``W_hh``.
        activation: "tanh" or "relu"; ``nonlinearity`` is torch's name for it.

    Further arguments are those of torch.nn.RNN.

    Raises:
        ValueError: an argument out of range, an unknown activation or structure.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hidden: str | Structure = "full",
        activation: str = "tanh",
        nonlinearity: str | None = None,
        **arguments: Any,
    ):
        activation = nonlinearity or activation
        if activation not in ACTIVATIONS:
            raise ValueError(f"expected activation to be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        cell = VRNNCell(ACTIVATIONS[activation])
        super().__init__(cell, input_size, hidden_size, num_layers, hidden=hidden, **arguments)
        self.activation = activation


class LSTM(RecurrentStack):
    """torch.nn.LSTM with any structure of ``W_hh``; gate order i, f, g, o (PreRNN, eq. 2).

    Raises:
        ValueError: an argument out of range, an unknown structure.
        NotImplementedError: ``proj_size`` other than 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hidden: str | Structure = "full",
        proj_size: int = 0,
        **arguments: Any,
    ):
        if proj_size:
            raise NotImplementedError(f"expected proj_size=0, got {proj_size}: projections are not supported")
        super().__init__(LSTMCell(), input_size, hidden_size, num_layers, hidden=hidden, **arguments)


class GRU(RecurrentStack):
    """torch.nn.GRU with any structure of ``W_hh``; gate order r, z, n.

    ``reset="before"`` resets the state before the product, ``n = tanh(W_in x + b_in + W_hn (r*h) + b_hn)``
    (PreRNN, eq. 3); ``reset="after"`` is torch's and cuDNN's ``n = tanh(W_in x + b_in + r*(W_hn h + b_hn))``.
    In both the names keep torch's meaning of ``z``, the share of the *old* state:
    ``h_t = (1-z)*n + z*h_{t-1}``. Eq. 3 has it the other way round; its ``z`` is ``1-z`` here, that is the
    ``z`` rows of weights and biases with the opposite sign. (`prernn.convert` uses eq. 3 as it stands.)

    Raises:
        ValueError: an argument out of range, an unknown structure or reset.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hidden: str | Structure = "full",
        reset: str = "before",
        **arguments: Any,
    ):
        cell = GRUCell(reset=reset, update="old")
        super().__init__(cell, input_size, hidden_size, num_layers, hidden=hidden, **arguments)
        self.reset = reset


def _check_lengths(lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor | None:
    """Lengths as a tensor ``(B,)``, or None where every row fills the batch."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=x.device)
    steps, batch = x.shape[:2]
    if lengths.shape != (batch,) or bool(((lengths < 0) | (lengths > steps)).any()):
        raise ValueError(f"expected {batch} lengths between 0 and {steps}, got {lengths.tolist()}")
    return lengths


def _flip(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses ``x (T, B, F)`` in time, each row within its length."""
    if lengths is None:
        return x.flip(0)
    time = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
    source = torch.where(time < lengths, lengths - 1 - time, time)  # (T, B)
    return x.gather(0, source.unsqueeze(2).expand_as(x))
