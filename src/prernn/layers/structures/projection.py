"""``W_ih x`` of all steps at once, by the dense matrix or by compressed rows: what structures have in common there."""

from torch import Tensor

from prernn.ops import compressed_rows
from prernn.ops.input_projection import linear

DENSE = 0.2
"""Share of the connections above which a matrix product is faster than compressed rows (benchmarks/recurrence.py,
--rows)."""


def dense_projection(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """``W_ih x + b``, ``(N, G, D)``, for ``x (N, I)``, the matrix ``(G, D, I)`` and ``bias (G*D,)``."""
    u: Tensor = linear(x, matrix.flatten(0, 1), bias).unflatten(1, matrix.shape[:2])
    return u


def by_rows(weight: Tensor, share: float) -> bool:
    """Whether compressed rows take a weight, which is this share of all connections, and are faster."""
    return share < DENSE and compressed_rows.usable(weight)


def rows_projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, amount: float, size: int) -> Tensor:
    """The same for the weights ``(G, E)`` of the connections that ``kind`` and ``amount`` name, by compressed rows.

    Under autocast too it is of float32: few weights a neuron leave nothing to gain.
    """
    return compressed_rows.product(x.float(), weight, kind, amount, size, bias)
