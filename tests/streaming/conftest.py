"""Networks to stream with, and a video to stream."""

from dataclasses import replace

import pytest

import prernn
from prernn.media import encoding
from small_cnns import SnippetNet
from streamed_networks import LABELS, NETWORKS, SPEC, pictures


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]()


@pytest.fixture
def snippet_net():
    net = prernn.convert(SnippetNet(), "fc6", image_size=(4, 8, 8)).eval()
    net.recipe = replace(net.recipe, transform=SPEC, labels=LABELS)
    return net


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    encoding.write_video(path, pictures(7, (24, 32)), fps=10)
    return path
