"""Moving textures, whose flow is known."""

import av
import numpy as np
import torch

from prernn.media.flow import FlowSettings
from prernn.media.sampling import Sampling

ALL = Sampling(None, "all")
SMALL = FlowSettings(short_side=16, bound=5)


def moving(frames, dx=1, dy=0, height=24, width=32, seed=0):
    """A smooth random texture that moves by (dx, dy) pixels a frame, uint8 (T, H, W, 3)."""
    chance = np.random.default_rng(seed)
    noise = torch.tensor(chance.random((1, 1, (height + 40) // 4, (width + 40) // 4)))
    picture = torch.nn.functional.interpolate(noise, scale_factor=4, mode="bicubic")[0, 0].clamp(0, 1).numpy()
    grey = (picture * 255).astype(np.uint8)
    views = [grey[20 - t * dy :, 20 - t * dx :][:height, :width] for t in range(frames)]
    return np.stack([np.repeat(view[..., None], 3, axis=2) for view in views])


def video(path, frames, fps=25):
    """A lossless video in Matroska, so that tests know the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", fps)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())
    return path
