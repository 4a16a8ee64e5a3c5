"""Numbers for files, with as many digits as their type holds."""

from typing import Any

from torch import Tensor


def plain(values: Tensor) -> Any:
    """A tensor as plain numbers in lists, like ``tolist()``, but float32 0.4 gives 0.4, not 0.4000000059604645.

    The numbers are the shortest decimals that convert back to the same tensor in its own type.
    """
    array = (values.float() if values.dtype.itemsize < 4 else values).detach().cpu().numpy()
    return array.astype(str).astype(float).tolist() if values.is_floating_point() else array.tolist()
