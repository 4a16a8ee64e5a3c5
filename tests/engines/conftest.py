"""Exports that engines keep lie in a folder of the tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kept(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRERNN_CACHE", str(tmp_path_factory.mktemp("kept")))
        yield
