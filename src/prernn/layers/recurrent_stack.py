"""Layers and directions of one cell over whole sequences, in torch.nn's layout: the base of our drop-ins."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.types import Device

from prernn import ops
from prernn.layers.arguments import check_lengths, real, whole
from prernn.layers.cells import Cell, LSTMCell
from prernn.layers.computed_weights import refresh
from prernn.layers.hidden_to_hidden import RecurrentWeights, draw_index, late_index
from prernn.layers.structures.base import Structure
from prernn.layers.structures.input_weights import InputWeights, checked, start_bound
from prernn.layers.structures.parse import hidden_structure
from prernn.layers.structures.regular import Full
from prernn.ops.backends import batched, forced, forward_mode
from prernn.ops.input_projection import linear
from prernn.ops.narrow import NarrowWeight
from prernn.ops.reference import State, flipped, without_padding

TORCH_KERNELS: dict[str | None, Callable[..., Any]] = {
    "vrnn:tanh": torch._VF.rnn_tanh,
    "vrnn:relu": torch._VF.rnn_relu,
    "lstm": torch._VF.lstm,
    "gru:after:old": torch._VF.gru,
}
"""torch.nn's own recurrent functions, by the kernel name of the cell that they compute."""


class RecurrentStack(nn.Module):
    """Layers and directions of one cell, with torch.nn's parameter names, shapes and state layout.

    ``weight_hh_l0`` has torch's shape ``(G*D, D)`` if the structure is full; otherwise it is the compact weight with
    the gates merged into its first dimension: ``(G*D,)`` diagonal, ``(G*D, C)`` band, ``(G*D, D/groups)`` grouped,
    ``(G*n,)`` sparse, ``(G*D, n)`` paths. The same holds for ``weight_ih_l0``, which has torch's shape ``(G*D, I)`` if
    full. The recurrent biases ``bias_hh`` start at 0. With ``hidden="full"`` and ``inputs="full"`` state dicts can be
    exchanged with torch.nn, in both directions.

    Args:
        cell: gate equations.
        input_size: features of the input.
        hidden_size: units ``D`` of each layer and direction.
        num_layers: number of layers, each fed by the outputs of the previous one.
        hidden: structure of ``W_hh``.
        inputs: structure of ``W_ih`` in every layer, over that layer's inputs.
        bias: whether there are ``b_ih`` and ``b_hh``, ``(G*D,)`` each.
        batch_first: whether inputs and outputs are ``(B, T, ...)``; it does not affect states.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: whether each layer also runs backwards in time.
        proj_size: units ``P`` of an LSTM's projected output ``h = W_hr (o * tanh(c))``; 0 for none. ``weight_hr_l0``
            is ``(P, D)`` and ``weight_hh_l0`` ``(4*D, P)``.
        device: device of the parameters.
        dtype: type of the parameters.

    Raises:
        ValueError: an argument out of range, an unknown structure, a structure that does not fit a layer's sizes.
        NotImplementedError: a projection with a ``W_hh`` other than full.
    """

    index: Tensor | None
    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hidden: str | Structure = "full",
        inputs: str | Structure = "full",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.structure = hidden_structure(hidden)
        self.cell = cell
        self.input_size, self.hidden_size = whole("input_size", input_size), whole("hidden_size", hidden_size)
        self.num_layers = whole("num_layers", num_layers)
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.proj_size = (
            real("dropout", dropout, 0, 1),
            whole("proj_size", proj_size, 0, self.hidden_size - 1),
        )
        self._check_arguments()
        layers = range(self.num_layers)
        self.input_structure = checked(inputs, self.hidden_size, *map(self._features, layers))
        for number, suffix in enumerate(self.suffixes()):
            self._add_parameters(suffix, self._features(number // self.directions), {"device": device, "dtype": dtype})
        self.register_buffer("index", draw_index(self.structure, self.hidden_size, self.weight_hh_l0), persistent=False)
        for layer in layers:
            index = draw_index(self.input_structure, self.hidden_size, self.weight_ih_l0, self._features(layer))
            self.register_buffer(f"index_ih_l{layer}", index, persistent=False)
        self.reset_parameters()

    def _check_arguments(self) -> None:
        for name in ("bias", "batch_first"):  # a string or a number here means misplaced arguments
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"expected {name} to be True or False, got {getattr(self, name)!r}")
        if self.dropout and self.num_layers == 1:
            message = f"dropout is between layers: expected num_layers of at least 2 with dropout={self.dropout}, got 1"
            warnings.warn(message, UserWarning, stacklevel=4)
        self.structure.check(self.hidden_size)
        if self.proj_size and str(self.structure) != "full":
            raise NotImplementedError(
                f"expected hidden='full' with proj_size={self.proj_size}, got hidden={str(self.structure)!r}, which is "
                "square: use hidden='full', or proj_size=0 and a torch.nn.Linear after the layer"
            )

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Units in a layer's output for each direction: ``P`` with a projection, else ``D``."""
        return self.proj_size or self.hidden_size

    def _features(self, layer: int) -> int:
        """Number of inputs of a layer."""
        return self.output_size * self.directions if layer else self.input_size

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer and direction, in torch.nn's order."""
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        names += ["weight_hr"] if self.proj_size else []
        return [[getattr(self, f"{name}{suffix}") for name in names] for suffix in self.suffixes()]

    def suffixes(self) -> list[str]:
        """Suffixes of the parameters' names, one for each layer and direction: ``_l0``, ``_l0_reverse``."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _add_parameters(self, suffix: str, features: int, place: dict[str, Any]) -> None:
        gates = len(self.cell.gates)
        first, *rest = self.structure.weight_shape(self.hidden_size)
        if self.proj_size:
            rest = [self.proj_size]  # the projection is fed back
        shapes = {"weight_ih": self.input_structure.weight_shape(self.hidden_size, features)}
        shapes["weight_hh"] = (first, *rest)
        for name, (first, *rest) in shapes.items():
            self.register_parameter(f"{name}{suffix}", nn.Parameter(torch.empty(gates * first, *rest, **place)))
        for name in ("bias_ih", "bias_hh"):
            value = nn.Parameter(torch.empty(gates * self.hidden_size, **place)) if self.bias else None
            self.register_parameter(f"{name}{suffix}", value)
        if self.proj_size:
            projection = torch.empty(self.proj_size, self.hidden_size, **place)
            self.register_parameter(f"weight_hr{suffix}", nn.Parameter(projection))

    def reset_parameters(self) -> None:
        """Initializes like torch.nn in ``+-1/sqrt(D)``, but ``W_hh`` in ``+-1/sqrt(fan_in)`` and ``bias_hh`` with 0.

        ``W_ih`` is in ``+-sqrt(I / fan_in) / sqrt(D)``, so that few inputs give sums as large as all would.
        """
        for name, parameter in self.named_parameters():
            fan_in = self.structure.fan_in(self.hidden_size) if name.startswith("weight_hh") else self.hidden_size
            bound = 1 / math.sqrt(fan_in)
            if name.startswith("weight_ih"):
                features = self._features(int(name.removesuffix("_reverse").rpartition("_l")[2]))
                bound = start_bound(self.input_structure, self.hidden_size, features)
            nn.init.uniform_(parameter, -bound, bound)
            if name.startswith("bias_hh"):
                nn.init.zeros_(parameter)

    def flatten_parameters(self) -> None:
        """Does nothing; exists because torch.nn's layers have it."""

    def hidden_matrix(self, layer: int = 0, *, reverse: bool = False) -> Tensor:
        """Dense ``W_hh`` of one layer and direction, ``(G, D, D)``, with a projection ``(G, D, P)``."""
        return self.recurrent_weights(f"_l{layer}{'_reverse' if reverse else ''}").matrix()

    def input_matrix(self, layer: int = 0, *, reverse: bool = False) -> Tensor:
        """Dense ``W_ih`` of one layer and direction, ``(G, D, I)``."""
        return self.input_weights(f"_l{layer}{'_reverse' if reverse else ''}").matrix()

    def input_weights(self, suffix: str) -> InputWeights:
        """The input projection's weights of one layer and direction."""
        layer = int(suffix.removesuffix("_reverse")[2:])
        size, features, weight = self.hidden_size, self._features(layer), getattr(self, f"weight_ih{suffix}")
        if isinstance(weight, NarrowWeight):  # of a full structure
            weight = weight.wide()
        if isinstance(weight, Tensor):
            weight = weight.unflatten(0, (len(self.cell.gates), -1))  # (G, *weight_shape)
        index = late_index(self, self.input_structure, size, self.weight_ih_l0, features, f"index_ih_l{layer}")
        return InputWeights.of(self.input_structure, size, features, weight, index, getattr(self, f"bias_ih{suffix}"))

    def recurrent_weights(self, suffix: str) -> RecurrentWeights:
        """The recurrent product's weights of one layer and direction."""
        index = late_index(self, self.structure, self.hidden_size, self.weight_hh_l0)
        gates = (len(self.cell.gates), -1)
        weight, bias = getattr(self, f"weight_hh{suffix}"), getattr(self, f"bias_hh{suffix}")
        bias = None if bias is None else bias.unflatten(0, gates)  # (G, D)
        if isinstance(weight, Tensor):
            weight = weight.unflatten(0, gates)  # (G, *weight_shape)
        return RecurrentWeights.of(self.structure, self.hidden_size, weight, index, bias)

    def _cell_of(self, suffix: str) -> Cell:
        """The cell of one layer and direction, with its own projection."""
        if not self.proj_size:
            return self.cell
        return LSTMCell(functools.partial(linear, weight=getattr(self, f"weight_hr{suffix}")))

    def _gate_inputs(self, x: Tensor, suffix: str) -> Tensor:
        if not isinstance(self.input_structure, Full):
            return self.input_weights(suffix).project(x)
        u = linear(x, getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}"))
        return u.view(*u.shape[:-1], len(self.cell.gates), self.hidden_size)  # (..., G, D)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Tensor | State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        hx: Tensor | State | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        """Processes whole sequences, like torch.nn.

        Args:
            input: ``(T, B, input_size)``, ``(B, T, input_size)`` with ``batch_first``, ``(T, input_size)`` without a
                batch, or a PackedSequence.
            state: ``(num_layers*directions, B, D)``, without a batch ``(num_layers*directions, D)``; for LSTM a pair
                ``(h, c)``, where h has ``P`` units with a projection. None starts at zero.
            lengths: valid steps of each padded row; past its length a row outputs zeros and keeps its state, and the
                padding, even NaN, affects no result and no gradient.
            hx: torch.nn's name of ``state``.

        Returns:
            Outputs ``(T, B, directions*D)``, with a projection ``directions*P``, in the layout of ``input``, and the
            state after each row's last step.

        Raises:
            ValueError: shapes, lengths or a type that don't fit, a sequence without steps, a state under both names.
        """
        if state is not None and hx is not None:
            raise ValueError("expected state or hx, which is torch.nn's name of it, got both")
        state = hx if state is None else state
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, state)
        self._check_input(input, (2, 3), "B, T" if self.batch_first else "T, B")
        batch = input.ndim == 3
        x = input if batch else input.unsqueeze(1)
        if batch and self.batch_first:
            x = x.transpose(0, 1)
        rows = self._open_state(state, x, batch)
        lengths = check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        if lengths is None and self._torch_is_faster(x):
            out, following = self._run_torch(x, self._close_state(rows, batch=True))
            if not batch:
                following = torch.utils._pytree.tree_map(lambda tensor: tensor.squeeze(1), following)
        else:
            out, rows = self._run(x, rows, lengths)
            following = self._close_state(rows, batch)
        if not batch:
            return out.squeeze(1), following
        return (out.transpose(0, 1) if self.batch_first else out), following

    def _forward_packed(
        self, packed: PackedSequence, state: Tensor | State | None
    ) -> tuple[PackedSequence, Tensor | State]:
        x, lengths = pad_packed_sequence(packed)  # in the caller's order
        self._check_input(x, (3,), "T, B")
        out, rows = self._run(x, self._open_state(state, x, True), lengths.to(x.device))
        if packed.sorted_indices is not None:
            out, lengths = out.index_select(1, packed.sorted_indices), lengths[packed.sorted_indices.cpu()]
        data = pack_padded_sequence(out, lengths).data
        repacked = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return repacked, self._close_state(rows, True)

    def _check_input(self, x: Tensor, dimensions: tuple[int, ...], layout: str) -> None:
        if not isinstance(x, Tensor):
            raise ValueError(f"expected input ({layout}, {self.input_size}) as a tensor, got {type(x).__name__}")
        if x.ndim not in dimensions or x.shape[-1] != self.input_size:
            raise ValueError(f"expected input ({layout}, {self.input_size}), got shape {tuple(x.shape)}")
        own = self.weight_ih_l0.dtype
        if x.dtype != own and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"expected input of {own}, the type of the weights, got {x.dtype}")

    def _torch_is_faster(self, x: Tensor) -> bool:
        """Whether torch's own kernel supports this layer and is faster than one matrix product per step.

        cuDNN always is. On the CPU, oneDNN first reorders the weights at every call, which pays off over many steps or
        in training.
        """
        full = str(self.structure) == str(self.input_structure) == "full"
        if self.cell.kernel not in TORCH_KERNELS or not full or forced() is not None:
            return False
        if not isinstance(self.weight_ih_l0, Tensor) or not isinstance(self.weight_hh_l0, Tensor):
            return False  # weights of few bits
        if torch.compiler.is_compiling() or len(x) == 0 or x.shape[1] == 0:
            return False
        if forward_mode() or batched():  # torch's kernels support neither
            return False
        if x.device.type == "cuda":
            return True
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight_hh_l0.requires_grad)
        return x.device.type == "cpu" and (len(x) >= 32 or (trains and len(x) > 1))

    def _run_torch(self, x: Tensor, state: Tensor | State) -> tuple[Tensor, Tensor | State]:
        """Runs all layers with torch.nn's kernel; the parameters have its names and order."""
        weights = [weight for weights in self.all_weights for weight in weights]
        run = TORCH_KERNELS[self.cell.kernel]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, False)
        own = self.weight_hh_l0.dtype
        # under autocast some of torch's kernels return fewer bits; the type must not depend on which kernel is faster
        out, *last = (tensor.to(own) for tensor in run(x, state, weights, *options))
        return out, last[0] if len(last) == 1 else tuple(last)

    def _run(self, x: Tensor, rows: list[State], lengths: Tensor | None) -> tuple[Tensor, list[State]]:
        """Runs all layers over ``x (T, B, input_size)``; ``rows`` holds one state for each layer and direction."""
        if x.shape[0] == 0:
            raise ValueError(
                "expected a sequence of at least one step, got none: without a step the state does not change"
            )
        x = without_padding(x, lengths)
        following: list[State] = []
        for number, suffix in enumerate(self.suffixes()):
            if number % self.directions == 0:
                source, outputs = x, []
            reverse = suffix.endswith("_reverse")
            u = self._gate_inputs(flipped(source, lengths) if reverse else source, suffix)
            out, last = ops.sequence(self._cell_of(suffix), self.recurrent_weights(suffix), u, rows[number], lengths)
            outputs.append(flipped(out, lengths) if reverse else out)
            following.append(last)
            if len(outputs) == self.directions:
                x = torch.cat(outputs, dim=2)  # (T, B, directions*output_size)
                if number + 1 < len(rows):
                    x = F.dropout(x, self.dropout, self.training)
        return x, following

    def step(self, x: Tensor, state: Tensor | State | None = None) -> tuple[Tensor, Tensor | State]:
        """One step of a stream: ``x (B, input_size)`` gives ``(B, D)`` and the next state (in `forward`'s layout).

        Raises:
            ValueError: a shape that doesn't fit.
            NotImplementedError: a bidirectional layer, which needs the future.
        """
        if self.bidirectional:
            raise NotImplementedError("expected a layer of one direction: a bidirectional one can't run step by step")
        self._check_input(x, (2,), "B")
        refresh(self)
        rows = self._open_state(state, x.unsqueeze(0), True)
        following = []
        for number, suffix in enumerate(self.suffixes()):
            u = self._gate_inputs(x, suffix).unsqueeze(0)  # (1, B, G, D)
            out, last = ops.sequence(self._cell_of(suffix), self.recurrent_weights(suffix), u, rows[number])
            following.append(last)
            x = out[0]
            if number + 1 < len(rows):
                x = F.dropout(x, self.dropout, self.training)
        return x, self._close_state(following, True)

    def _open_state(self, state: Tensor | State | None, x: Tensor, batch: bool) -> list[State]:
        """Converts torch's state layout to a tuple of ``(B, D)`` per layer and direction; h is ``(B, output_size)``."""
        count = self.num_layers * self.directions
        sizes = [self.output_size, self.hidden_size][: len(self.cell.states)]
        if state is None:
            zeros = tuple(self.weight_hh_l0.new_zeros(x.shape[1], size) for size in sizes)
            return [zeros] * count
        tensors = (state,) if isinstance(state, Tensor) else tuple(state)
        expected = [(count, x.shape[1], size) if batch else (count, size) for size in sizes]
        shapes = [tuple(tensor.shape) if isinstance(tensor, Tensor) else tensor for tensor in tensors]
        if shapes != expected:
            raise ValueError(f"expected {len(expected)} state tensors {expected}, got {shapes}")
        if not batch:
            tensors = tuple(tensor.unsqueeze(1) for tensor in tensors)
        return list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))

    def _close_state(self, rows: list[State], batch: bool) -> Tensor | State:
        tensors = tuple(torch.stack(column) for column in zip(*rows, strict=True))  # (layers*directions, B, D)
        if not batch:
            tensors = tuple(tensor.squeeze(1) for tensor in tensors)
        return tensors[0] if len(tensors) == 1 else tensors

    def extra_repr(self) -> str:
        """torch.nn's arguments that differ from its defaults, then the structure."""
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        defaults["bidirectional"] = False
        given = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        given["hidden"] = str(self.structure)
        given |= {} if isinstance(self.input_structure, Full) else {"inputs": str(self.input_structure)}
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *(f"{k}={v!r}" for k, v in given.items())])
