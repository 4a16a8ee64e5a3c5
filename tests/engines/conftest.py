"""Exports that engines keep lie in a folder of the tests, and torch's exporter makes its table of operators once."""

import contextlib
import functools

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kept(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRERNN_CACHE", str(tmp_path_factory.mktemp("kept")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_table():
    """It is made anew for each file, which takes a quarter of the time of a small network's export."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError, AttributeError):  # a part of torch that may move
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
