"""How large a recurrence starts, so that it remembers before it has learnt to."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from prernn.layers.arguments import real
from prernn.layers.cells import Cell, GRUCell, VRNNCell
from prernn.layers.structures.base import Structure
from prernn.layers.structures.regular import Diagonal

LASTING: Literal["lasting"] = "lasting"
"""In place of a gain: that of `lasting_gain`."""

KEPT = 0.933
"""Share of a state that is left after a frame: half in 10 frames."""


FRAMES = 30
"""That the longest memory of a diagonal GRU's units lasts at the start."""


def lasting_or(gain: float | str, cell: Cell, structure: Structure) -> float:
    """A gain, or that of `lasting_gain` for "lasting".

    Raises:
        ValueError: another word, or a number below 0.
    """
    if isinstance(gain, str) and gain != LASTING:
        raise ValueError(f"hidden_gain: expected a number from 0 on or {LASTING!r}, got {gain!r}")
    if not isinstance(gain, str):
        return real("hidden_gain", gain, 0)
    return 1.0 if _each_alone(cell, structure) else lasting_gain(cell)


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


@torch.no_grad()
def spread_(bias: Tensor, cell: Cell, structure: Structure) -> None:
    """Lets the units of a diagonal GRU begin with memories of 2 to 30 frames; any other recurrence is left alone.

    Where a unit hears itself alone, many units have no common mode that could last. So each gets a time of its own by
    the bias of its update gate, ``-log U(1, T - 1)``: it takes a new value at a rate of one in so many frames (Tallec
    and Ollivier, "Can recurrent neural networks warp time?", 2018, section 2).
    """
    if not _each_alone(cell, structure):
        return
    assert isinstance(cell, GRUCell)
    lasts = torch.log(torch.empty_like(bias[1]).uniform_(1, FRAMES - 1))
    bias[1] = -lasts if cell.update == "new" else lasts


def _each_alone(cell: Cell, structure: Structure) -> bool:
    return isinstance(cell, GRUCell) and isinstance(structure, Diagonal)


@torch.no_grad()
def _slope(activation: Callable[[Tensor], Tensor]) -> float:
    """Root mean square of the slopes left and right of zero; 1 on the meta device, where nothing is computed."""
    if isinstance(activation, nn.Module) and any(parameter.is_meta for parameter in activation.parameters()):
        return 1.0
    step = 0.01
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]) * step
    left_2, left_1, right_1, right_2 = activation(x.clone()).flatten()  # it may work in place
    slopes = torch.stack([left_1 - left_2, right_2 - right_1]) / step
    return float(slopes.square().mean().sqrt())
