"""Keeps freed memory in the process. It imports nothing heavy, so that the command line can begin with it."""

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD, MMAP_MAX = -3, -1, -4
"""The numbers of glibc's options in ``malloc.h``."""


def keep_memory() -> bool:
    """Makes glibc's allocator keep freed memory, because the next tensor of that size takes it again.

    By default every large tensor that is freed goes back to the kernel at once, and the next one faults its pages in
    again, zeroed: in training on a CPU that takes more time than the arithmetic. The command line calls it first; in
    your own program, call it before the first tensor. Other programs then don't see memory freed by this process as
    free.

    Example:
        >>> import prernn
        >>> prernn.keep_memory()  # doctest: +SKIP
        True

    Returns:
        Whether the allocator is glibc's and took the options; on other systems nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    most = 2**31 - 1
    # older versions allow no threshold above 32 MiB, but mapping can be turned off
    kept = library.mallopt(MMAP_THRESHOLD, most) or library.mallopt(MMAP_MAX, 0)
    return bool(kept and library.mallopt(TRIM_THRESHOLD, most))
