"""Drop-ins for torch.nn.RNN, LSTM and GRU whose hidden-to-hidden weights have any structure."""

from prernn.layers.cells import ACTIVATIONS, GRUCell, LSTMCell, VRNNCell
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.layers.structures.base import Structure

__all__ = ["GRU", "LSTM", "VRNN", "RecurrentStack"]


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
        **arguments,
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
        **arguments,
    ):
        if proj_size:
            raise NotImplementedError(f"expected proj_size=0, got {proj_size}: projections are not supported")
        super().__init__(LSTMCell(), input_size, hidden_size, num_layers, hidden=hidden, **arguments)


class GRU(RecurrentStack):
    """torch.nn.GRU with any structure of ``W_hh``; gate order r, z, n.

    ``reset="after"`` is torch's and cuDNN's ``n = tanh(W_in x + b_in + r*(W_hn h + b_hn))``; ``reset="before"``
    resets the state before the product, ``n = tanh(W_in x + b_in + W_hn (r*h) + b_hn)`` (PreRNN, eq. 3).
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
        reset: str = "after",
        **arguments,
    ):
        cell = GRUCell(reset=reset, update="old")
        super().__init__(cell, input_size, hidden_size, num_layers, hidden=hidden, **arguments)
        self.reset = reset
