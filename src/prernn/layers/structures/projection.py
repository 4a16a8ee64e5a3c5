"""``W_ih x`` of all steps at once, with the dense matrix or with compressed rows; shared by the structures."""

from torch import Tensor

from prernn.ops import compressed_rows
from prernn.ops.input_projection import linear

DENSE = 0.2
"""Share of all connections above which a matrix product is faster than compressed rows (benchmarks/recurrence.py,
--rows)."""


def dense_projection(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """``W_ih x + b``, ``(N, G, D)``, for ``x (N, I)``, the matrix ``(G, D, I)`` and ``bias (G*D,)``."""
    u: Tensor = linear(x, matrix.flatten(0, 1), bias).unflatten(1, matrix.shape[:2])
    return u


def by_rows(weight: Tensor, share: float) -> bool:
    """Whether compressed rows support a weight and, as it has this ``share`` of all connections, are faster."""
    return share < DENSE and compressed_rows.usable(weight)


def rows_projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, amount: float, size: int) -> Tensor:
    """The same with compressed rows, for the weights ``(G, E)`` of the connections given by ``kind`` and ``amount``.

    It runs in float32 even under autocast: with few weights per neuron there is nothing to gain.
    """
    return compressed_rows.product(x.float(), weight, kind, amount, size, bias)
