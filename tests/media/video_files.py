"""Small videos that the tests of media are made with."""

from fractions import Fraction

import av
import numpy as np
import pytest

import footage
from prernn.media.video import VideoError, read_frames

SHARED = footage.SHARED / "video-clips"

REORDERED = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:weightp=0"}  # stored as I P B B B P B B B ...


def grey(i, height=24, width=32):
    return np.full((height, width, 3), 10 + 7 * i, np.uint8)


def level(image):
    """The i of `grey(i)`."""
    return round((float(np.asarray(image).mean()) - 10) / 7)


def noise(i, height=48, width=64):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(
    path,
    images,
    *,
    codec="libx264",
    rate=25,
    ticks=None,
    options=None,
    rotation=None,
    pix_fmt="yuv420p",
    index_first=False,
):
    """Write a video with PyAV; `ticks` are presentation times in 1/1000 s."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            if ticks is not None:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def drain(source, **options):
    """What read_frames yields before its error, and the error."""
    images = []
    try:
        for _, image in read_frames(source, **options):
            images.append(image)
    except VideoError as error:
        return images, str(error)
    return images, None


def damaged(path):
    """A file with a few random bytes in its middle, which some packets do not survive."""
    encode(path, [noise(i) for i in range(40)], index_first=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared video clips are not here")
