"""A clip network that reads frame by frame, with the package continual-inference: an alternative to our networks.

Its 3-D convolutions keep the frames they still need (Hedegaard and Iosifidis, "Continual 3D Convolutional Neural
Networks for Real-time Processing of Videos", ECCV 2022).
"""

from typing import Any

import torch
from torch import Tensor, nn

from prernn.models.backbones import backbone


class ContinualClip(nn.Module):
    """torchvision's ``r3d_18`` with an answer for each frame.

    Its strides over time are 1, because a network that halves its rate three times answers only every eighth frame. So
    it samples the frames around each frame more densely than ``r3d_18`` over a window, and averages over as many.

    Args:
        window: number of outputs whose mean the last layer sees.

    Attributes:
        frames: number of frames that it sees.

    Raises:
        ImportError: continual-inference is not installed.
    """

    def __init__(self, window: int = 16):
        super().__init__()
        import continual

        net: Any = backbone("r3d_18")
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, *module.stride[1:])
        blocks = [
            _block(continual, block) for group in (net.layer1, net.layer2, net.layer3, net.layer4) for block in group
        ]
        pool = continual.AdaptiveAvgPool3d((1, 1, 1), kernel_size=window)
        flat = continual.Lambda(lambda maps: maps.flatten(1))
        self.layers = continual.Sequential(_layers(continual, net.stem), *blocks, pool, flat, net.fc)
        self.frames: int = self.layers.receptive_field

    def forward(self, frame: Tensor) -> Tensor | None:
        """The answer ``(B, K)`` after one more frame ``(B, C, H, W)``; None before the first."""
        out: Tensor | None = self.layers.forward_step(frame)
        return out if isinstance(out, Tensor) and out.numel() else None

    def filled(self, frame: Tensor) -> "ContinualClip":
        """Itself, after as many frames as it sees at once."""
        with torch.inference_mode():
            for _ in range(self.frames + 1):
                self(frame)
        return self


def _layers(continual: Any, module: nn.Module) -> Any:
    """Convolutions, normalizations and activations in sequence."""
    made = continual.Conv3d.build_from
    children = list(module.children())
    return continual.Sequential(*[made(child) if isinstance(child, nn.Conv3d) else child for child in children])


def _block(continual: Any, block: Any) -> Any:
    """A residual block."""
    body = continual.Sequential(_layers(continual, block.conv1), _layers(continual, block.conv2))
    if block.downsample is None:
        return continual.Sequential(continual.Residual(body), nn.ReLU())
    shortcut = _layers(continual, block.downsample)
    return continual.Sequential(continual.BroadcastReduce(shortcut, body), nn.ReLU())
