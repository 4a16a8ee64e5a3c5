"""The instruction sets that this machine has."""

import pytest

from kernel_problems import native

INSTRUCTIONS = [name for name in ("avx512", "avx2", "baseline") if native._library.prernn_choose(name.encode())]
native._library.prernn_choose(None)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    assert native._library.prernn_choose(request.param.encode())
    assert native.instructions() == request.param
    yield request.param
    native._library.prernn_choose(None)
