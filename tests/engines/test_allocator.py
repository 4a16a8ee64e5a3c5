"""Memory that stays with the process: a large block that is freed is still there."""

import subprocess
import sys

import pytest

CODE = """
import ctypes, resource, sys
from prernn.engines.allocator import keep_memory
assert "torch" not in sys.modules
print(keep_memory() if sys.argv[1] == "kept" else "plain")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 64 << 20
for _ in range(10):
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_freed_memory_is_taken_again():
    said, kept = faults("kept")
    if said == "False":
        pytest.skip("another allocator than glibc's")
    plain = faults("plain")[1]
    pages = (64 << 20) // 4096
    assert plain - kept > 5 * pages  # of ten times 64 MiB


def test_elsewhere_nothing_happens(monkeypatch):
    from prernn.engines import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_memory() is False
