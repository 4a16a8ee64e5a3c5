"""The instruction sets that this machine has; none where the library was built without a C compiler."""

import pytest

try:
    from prernn.ops import native
except ImportError:
    INSTRUCTIONS = []
else:
    known = ("avx512_vnni", "avx512", "avx2", "baseline")
    INSTRUCTIONS = [name for name in known if native.library.kernels.prernn_choose(name.encode())]
    native.library.kernels.prernn_choose(None)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    assert native.library.kernels.prernn_choose(request.param.encode())
    assert native.instructions() == request.param
    yield request.param
    native.library.kernels.prernn_choose(None)
