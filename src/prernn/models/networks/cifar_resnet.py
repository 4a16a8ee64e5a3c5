"""The residual networks for pictures of 32x32 with 20, 32, 44 and 56 layers, as trained on CIFAR-10.

Three stages of 16, 32 and 64 channels (He et al., Deep Residual Learning, section 4.2), whose shortcuts have no
weights: if the size changes, they take every second position and add empty channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.stride, self.missing = stride, channels - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.missing or self.stride > 1:
            before = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return self.relu2(y + x)


class CifarResNet(nn.Module):
    """Maps pictures ``(B, 3, 32, 32)`` to class scores ``(B, classes)``.

    Its layers have the same names as in commonly used checkpoints, such as ``layer2.0.conv1`` and ``linear``.

    Args:
        depth: number of layers with weights, 6n + 2.
        classes: number of outputs.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """

    def __init__(self, depth: int, classes: int = 10):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"expected a depth of 6n + 2 layers (20, 32, 44, 56), got {depth}")
        self.frame_size, self.image_size = (32, 32), 32
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, depth // 6, 1)
        self.layer2 = _stage(16, 32, depth // 6, 2)
        self.layer3 = _stage(32, 64, depth // 6, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, classes)`` of pictures ``(B, 3, 32, 32)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))


def _stage(inputs: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(inputs, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(blocks - 1)))
