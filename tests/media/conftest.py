"""Videos that these tests read."""

import numpy as np
import pytest
from PIL import Image

from flow_videos import SMALL, moving, video
from prernn.media.encoding import write_video
from prernn.media.flow import flow_frames
from prernn.media.flow_cache import precompute
from video_files import grey


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", (grey(i) for i in range(30)), 25)
    return tmp_path / "clip.mp4"


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Frames of a video, its flow by `flow_frames`, and its cache file."""
    root = tmp_path_factory.mktemp("videos")
    frames = moving(14)
    video(root / "a" / "pan.mkv", frames)
    assert precompute(root, root / "flow", SMALL, processes=1, progress=False) == {}
    return frames, np.stack(list(flow_frames(frames, SMALL))), root / "flow" / "a" / "pan.mkv.mkv"


@pytest.fixture
def videos(tmp_path):
    """A folder with two videos and a folder of frames, and things that are none."""
    root = tmp_path / "videos"
    video(root / "x" / "one.mkv", moving(4))
    video(root / "two.mkv", moving(4, seed=1))
    write_video(root / ".hidden.mp4", moving(2), 25)
    (root / "x" / "notes.txt").write_text("no video")
    (root / "frames").mkdir()
    for i, frame in enumerate(moving(3, seed=2)):
        Image.fromarray(frame).save(root / "frames" / f"{i}.png")
    return root
