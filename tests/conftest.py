"""Every test starts from the same seed, on one thread; what they share beside it lies in the modules of this folder."""

import os
import tempfile

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "prernn-hypothesis"))
import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # these networks are too small for two
hypothesis.settings.register_profile("prernn", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "prernn"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, to look into; they are written all the same."""
    from prernn.reports.plots import classes, curves, gates, weights  # matplotlib, for the tests that ask for it

    kept, save = [], curves.save_figure

    def keep(figure, path):
        kept.append(figure)
        return save(figure, path)

    for module in (classes, curves, gates, weights):
        monkeypatch.setattr(module, "save_figure", keep)
    return kept
