"""Videos for the tests of training."""

import signal

import pytest

from small_runs import CLASSES, render


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                render(root / split / name, label, number + (100 if split == "test" else 0))
    return root


@pytest.fixture
def interruptible():
    """Ctrl-C means what it means at a process's start: Lightning leaves it ignored in a process that ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
