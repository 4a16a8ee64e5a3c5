"""Networks that answer once for a whole clip, such as 3-D CNNs, in contrast to those that answer at every frame.

A clip network is a `SequenceNetwork` of snippets (``net.frame_shape`` is ``(C, D, H, W)``) without recurrence: the
whole clip is its one snippet.
"""

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork


def frames_a_step(net: SequenceNetwork) -> int:
    """Number of frames in a snippet, 1 for a network of single frames."""
    return net.frame_shape[1] if len(net.frame_shape) == 4 else 1


def is_clip_network(net: SequenceNetwork) -> bool:
    """Whether the network takes snippets and has no state."""
    return len(net.frame_shape) == 4 and not net.state_names


def answers_once(net: SequenceNetwork, video: Tensor) -> bool:
    """Whether ``video`` is one clip for the network: a clip network, and frames ``(B, T, C, H, W)``, not snippets."""
    return video.ndim == 5 and is_clip_network(net)


def clip_outputs(net: SequenceNetwork, video: Tensor, lengths: Tensor) -> Tensor:
    """Outputs ``(B, K)`` of a clip network that sees the first ``lengths (B,)`` frames of ``video (B, T, C, H, W)``.

    These frames are spread evenly over the D frames of the network's clip (``net.frame_shape``), so that an answer does
    not depend on the rest of the batch. Frames from ``lengths`` on are ignored.
    """
    clip = spread(video, lengths, net.frame_shape[1])  # (B, D, C, H, W)
    out, _ = net(clip.transpose(1, 2).unsqueeze(1))  # (B, 1, C, D, H, W)
    answers: Tensor = out[:, 0]
    return answers


def spread(video: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """``frames`` frames, evenly from the first ``lengths (B,)`` of ``video (B, T, C, H, W)``: ``(B, frames, C, H, W)``.

    Each is the center of one of ``frames`` equal segments; in a shorter video frames are repeated.
    """
    place = torch.arange(frames, device=video.device)
    index = (2 * place + 1) * lengths[:, None].to(video.device) // (2 * frames)  # (B, frames)
    return video[torch.arange(len(video), device=video.device)[:, None], index]
