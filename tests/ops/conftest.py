"""The instruction sets that this machine has; none where the library was built without a C compiler."""

import pytest

try:
    from prernn.ops import native
except ImportError:
    INSTRUCTIONS = []
else:
    INSTRUCTIONS = [name for name in ("avx512", "avx2", "baseline") if native._library.prernn_choose(name.encode())]
    native._library.prernn_choose(None)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    assert native._library.prernn_choose(request.param.encode())
    assert native.instructions() == request.param
    yield request.param
    native._library.prernn_choose(None)
