"""Writing videos: complete or not at all."""

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from prernn.media.picture import is_hd
from prernn.reports.files import whole_file


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes uint8 RGB frames ``(H, W, 3)`` as an mp4 (H.264, or MPEG-4 if there is no H.264 encoder).

    The file appears under its name only when it is complete. Odd sizes are kept (H.264 then uses 4:4:4). The file is
    tagged with square pixels and with BT.709 colors in high definition (see `picture.is_hd`), BT.601 otherwise.

    Returns:
        The number of frames written.

    Raises:
        ValueError: another suffix, no frames, a bad rate, dtype or shape, or a change of size.
        OSError: the file cannot be written, for instance because the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4" or not 0 < fps < math.inf:
        raise ValueError(f"expected a name that ends in .mp4 and fps above 0, got {path} and {fps}")
    try:
        with whole_file(path) as part:
            return _encode(part, frames, fps)
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    count, shape, h264, reformatter = 0, None, "libx264" in av.codecs_available, VideoReformatter()
    with av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream("libx264" if h264 else "mpeg4", Fraction(fps).limit_denominator(1001))
        for image in frames:
            shape = shape or (*image.shape[:2], 3)
            if image.dtype != np.uint8 or image.shape != shape:
                raise ValueError(f"frame {count}: expected uint8 {shape}, got {image.dtype} {image.shape}")
            if count == 0:
                stream.height, stream.width, _ = shape
                # 4:2:0 halves the color planes, which x264 does for even sizes only.
                stream.pix_fmt = "yuv444p" if h264 and (shape[0] % 2 or shape[1] % 2) else "yuv420p"
                stream.options = {"crf": "18"} if h264 else {"qmin": "3", "qmax": "3"}
                stream.sample_aspect_ratio = Fraction(1)
                stream.codec_context.color_range = ColorRange.MPEG
                colors = Colorspace.ITU709 if is_hd(*shape[:2]) else Colorspace.ITU601
                stream.codec_context.colorspace = colors
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image))
            container.mux(stream.encode(reformatter.reformat(frame, format=stream.pix_fmt, dst_colorspace=colors)))
            count += 1
        if not count:
            raise ValueError("frames: expected at least one, got none")
        container.mux(stream.encode())
    return count
