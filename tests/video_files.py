"""Small videos that tests are made with."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

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
    matrix=None,
    aspect=None,
    tags=None,
    pix_fmt="yuv420p",
    index_first=False,
):
    """Write a video with PyAV; `ticks` are presentation times in 1/1000 s, `tags` attributes of the codec."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        frames = [image if isinstance(image, av.VideoFrame) else av.VideoFrame.from_ndarray(image) for image in images]
        stream.height, stream.width = frames[0].height, frames[0].width
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, frame in enumerate(frames):
            if ticks is not None:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moved(path, target, seconds=0.0, format=None, keep=lambda number, packet: True):
    """The packets of a video's file in another one, later by some seconds."""
    with av.open(str(path)) as source, av.open(str(target), "w", format=format) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and keep(number, packet):
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                container.mux(packet)
    return target


def with_streams(path, levels, default=None, cover=None):
    """A file with a stream of each grey level."""
    with av.open(str(path), "w") as container:
        streams = []
        for i in range(len(levels)):
            stream = container.add_stream("mjpeg" if i == cover else "libx264", rate=25)
            stream.height, stream.width = 24, 32
            stream.pix_fmt = "yuvj420p" if i == cover else "yuv420p"
            stream.disposition = Disposition.default if i == default else Disposition(0)
            if i == cover:
                stream.disposition = Disposition.attached_pic
            streams.append(stream)
        container.start_encoding()
        for i, stream in enumerate(streams):
            for _ in range(1 if i == cover else 5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(levels[i]))))
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
