"""CPU kernels: a small C library, called through ctypes (its sources are in ``kernels/``).

One pass over time with the state in registers, with a hand-written backward pass, for AVX-512, AVX2 or the baseline
that every processor of the family has; ``PRERNN_INSTRUCTIONS`` forces one of them. Kernels use as many threads as
torch, but only one for less than about a millisecond of work.
"""

from prernn.ops.native.few import few_convolution, few_product, packed, sample
from prernn.ops.native.library import instructions, same
from prernn.ops.native.narrow import integer_product, narrow_product
from prernn.ops.native.recurrence import backward, forward
from prernn.ops.native.sparse import (
    narrow_rows,
    path_maps,
    path_maps_weight,
    path_product,
    path_weight,
    rows_backward,
    rows_product,
)

__all__ = [
    "backward",
    "few_convolution",
    "few_product",
    "forward",
    "instructions",
    "integer_product",
    "narrow_product",
    "narrow_rows",
    "packed",
    "path_maps",
    "path_maps_weight",
    "path_product",
    "path_weight",
    "rows_backward",
    "rows_product",
    "same",
    "sample",
]
