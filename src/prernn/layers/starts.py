"""How a recurrence is initialized: like torch.nn, so that it remembers, or so that the network still equals the CNN."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from prernn.layers.arguments import real
from prernn.layers.cells import Cell, GRUCell, LSTMCell, VRNNCell
from prernn.layers.structures.base import Structure
from prernn.layers.structures.regular import Diagonal

LASTING: Literal["lasting"] = "lasting"
"""A state lasts for about ten frames: see `lasting_gain` and `_spread`."""

CNN: Literal["cnn"] = "cnn"
"""The network starts as the CNN: ``W_hh = 0``, gates pass their inputs through, `Restoration` restores the scale."""

KEPT = 0.933
"""Share of a state that remains after one frame: half of it remains after 10 frames."""

FRAMES = 30
"""How long the longest memory among a diagonal GRU's units initially lasts, in frames."""

OPEN = 3.0
"""Bias of an open gate; a closed gate has its negative: sigmoid(3) = 0.95."""


def gain_of(start: float | str, cell: Cell, structure: Structure) -> float:
    """The initial scale of ``W_hh``, as a multiple of ``+-1/sqrt(fan_in)``.

    Args:
        start: this multiple as a number, or "lasting" or "cnn".

    Raises:
        ValueError: another string, or a number below 0.
        NotImplementedError: "cnn" with a cell other than vrnn, lstm or gru.
    """
    if not isinstance(start, str):
        return real("start", start, 0)
    if start not in (LASTING, CNN):
        raise ValueError(f"start: expected a number from 0 on, {LASTING!r} or {CNN!r}, got {start!r}")
    if start == CNN:
        if not isinstance(cell, GRUCell | LSTMCell | VRNNCell):
            raise NotImplementedError(f"start={CNN!r}: expected the cell vrnn, lstm or gru, got {type(cell).__name__}")
        return 0.0
    return 1.0 if _each_alone(cell, structure) else lasting_gain(cell)


@torch.no_grad()
def set_biases(bias: Tensor, start: float | str, cell: Cell, structure: Structure) -> None:
    """Sets the biases ``(G, D)`` that a start requires; for other starts they are left as they are."""
    if start == LASTING and _each_alone(cell, structure):
        _spread(bias, cell)
    if start == CNN:
        for gate, side in _opened(cell).items():
            bias[cell.gates.index(gate)] = side * OPEN


def _opened(cell: Cell) -> dict[str, int]:
    """Gates that are open (1) or closed (-1) in a network that starts as the CNN: input passes, old state doesn't."""
    if isinstance(cell, GRUCell):
        return {"z": 1 if cell.update == "new" else -1}
    return {"i": 1, "f": -1, "o": 1} if isinstance(cell, LSTMCell) else {}


def passed(cell: Cell) -> float:
    """The factor by which open gates scale a small input on its way to the output."""
    return 1 / (1 + math.exp(-OPEN)) ** sum(side > 0 for side in _opened(cell).values())


def lasting_gain(cell: Cell) -> float:
    """The gain of ``W_hh`` with which a recurrence near zero keeps a share of 0.933 of its state from frame to frame.

    Near zero, where `prernn.calibrate` puts gate inputs, a step is linear, ``s_t = (k I + m W_hh) s_{t-1}`` plus input:
    a GRU's gates are at 1/2, so that k = 1/2 and m = 1/4; in a VRNN k = 0 and m is the root mean square of the
    activation's slopes on both sides of zero, 1 for tanh, sqrt(1/2) for ReLU. ``W_hh`` uniform in ``+-gain/sqrt(n)``
    has a spectral radius of ``gain/sqrt(3)`` (the circular law), so the step has one of ``k + m gain/sqrt(3)``. With a
    gain of 1, as in torch.nn, an untrained GRU's state loses half in 1.6 frames, and earlier frames get hardly any
    gradient. If the radius is above 1, a state grows until it saturates.

    An LSTM starts with a gain of 1. The same analysis holds for it near zero, but its cell state accumulates where a
    GRU averages: larger gains made its states overflow in training (docs/results.md), and with 1 it already learns to
    remember.

    Example:
        >>> from prernn.layers.cells import LSTMCell
        >>> [round(lasting_gain(cell), 2) for cell in (GRUCell(), LSTMCell(), VRNNCell(), VRNNCell(torch.relu))]
        [3.0, 1.0, 1.62, 2.29]

    Args:
        cell: for any cell other than a GRU or VRNN the gain is 1.
    """
    if isinstance(cell, GRUCell):
        kept, slope = 1 / 2, 1 / 4
    elif isinstance(cell, VRNNCell):
        kept, slope = 0.0, _slope(cell.activation)
    else:
        return 1.0
    return math.sqrt(3) * (KEPT - kept) / slope if slope else 1.0


def _spread(bias: Tensor, cell: Cell) -> None:
    """Initializes the units of a diagonal GRU with memories of 2 to 30 frames.

    If each unit only receives itself, units have no collective mode that could last. So each unit gets its own time
    constant through the bias of its update gate, ``-log U(1, T - 1)``, which sets the share of a new value that it
    takes in every frame (Tallec and Ollivier, "Can recurrent neural networks warp time?", 2018, section 2).
    """
    assert isinstance(cell, GRUCell)
    lasts = torch.log(torch.empty_like(bias[1]).uniform_(1, FRAMES - 1))
    bias[1] = -lasts if cell.update == "new" else lasts


def _each_alone(cell: Cell, structure: Structure) -> bool:
    return isinstance(cell, GRUCell) and isinstance(structure, Diagonal)


@torch.no_grad()
def _slope(activation: Callable[[Tensor], Tensor]) -> float:
    """Root mean square of the slopes left and right of zero; 1 on the meta device, where nothing is computed."""
    parameters = list(activation.parameters()) if isinstance(activation, nn.Module) else []
    like = next(iter(parameters), torch.zeros(()))  # a PReLU's may be on another device, or in another precision
    if like.is_meta:
        return 1.0
    step, units = 0.01, max([1, *(each.numel() for each in parameters)])  # a PReLU may have one for each unit
    x = like.new_tensor([[-2.0], [-1.0], [1.0], [2.0]]) * step
    left_2, left_1, right_1, right_2 = activation(x.repeat(1, units))
    slopes = torch.stack([left_1 - left_2, right_2 - right_1]) / step
    return float(slopes.square().mean().sqrt())
