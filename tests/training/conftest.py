"""Videos for the tests of training."""

import signal

import pytest

from small_runs import render_parts


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    return render_parts(tmp_path_factory.mktemp("videos"), {"train": 4, "test": 2}, other_test=100)


@pytest.fixture
def interruptible():
    """Ctrl-C means what it means at a process's start. pytest's worker processes ignore it, and do so again after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
