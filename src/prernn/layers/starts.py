"""How a recurrence starts: as torch.nn's, so that it remembers, or so that the network is the CNN still."""

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
"""A state lasts some ten frames: see `lasting_gain` and `_spread`."""

CNN: Literal["cnn"] = "cnn"
"""The network begins as the CNN: ``W_hh = 0``, gates let pass what they read, `Restoration` brings its scale back."""

KEPT = 0.933
"""Share of a state that is left after a frame: half in 10 frames."""

FRAMES = 30
"""That the longest memory of a diagonal GRU's units lasts at the start."""

OPEN = 3.0
"""Bias of a gate that lets pass, its negative that of one that is shut: sigmoid(3) = 0.95."""


def gain_of(start: float | str, cell: Cell, structure: Structure) -> float:
    """How large ``W_hh`` starts, as a multiple of ``+-1/sqrt(fan_in)``.

    Args:
        start: a number, that multiple itself; "lasting" or "cnn".

    Raises:
        ValueError: another word, or a number below 0.
        NotImplementedError: "cnn" of a cell that is not prernn's own.
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
    """Biases ``(G, D)`` that a start asks for; zeros are left for any other."""
    if start == LASTING and _each_alone(cell, structure):
        _spread(bias, cell)
    if start == CNN:
        for gate, side in _opened(cell).items():
            bias[cell.gates.index(gate)] = side * OPEN


def _opened(cell: Cell) -> dict[str, int]:
    """Gates that stand open (1) or shut (-1) where a network begins as the CNN: what is new passes, what is old not."""
    if isinstance(cell, GRUCell):
        return {"z": 1 if cell.update == "new" else -1}
    return {"i": 1, "f": -1, "o": 1} if isinstance(cell, LSTMCell) else {}


def passed(cell: Cell) -> float:
    """What opened gates let pass of a small input: the share of it that the output is."""
    return 1 / (1 + math.exp(-OPEN)) ** sum(side > 0 for side in _opened(cell).values())


def lasting_gain(cell: Cell) -> float:
    """The gain of ``W_hh`` with which a recurrence near zero keeps a share of 0.933 of its state from frame to frame.

    Near zero, where `prernn.calibrate` puts gate inputs, a step is linear, ``s_t = (k I + m W_hh) s_{t-1}`` plus input:
    a GRU's gates stand at 1/2, so that k = 1/2 and m = 1/4; in a VRNN k = 0 and m is the root mean square of the
    activation's slopes on both sides of zero, 1 for tanh, sqrt(1/2) for ReLU. ``W_hh`` uniform in ``+-gain/sqrt(n)``
    has a spectral radius of ``gain/sqrt(3)`` (the circular law), and the step one of ``k + m gain/sqrt(3)``. From a
    gain of 1, torch.nn's, a GRU's state loses half in 1.6 frames before anything is learnt, and what was earlier has
    hardly a gradient. Where the radius is above 1 a state grows until it saturates.

    An LSTM starts at 1. The same numbers hold for it near zero, but its cell adds up where a GRU takes means: larger
    starts made its states overflow in training (docs/results.md), and from 1 it learns to remember as it is.

    Example:
        >>> from prernn.layers.cells import LSTMCell
        >>> [round(lasting_gain(cell), 2) for cell in (GRUCell(), LSTMCell(), VRNNCell(), VRNNCell(torch.relu))]
        [3.0, 1.0, 1.62, 2.29]

    Args:
        cell: for one that is not prernn's own the gain is 1.
    """
    if isinstance(cell, GRUCell):
        kept, slope = 1 / 2, 1 / 4
    elif isinstance(cell, VRNNCell):
        kept, slope = 0.0, _slope(cell.activation)
    else:
        return 1.0
    return math.sqrt(3) * (KEPT - kept) / slope if slope else 1.0


def _spread(bias: Tensor, cell: Cell) -> None:
    """Lets the units of a diagonal GRU begin with memories of 2 to 30 frames.

    Where a unit hears itself alone, many units have no common mode that could last. So each gets a time of its own by
    the bias of its update gate, ``-log U(1, T - 1)``: it takes a new value at a rate of one in so many frames (Tallec
    and Ollivier, "Can recurrent neural networks warp time?", 2018, section 2).
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
    like = next(iter(parameters), torch.zeros(()))  # that of a PReLU may lie elsewhere, or in another precision
    if like.is_meta:
        return 1.0
    step, units = 0.01, max([1, *(each.numel() for each in parameters)])  # and have one for each unit
    x = like.new_tensor([[-2.0], [-1.0], [1.0], [2.0]]) * step
    left_2, left_1, right_1, right_2 = activation(x.repeat(1, units))
    slopes = torch.stack([left_1 - left_2, right_2 - right_1]) / step
    return float(slopes.square().mean().sqrt())
