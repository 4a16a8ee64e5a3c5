"""Gate equations: pure functions of gate inputs, state and the recurrent products.

A cell defines its gates and state tensors, which ranges of gates share a recurrent product (``groups``), and how to
compute a step. It holds no weights. Gate inputs ``u`` are ``(N, G, D)``, state tensors ``(N, D)``; ``products[k](h)``
is ``W_hh h + b`` for the gates of ``groups[k]``, ``(N, last-first, D)``.

``kernel`` is the name by which the kernels of `prernn.ops` know the cell, or None if they do not support it.

Gates after the last of ``groups`` do not see the state: they have no ``W_hh``. If no gate sees the state, the cell is
an affine recurrence over time and has ``affine`` (`Affine`), so that all steps run in parallel (`prernn.ops.scan`).

A cell that requires a particular structure of ``W_hh`` names it as ``structure``.

A new cell needs one class and one line in `CELLS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prernn.layers.names import look_up
from prernn.ops.reference import Product, State

Range = tuple[float, float]

SIGMOID: Range = (0.0, 1.0)
TANH: Range = (-1.0, 1.0)


class Cell(Protocol):
    """The interface of every cell."""

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates, in order."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the state tensors; the first is the output."""

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Ranges of gates that share a recurrent product."""

    @property
    def own_gate(self) -> int:
        """The gate that keeps the CNN's own weights when a layer is converted."""

    @property
    def ranges(self) -> tuple[Range | None, ...]:
        """Lowest and highest activation of each gate, None if it is unbounded; sigmoid gates have (0, 1)."""

    @property
    def kernel(self) -> str | None:
        """Name of the cell's kernels, or None."""

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        """The output of each gate, ``(N, D)``, from gate inputs ``(N, G, D)`` and ``h_{t-1}`` ``(N, D)``."""

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        """The next state; its first tensor is also the output."""


def recurrent_gates(cell: Cell) -> int:
    """The number of a cell's gates that see the state through a recurrent product, ``W_hh h``."""
    return max((last for _, last in cell.groups), default=0)


ROW_STATES = ("started",)
"""State tensors with one number per stream, ``(B, 1)``; all others have one per unit and position."""

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
KERNEL_ACTIVATIONS = {
    torch.tanh: "tanh",
    F.tanh: "tanh",
    nn.Tanh: "tanh",
    torch.relu: "relu",
    F.relu: "relu",
    nn.ReLU: "relu",
}
"""Activation functions and module classes that the kernels support, with the kernels' names for them."""


@dataclass(frozen=True)
class VRNNCell:
    """Vanilla recurrence ``h_t = H(u_t + W_hh h_{t-1})`` (PreRNN, eqs. 1 and 5)."""

    activation: Callable[[Tensor], Tensor] = torch.tanh
    gates: tuple[str, ...] = ("h",)
    states: tuple[str, ...] = ("h",)
    groups: tuple[tuple[int, int], ...] = ((0, 1),)
    own_gate: int = 0

    @property
    def kernel(self) -> str | None:
        known = type(self.activation) if isinstance(self.activation, nn.Module) else self.activation
        name = KERNEL_ACTIVATIONS.get(known)
        return name and f"vrnn:{name}"

    @property
    def ranges(self) -> tuple[Range | None, ...]:
        return (TANH if self.kernel == "vrnn:tanh" else None,)

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        return (self.activation((u + products[0](h)).squeeze(1)),)

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        return self.activations(u, state[0], products)


@dataclass(frozen=True)
class LSTMCell:
    """Long short-term memory, gates in torch's order i, f, g, o (PreRNN, eqs. 2, 8 and 11; g is the paper's c~).

    ``projection`` maps ``o * tanh(c)``, ``(N, D)``, to the h that is the output and is fed back (torch's
    ``proj_size``); None leaves it unchanged.
    """

    projection: Callable[[Tensor], Tensor] | None = None
    gates: tuple[str, ...] = ("i", "f", "g", "o")
    states: tuple[str, ...] = ("h", "c")
    groups: tuple[tuple[int, int], ...] = ((0, 4),)
    own_gate: int = 2
    ranges: tuple[Range, ...] = (SIGMOID, SIGMOID, TANH, SIGMOID)

    @property
    def kernel(self) -> str | None:
        return "lstm" if self.projection is None else None

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        i, f, g, o = (u + products[0](h)).unbind(1)
        return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        h, c = state
        i, f, g, o = self.activations(u, h, products)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h if self.projection is None else self.projection(h), c


@dataclass(frozen=True)
class GRUCell:
    """Gated recurrent unit, gates in the order r, z, n (PreRNN, eqs. 3, 9 and 12; n is the paper's h~).

    ``reset="before"`` (eq. 3) resets the state before the product, ``n = tanh(u_n + W_n (r*h))``;
    ``reset="after"`` (torch, cuDNN) after it, ``n = tanh(u_n + r*(W_n h))``.
    ``update="new"`` (eq. 3) lets z weigh the candidate, ``h_t = (1-z)*h + z*n``;
    ``update="old"`` (torch) lets it weigh the old state, ``h_t = (1-z)*n + z*h``.
    """

    reset: str = "before"
    update: str = "new"
    gates: tuple[str, ...] = ("r", "z", "n")
    states: tuple[str, ...] = ("h",)
    groups: tuple[tuple[int, int], ...] = field(init=False)
    own_gate: int = 2
    ranges: tuple[Range, ...] = (SIGMOID, SIGMOID, TANH)

    def __post_init__(self) -> None:
        if self.reset not in ("before", "after"):
            raise ValueError(f"expected reset='before' or 'after', got {self.reset!r}")
        if self.update not in ("new", "old"):
            raise ValueError(f"expected update='new' or 'old', got {self.update!r}")
        groups = ((0, 2), (2, 3)) if self.reset == "before" else ((0, 3),)
        object.__setattr__(self, "groups", groups)

    @property
    def kernel(self) -> str:
        return f"gru:{self.reset}:{self.update}"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        if self.reset == "before":
            r, z = torch.sigmoid(u[:, :2] + products[0](h)).unbind(1)
            return r, z, torch.tanh(u[:, 2] + products[1](r * h).squeeze(1))
        recurrent = products[0](h)  # (N, 3, D)
        r, z = torch.sigmoid(u[:, :2] + recurrent[:, :2]).unbind(1)
        return r, z, torch.tanh(u[:, 2] + r * recurrent[:, 2])

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        (h,) = state
        _, z, n = self.activations(u, h, products)
        return (torch.lerp(h, n, z) if self.update == "new" else torch.lerp(n, h, z),)


@dataclass(frozen=True)
class LinearCell:
    """The hidden-state convolution of RCN: ``h_t = (u_t + W_hh h_{t-1} + b) / 2``, and ``h_1 = u_1``.

    ``mix="sum"`` leaves out the factor 1/2. ``started (N, 1)`` tells for each row whether it has a state yet, 0 or 1.
    The cell is used by `prernn.convert_rcn` only; `prernn.convert` can't use it, hence it is not in `CELLS`.
    """

    mix: str = "mean"
    gates: tuple[str, ...] = ("h",)
    states: tuple[str, ...] = ("h", "started")
    groups: tuple[tuple[int, int], ...] = ((0, 1),)
    own_gate: int = 0
    ranges: tuple[None] = (None,)

    def __post_init__(self) -> None:
        if self.mix not in ("mean", "sum"):
            raise ValueError(f"expected mix='mean' or 'sum', got {self.mix!r}")

    @property
    def scale(self) -> float:
        """Factor of the sum."""
        return 0.5 if self.mix == "mean" else 1.0

    @property
    def kernel(self) -> str:
        return f"linear:{self.mix}"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        """The mix for rows that have a state; `step` handles ``h_1 = u_1``."""
        return ((u + products[0](h)).squeeze(1) * self.scale,)

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        h, started = state
        (mixed,) = self.activations(u, h, products)
        return torch.where(started > 0, mixed, u.squeeze(1)), torch.ones_like(started)


@dataclass(frozen=True)
class LiGRUCell:
    """Light GRU (Ravanelli et al., "Light Gated Recurrent Units for Speech Recognition", 2018), without a reset gate.

    ``z = sigmoid(u_z + W_z h)``, ``n = relu(u_n + W_n h)``, ``h_t = z*h + (1-z)*n``. The paper's batch normalization of
    the inputs is that of the CNN, if it has one.
    """

    gates: tuple[str, ...] = ("z", "n")
    states: tuple[str, ...] = ("h",)
    groups: tuple[tuple[int, int], ...] = ((0, 2),)
    own_gate: int = 1
    ranges: tuple[Range | None, ...] = (SIGMOID, None)
    kernel: str = "ligru"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        z, n = (u + products[0](h)).unbind(1)
        return torch.sigmoid(z), torch.relu(n)

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        z, n = self.activations(u, state[0], products)
        return (z * state[0] + (1 - z) * n,)


@dataclass(frozen=True)
class IndRNNCell:
    """Independent units (Li et al., "Independently Recurrent Neural Network (IndRNN)", CVPR 2018, eq. 2).

    ``h_t = relu(u_t + w*h_{t-1})``: a VRNN with ReLU whose ``W_hh`` is diagonal, whatever ``hidden`` says.
    """

    gates: tuple[str, ...] = ("h",)
    states: tuple[str, ...] = ("h",)
    groups: tuple[tuple[int, int], ...] = ((0, 1),)
    own_gate: int = 0
    ranges: tuple[Range | None, ...] = (None,)
    kernel: str = "vrnn:relu"
    structure: str = "diagonal"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        return (torch.relu((u + products[0](h)).squeeze(1)),)

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        return self.activations(u, state[0], products)


class Affine(Protocol):
    """The additional interface of a cell whose gates do not see the state."""

    def affine(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and ``b (..., D)`` of ``s_t = a_t * s_{t-1} + b_t`` for ``u (..., G, D)``; s is the last state."""

    def output(self, u: Tensor, s: Tensor) -> Tensor:
        """The output ``(..., D)`` from gate inputs and ``s_t``."""


class NoProducts:
    """The step of an `Affine` cell."""

    groups: tuple[tuple[int, int], ...] = ()

    def step(self: Any, u: Tensor, state: State, products: list[Product]) -> State:
        """The next state."""
        a, b = self.affine(u)
        s = a * state[-1] + b
        return (s,) if len(state) == 1 else (self.output(u, s), s)


@dataclass(frozen=True)
class QRNNCell(NoProducts):
    """Quasi-recurrent network (Bradbury, Merity, Xiong and Socher, ICLR 2017) with a window of 1 and fo-pooling.

    ``z = tanh(u_z)``, ``f = sigmoid(u_f)``, ``o = sigmoid(u_o)``, ``c_t = f*c + (1-f)*z``, ``h_t = o*c_t``: similar to
    an LSTM whose gates do not see h, and whose input gate is 1 - f.
    """

    gates: tuple[str, ...] = ("z", "f", "o")
    states: tuple[str, ...] = ("h", "c")
    own_gate: int = 0
    ranges: tuple[Range | None, ...] = (TANH, SIGMOID, SIGMOID)
    kernel: str = "qrnn"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        z, f, o = u.unbind(-2)
        return torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)

    def affine(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.sigmoid(u[..., 1, :])
        return f, (1 - f) * torch.tanh(u[..., 0, :])

    def output(self, u: Tensor, s: Tensor) -> Tensor:
        return torch.sigmoid(u[..., 2, :]) * s


@dataclass(frozen=True)
class SRUCell(NoProducts):
    """Simple recurrent unit (Lei and Zhang, "Training RNNs as Fast as CNNs", 2017, eqs. 3 to 7).

    ``f = sigmoid(u_f)``, ``r = sigmoid(u_r)``, ``c_t = f*c + (1-f)*u_x``, ``h_t = r*tanh(c_t) + (1-r)*u_s``. The
    highway input ``u_s`` is separate, as in the paper when sizes differ. Their later cell, whose gates see c, is not
    affine and not available.
    """

    gates: tuple[str, ...] = ("x", "f", "r", "s")
    states: tuple[str, ...] = ("h", "c")
    own_gate: int = 0
    ranges: tuple[Range | None, ...] = (None, SIGMOID, SIGMOID, None)
    kernel: str = "sru"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        x, f, r, s = u.unbind(-2)
        return x, torch.sigmoid(f), torch.sigmoid(r), s

    def affine(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.sigmoid(u[..., 1, :])
        return f, (1 - f) * u[..., 0, :]

    def output(self, u: Tensor, s: Tensor) -> Tensor:
        r = torch.sigmoid(u[..., 2, :])
        return r * torch.tanh(s) + (1 - r) * u[..., 3, :]


@dataclass(frozen=True)
class MinGRUCell(NoProducts):
    """minGRU (Feng et al., "Were RNNs All We Needed?", 2024, section 3.1).

    ``z = sigmoid(u_z)``, ``h_t = (1-z)*h + z*u_h``.
    """

    gates: tuple[str, ...] = ("z", "h")
    states: tuple[str, ...] = ("h",)
    own_gate: int = 1
    ranges: tuple[Range | None, ...] = (SIGMOID, None)
    kernel: str = "mingru"

    def activations(self, u: Tensor, h: Tensor, products: list[Product]) -> tuple[Tensor, ...]:
        z, new = u.unbind(-2)
        return torch.sigmoid(z), new

    def affine(self, u: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(u[..., 0, :])
        return 1 - z, z * u[..., 1, :]

    def output(self, u: Tensor, s: Tensor) -> Tensor:
        return s


CELLS: dict[str, Callable[..., Cell]] = {
    "vrnn": VRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "ligru": LiGRUCell,
    "indrnn": IndRNNCell,
    "qrnn": QRNNCell,
    "sru": SRUCell,
    "mingru": MinGRUCell,
}
"""The cells by name. The last three are affine in their state."""


def make_cell(name: str, **arguments: Any) -> Cell:
    """The cell called ``name``: one of `CELLS`, or a user's own class (`prernn.layers.names.look_up`).

    Raises:
        ValueError: an unknown name, or a class that is no cell.
    """
    cell: Cell = look_up(name, CELLS, "cell", "step")(**arguments)
    return cell
