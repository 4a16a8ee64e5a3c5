"""A folder of gesture videos."""

import numpy as np
import pytest
from PIL import Image

from gesture_videos import make_list


def make_frames(folder, frames):
    """A folder of frames; frame i is grey of value i."""
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(np.full((8, 10), i, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    """One recording of 22 frames with two gestures, depth and color."""
    make_frames(tmp_path / "a" / "sk_depth", 22)
    make_frames(tmp_path / "a" / "sk_color", 22)
    make_list(
        tmp_path,
        "path:./a depth:sk_depth:13:19 color:sk_color:14:20 label:3 ",
        "",
        "path:./a depth:sk_depth:2:7 color:sk_color:3:8 label:1",
    )
    return tmp_path
