"""Runs networks that prernn exported, frame by frame, without torch.

Example:
    >>> import prernn_runtime
    >>> stream = prernn_runtime.Stream("step.onnx")  # doctest: +SKIP
    >>> for time, frame in prernn_runtime.read_frames("video.mp4"):  # doctest: +SKIP
    ...     outputs = stream(frame)
"""

from importlib.metadata import version

from prernn_runtime.frames import at_rate, read_frames
from prernn_runtime.stream import Stream

__version__ = version("prernn-runtime")

__all__ = ["Stream", "at_rate", "read_frames"]
