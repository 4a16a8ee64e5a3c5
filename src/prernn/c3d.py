"""C3D, the 3D-convolutional network that PreRNN and R3DCNN use on short snippets of video.

Source: Tran, Bourdev, Fergus, Torresani and Paluri, "Learning Spatiotemporal Features with 3D Convolutional
Networks", ICCV 2015. Eight 3x3x3 convolutions, five max poolings and three fully connected layers. The layer
names are those of the published Sports-1M network, so state dicts converted from it load unchanged.
"""

import torch
from torch import Tensor, nn

SPORTS1M_CLASSES = 487
"""Classes of Sports-1M, on which the published network was trained."""

SPORTS1M_MEAN = (101.41 / 255, 97.66 / 255, 90.25 / 255)
"""Mean of Sports-1M frames in R, G, B order, for frames scaled to 0..1."""

SPORTS1M_STD = (1 / 255, 1 / 255, 1 / 255)
"""The published network takes frames of 0..255 less their mean, hence this standard deviation."""


class C3D(nn.Module):
    """Video classifier of 8 convolutions over space and time and 3 fully connected layers.

    Takes snippets of shape ``(B, 3, frames, 112, 112)`` and returns class scores of shape ``(B, classes)``.
    The first pooling halves the picture only and the next three halve time as well, so that ``frames // 8``
    steps of time reach ``pool5``. With the published 16 frames, ``pool5`` pools these 2 steps into 1.

    With ``frames=8``, the snippet length of NVGesture in R3DCNN (Molchanov et al., CVPR 2016), only 1 step
    reaches ``pool5``, which therefore pools the picture alone. Nothing else differs: ``fc6`` still has 8192
    inputs and weights trained on 16 frames load. The paper does not say how its authors fitted C3D to 8
    frames; the original C3D software rounds pooled sizes up, which comes to the same.

    The weights published for Sports-1M were trained on pictures in B, G, R order: see :func:`swap_red_blue`.

    Args:
        classes: number of class scores.
        frames: frames in a snippet, at least 8.
        dropout: probability with which each output of fc6 and fc7 is dropped in training.

    Raises:
        ValueError: ``frames`` is below 8, or ``classes`` below 1.
    """

    def __init__(self, classes: int = SPORTS1M_CLASSES, *, frames: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        if frames < 8:
            raise ValueError(f"C3D halves time three times and so needs at least 8 frames, got {frames}")
        if classes < 1:
            raise ValueError(f"C3D needs at least 1 class, got {classes}")
        self.conv1 = _conv(3, 64)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = _conv(64, 128)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = _conv(128, 256)
        self.conv3b = _conv(256, 256)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = _conv(256, 512)
        self.conv4b = _conv(512, 512)
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a = _conv(512, 512)
        self.conv5b = _conv(512, 512)
        # The padding turns the 7 x 7 picture into 4 x 4, which is where fc6's 512 * 4 * 4 = 8192 inputs come from.
        self.pool5 = nn.MaxPool3d((frames // 8, 2, 2), padding=(0, 1, 1))
        self.fc6 = nn.Linear(8192, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, classes)`` of snippets ``(B, 3, frames, 112, 112)``; no softmax."""
        x = self.pool1(self.relu(self.conv1(x)))  # (B, 64, 16, 56, 56) for 16 frames
        x = self.pool2(self.relu(self.conv2(x)))  # (B, 128, 8, 28, 28)
        x = self.relu(self.conv3a(x))
        x = self.pool3(self.relu(self.conv3b(x)))  # (B, 256, 4, 14, 14)
        x = self.relu(self.conv4a(x))
        x = self.pool4(self.relu(self.conv4b(x)))  # (B, 512, 2, 7, 7)
        x = self.relu(self.conv5a(x))
        x = self.pool5(self.relu(self.conv5b(x)))  # (B, 512, 1, 4, 4)
        x = torch.flatten(x, 1)  # (B, 8192)
        x = self.dropout(self.relu(self.fc6(x)))  # (B, 4096)
        x = self.dropout(self.relu(self.fc7(x)))  # (B, 4096)
        return self.fc8(x)  # (B, classes)


def swap_red_blue(model: C3D) -> C3D:
    """Turns a C3D for pictures in B, G, R order into one for R, G, B (or back), in place; returns the model.

    The weights published for Sports-1M expect B, G, R. They work on R, G, B pictures too, only less well, so
    nothing warns of the mistake. Call this once after loading them.
    """
    with torch.no_grad():
        model.conv1.weight.copy_(model.conv1.weight.flip(1))  # (64, 3, 3, 3, 3): the second axis is colour
    return model


def _conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, kernel_size=3, padding=1)
