"""Kernels for sequences behind one interface.

`sequence` runs a cell over time. `reference` defines the correct result, in plain torch, for every cell, structure and
type. `native` (C, on the CPU) and `triton` (on a GPU) compute the same in one pass, for diagonal and band structures
(`prernn.ops.fused`). The choice is automatic; ``PRERNN_OPS`` forces one. If there is no kernel for it, a linear
diagonal recurrence runs as a parallel scan, and so does a cell whose gates do not see the state (`prernn.ops.scan`).
"""

from typing import Protocol

import torch
from torch import Tensor

from prernn.ops import backends, fused, reference, scan
from prernn.ops.backends import BACKENDS, forced, missing, using
from prernn.ops.reference import Product, State

__all__ = ["BACKENDS", "forced", "missing", "sequence", "using"]


class Cell(reference.Step, Protocol):
    """What the kernels need to know about a cell."""

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates."""

    @property
    def kernel(self) -> str | None:
        """The kernels' name for the cell, or None if they do not support it."""

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Ranges of gates that share a recurrent product."""


class HiddenWeights(Protocol):
    """What the kernels need to know about the hidden-to-hidden weights."""

    @property
    def weight(self) -> Tensor:
        """The compact weight, gates first."""

    @property
    def bias(self) -> Tensor | None:
        """``(G, D)``."""

    def band(self) -> Tensor | None:
        """``W_hh`` in the form of `prernn.ops.fused`, ``(G, D, C)``, or None if that is impossible."""

    def products(self, groups: tuple[tuple[int, int], ...]) -> list[Product]:
        """One recurrent product for each range of gates."""


FEW = 4096
"""Largest number of values per step for which a CPU without a kernel runs all steps in parallel: with 400 values the
loop took 11 times as long, with 6,400 two thirds of the time (QRNN, T = 1000, forward and backward, one thread of an
AMD EPYC, torch 2.15.0, 2026-11-29)."""


def _at_once(u: Tensor, asked: str | None) -> bool:
    """Whether all steps of a recurrence that is affine in its state run in parallel instead of one by one.

    This takes more arithmetic in fewer operations, which pays off if operations take longer to launch than to run.
    """
    if torch.compiler.is_compiling():  # checked first: the tests below would fix a symbolic batch size
        return False
    few = u.is_cuda or u[0, :, 0].numel() <= FEW
    plain = not (backends.forward_mode() or backends.batched())
    return len(u) > 1 and few and asked != "reference" and plain


def sequence(
    cell: Cell, weights: HiddenWeights, u: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """Runs ``cell`` over gate inputs from ``state``.

    Args:
        cell: gate equations (`prernn.layers.cells.Cell`).
        weights: hidden-to-hidden weights (`prernn.layers.hidden_to_hidden.RecurrentWeights`).
        u: gate inputs ``(T, N, G, D)``, or ``(T, N, 1, D)`` if all gates share one.
        state: tensors ``(N, D)``.
        lengths: ``(N,)`` valid steps of each row. A row that has ended keeps its state and outputs zeros; the padding
            affects no result and no gradient.

    Returns:
        Outputs ``(T, N, D)`` and the state after each row's last valid step.

    Raises:
        ValueError: ``PRERNN_OPS`` names a backend that does not exist, or whose kernels don't support these tensors.
    """
    asked, kernel = forced(), cell.kernel
    band = None if kernel is None else weights.band() if cell.groups else weights.weight.new_empty(0, u.shape[3], 1)
    bias = weights.bias if cell.groups else None
    if kernel is not None and band is not None:
        tensors = [u, weights.weight, *state]
        name = backends.choose(asked, tensors if bias is None else [*tensors, bias])
        if name is not None:
            return fused.sequence(name, kernel, band, bias, u, state, lengths)
        scans = kernel.startswith("linear") and band.shape[2] == 1 and asked != "reference"
        if scans and len(u) > 1:  # len(u) last: it would be fixed in an export
            scale = 0.5 if kernel == "linear:mean" else 1.0
            return scan.sequence(scale, band[0, :, 0], bias, u, state, lengths)
    u = u.expand(-1, -1, len(cell.gates), -1)  # one input for all gates is a view, not copies
    if not cell.groups and hasattr(cell, "affine") and _at_once(u, asked):
        return scan.affine_sequence(cell, u, state, lengths)
    return reference.sequence(cell, weights.products(cell.groups), u, state, lengths)
