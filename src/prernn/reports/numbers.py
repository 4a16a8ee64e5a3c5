"""Numbers for files: with the digits that their type holds."""

from typing import Any

from torch import Tensor


def plain(values: Tensor) -> Any:
    """A tensor as plain numbers in lists, like ``tolist()``; of float32 0.4, not 0.4000000059604645.

    They are the shortest decimals that give the tensor again in its type.
    """
    array = (values.float() if values.dtype.itemsize < 4 else values).detach().cpu().numpy()
    return array.astype(str).astype(float).tolist() if values.is_floating_point() else array.tolist()
