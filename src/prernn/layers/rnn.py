"""Drop-ins for torch.nn.RNN, LSTM and GRU whose hidden-to-hidden and input weights have any structure."""

import torch
from torch.types import Device

from prernn.layers.cells import ACTIVATIONS, GRUCell, LSTMCell, VRNNCell
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.layers.structures.base import Structure

__all__ = ["GRU", "LSTM", "VRNN", "RecurrentStack"]


class VRNN(RecurrentStack):
    """Vanilla recurrence with any structure of ``W_hh``, a drop-in for torch.nn.RNN (PreRNN, eq. 1).

    ``h_t = H(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``, where H is tanh or ReLU.

    Example:
        >>> import torch, prernn
        >>> layer = prernn.VRNN(3, 8, hidden="band:3")
        >>> out, h = layer(torch.randn(5, 2, 3))
        >>> out.shape, h.shape
        (torch.Size([5, 2, 8]), torch.Size([1, 2, 8]))
        >>> out_t, h = layer.step(torch.randn(2, 3), h)
        >>> out_t.shape
        torch.Size([2, 8])

    Inputs are ``(T, B, input_size)`` (``(B, T, input_size)`` with ``batch_first``, ``(T, input_size)`` without a
    batch, or packed), outputs ``(T, B, directions*D)``, the state ``(num_layers*directions, B, D)``; `step` takes
    ``(B, input_size)`` to ``(B, D)``. Arguments are torch.nn.RNN's, in the same order, plus the keyword arguments.

    Args:
        input_size: features of the input.
        hidden_size: units ``D`` of each layer and direction.
        num_layers: number of layers, each fed by the outputs of the previous one.
        nonlinearity: torch.nn's name of ``activation``.
        bias: whether there are ``b_ih`` and ``b_hh``, ``(D,)`` each.
        batch_first: whether inputs and outputs have the batch first; it does not affect states.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: whether each layer also runs backwards in time.
        device: device of the parameters.
        dtype: type of the parameters.
        hidden: structure of ``W_hh``: "full", "diagonal", "band:9", "grouped:4", "sparse:0.03", "paths:16"...
        inputs: structure of each layer's ``W_ih``, over that layer's inputs, given in the same way.
        activation: H, "tanh" (the default if neither name is given) or "relu".

    Raises:
        ValueError: an argument out of range, an unknown activation or structure, or ``nonlinearity`` and ``activation``
            that differ.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str | None = None,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        hidden: str | Structure = "full",
        inputs: str | Structure = "full",
        activation: str | None = None,
    ):
        if None not in (nonlinearity, activation) and nonlinearity != activation:
            both = f"nonlinearity={nonlinearity!r} and activation={activation!r}"
            raise ValueError(f"expected one activation under its two names, got {both}")
        name = next((given for given in (nonlinearity, activation) if given is not None), "tanh")
        if name not in ACTIVATIONS:
            raise ValueError(f"expected activation to be one of {', '.join(ACTIVATIONS)}, got {name!r}")
        super().__init__(
            VRNNCell(ACTIVATIONS[name]),
            input_size,
            hidden_size,
            num_layers,
            hidden=hidden,
            inputs=inputs,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
        )
        self.activation = self.nonlinearity = name

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class LSTM(RecurrentStack):
    """Long short-term memory with any structure of ``W_hh``, a drop-in for torch.nn.LSTM (PreRNN, eq. 2).

    ``i, f, o = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``, ``g = tanh(...)`` of the same form, with the gates in
    the order i, f, g, o; ``c_t = f*c_{t-1} + i*g`` and ``h_t = o*tanh(c_t)``. With ``proj_size``,
    ``h_t = W_hr (o*tanh(c_t))`` (Sak et al., 2014, as in torch.nn.LSTM).

    Example:
        >>> import torch, prernn
        >>> layer = prernn.LSTM(3, 8, 2, batch_first=True, hidden="diagonal")
        >>> out, (h, c) = layer(torch.randn(2, 5, 3))
        >>> out.shape, h.shape, c.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 2, 8]), torch.Size([2, 2, 8]))
        >>> out_t, (h, c) = layer.step(torch.randn(2, 3), (h, c))
        >>> out_t.shape
        torch.Size([2, 8])

    Inputs are ``(T, B, input_size)`` (``(B, T, input_size)`` with ``batch_first``, ``(T, input_size)`` without a
    batch, or packed), outputs ``(T, B, directions*D)``, the state a pair of ``(num_layers*directions, B, D)``; with a
    projection, outputs and h have ``P`` units instead of ``D``. `step` takes ``(B, input_size)`` to ``(B, D)``.
    Arguments are torch.nn.LSTM's, in the same order, plus the keyword arguments.

    Args:
        input_size: features of the input.
        hidden_size: units ``D`` of each layer and direction.
        num_layers: number of layers, each fed by the outputs of the previous one.
        bias: whether there are ``b_ih`` and ``b_hh``, ``(4*D,)`` each.
        batch_first: whether inputs and outputs have the batch first; it does not affect states.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: whether each layer also runs backwards in time.
        proj_size: units ``P`` that h is projected to, fewer than ``D``; 0 for none. Only with ``hidden="full"``.
        device: device of the parameters.
        dtype: type of the parameters.
        hidden: structure of ``W_hh``: "full", "diagonal", "band:9", "grouped:4", "sparse:0.03", "paths:16"...
        inputs: structure of each layer's ``W_ih``, over that layer's inputs, given in the same way.

    Raises:
        ValueError: an argument out of range, an unknown structure.
        NotImplementedError: ``proj_size`` with a structure other than full, which is square.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        hidden: str | Structure = "full",
        inputs: str | Structure = "full",
    ):
        super().__init__(
            LSTMCell(),
            input_size,
            hidden_size,
            num_layers,
            hidden=hidden,
            inputs=inputs,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )


class GRU(RecurrentStack):
    """Gated recurrent unit with any structure of ``W_hh``, a drop-in for torch.nn.GRU.

    ``r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``, ``n = tanh(W_in x_t + b_in + r*(W_hn h_{t-1} + b_hn))``
    and ``h_t = (1-z)*n + z*h_{t-1}``, with the gates in the order r, z, n (torch.nn.GRU and cuDNN).

    ``reset="before"`` resets the state before the product, ``n = tanh(W_in x_t + b_in + W_hn (r*h_{t-1}) + b_hn)``
    (PreRNN, eq. 3). In both forms ``z`` has torch's meaning, the share of the *old* state. In eq. 3 it is the other way
    round: its ``z`` is ``1-z`` here, that is, the ``z`` rows of weights and biases have the opposite sign.
    (`prernn.convert` and `prernn.traditional` use eq. 3 as it stands.)

    Example:
        >>> import torch, prernn
        >>> layer = prernn.GRU(3, 8, bidirectional=True, hidden="sparse:0.2")
        >>> out, h = layer(torch.randn(5, 2, 3))
        >>> out.shape, h.shape
        (torch.Size([5, 2, 16]), torch.Size([2, 2, 8]))
        >>> ours, theirs = prernn.GRU(3, 8), torch.nn.GRU(3, 8)
        >>> ours.load_state_dict(theirs.state_dict())
        <All keys matched successfully>

    Inputs are ``(T, B, input_size)`` (``(B, T, input_size)`` with ``batch_first``, ``(T, input_size)`` without a
    batch, or packed), outputs ``(T, B, directions*D)``, the state ``(num_layers*directions, B, D)``; `step` takes
    ``(B, input_size)`` to ``(B, D)``. Arguments are torch.nn.GRU's, in the same order, plus the keyword arguments.

    Args:
        input_size: features of the input.
        hidden_size: units ``D`` of each layer and direction.
        num_layers: number of layers, each fed by the outputs of the previous one.
        bias: whether there are ``b_ih`` and ``b_hh``, ``(3*D,)`` each.
        batch_first: whether inputs and outputs have the batch first; it does not affect states.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: whether each layer also runs backwards in time.
        device: device of the parameters.
        dtype: type of the parameters.
        hidden: structure of ``W_hh``: "full", "diagonal", "band:9", "grouped:4", "sparse:0.03", "paths:16"...
        inputs: structure of each layer's ``W_ih``, over that layer's inputs, given in the same way.
        reset: "after" the recurrent product, as in torch, or "before" it, as in eq. 3.

    Raises:
        ValueError: an argument out of range, an unknown structure or reset.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        hidden: str | Structure = "full",
        inputs: str | Structure = "full",
        reset: str = "after",
    ):
        super().__init__(
            GRUCell(reset=reset, update="old"),
            input_size,
            hidden_size,
            num_layers,
            hidden=hidden,
            inputs=inputs,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
        )
        self.reset = reset

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reset={self.reset!r}"
