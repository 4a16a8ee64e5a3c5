"""Sequence kernels behind one signature; ``PRERNN_OPS`` forces a backend.

`sequence` runs a cell over time. Each backend is one file with a function of the same name and meaning;
`reference` is the truth that the others are tested against.
"""

import os

from torch import Tensor

from prernn.ops import reference

BACKENDS = {"reference": reference.sequence}


def sequence(cell, products: list, u: Tensor, state: tuple, lengths: Tensor | None = None) -> tuple[Tensor, tuple]:
    """Runs ``cell`` over gate inputs ``u (T, N, G, D)`` from ``state``; see `reference.sequence`.

    Raises:
        ValueError: ``PRERNN_OPS`` names no backend of this installation.
    """
    name = os.environ.get("PRERNN_OPS", "reference")
    if name not in BACKENDS:
        raise ValueError(f"expected PRERNN_OPS to be one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name](cell, products, u, state, lengths)
