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
"""The published network takes frames of 0..255 minus their mean, hence this standard deviation."""


class C3D(nn.Module):
    """Video classifier of 8 convolutions over space and time and 3 fully connected layers.

    Takes snippets of shape ``(B, 3, frames, size, size)`` and returns class scores of shape ``(B, classes)``.
    The first pooling only halves the picture and the next three halve time as well, so that ``frames // 8``
    time steps reach ``pool5``. With the published 16 frames, ``pool5`` pools these 2 steps into 1.

    With ``frames=8``, the snippet length of NVGesture in R3DCNN (Molchanov et al., CVPR 2016), only 1 step reaches
    ``pool5``, which therefore only pools the picture. Nothing else differs: ``fc6`` still has 8192 inputs, and weights
    trained on 16 frames can be loaded. The paper does not say how its authors adapted C3D to 8 frames; the original C3D
    software rounds pooled sizes up, which gives the same.

    ``width``, ``units`` and ``size`` make it smaller, for machines and data for which the published network is too
    large; nothing else differs. The published weights only fit the defaults.

    The weights published for Sports-1M were trained on pictures in B, G, R order: see `swap_red_blue`.

    Args:
        classes: number of class scores.
        frames: frames in a snippet, at least 8.
        dropout: probability with which each output of fc6 and fc7 is dropped in training.
        width: channels of conv1; the others have 2, 4 and 8 times as many, as published.
        units: outputs of fc6 and fc7.
        size: side of the picture in pixels, at least 16.
        batch_norm: add batch normalization after each convolution; the published network has none, but without it,
            training from scratch hardly works.

    Raises:
        ValueError: ``frames`` is below 8, ``size`` below 16, or another number below 1.
    """

    def __init__(
        self,
        classes: int = SPORTS1M_CLASSES,
        *,
        frames: int = 16,
        dropout: float = 0.5,
        width: int = 64,
        units: int = 4096,
        size: int = 112,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if frames < 8:
            raise ValueError(f"C3D halves time three times and so needs at least 8 frames, got {frames}")
        if size < 16:
            raise ValueError(f"C3D halves the picture four times and so needs at least size 16, got {size}")
        for name, number in (("classes", classes), ("width", width), ("units", units)):
            if number < 1:
                raise ValueError(f"C3D {name}: expected at least 1, got {number}")
        self.frame_size = (frames, size, size)  # for prernn.conversion.network.open_network
        self.image_size = size  # for prernn.models.backbones.backbone, as in torchvision's networks of fixed size
        self.conv1 = _conv(3, width, batch_norm)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = _conv(width, 2 * width, batch_norm)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = _conv(2 * width, 4 * width, batch_norm)
        self.conv3b = _conv(4 * width, 4 * width, batch_norm)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = _conv(4 * width, 8 * width, batch_norm)
        self.conv4b = _conv(8 * width, 8 * width, batch_norm)
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a = _conv(8 * width, 8 * width, batch_norm)
        self.conv5b = _conv(8 * width, 8 * width, batch_norm)
        # The padding turns the 7 x 7 picture into 4 x 4, which is where fc6's 512 * 4 * 4 = 8192 inputs come from.
        self.pool5 = nn.MaxPool3d((frames // 8, 2, 2), padding=(0, 1, 1))
        side = size // 16 // 2 + 1
        self.fc6 = nn.Linear(8 * width * side * side, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):  # He's rule: eight ReLU layers without normalization
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]  # all have one

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, classes)`` of snippets ``(B, 3, frames, size, size)``; no softmax."""
        # The shapes in the comments are those of 16 frames of 112 x 112 pixels.
        x = self.pool1(self.relu(self.conv1(x)))  # (B, 64, 16, 56, 56)
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

    The weights published for Sports-1M expect B, G, R. They also work on R, G, B pictures, only less well, so nothing
    reveals the mistake. Call this once after loading them.
    """
    with torch.no_grad():
        first = next(module for module in model.modules() if isinstance(module, nn.Conv3d))
        first.weight.copy_(first.weight.flip(1))  # (64, 3, 3, 3, 3): the second axis is color
    return model


def _conv(inputs: int, outputs: int, batch_norm: bool) -> nn.Module:
    conv = nn.Conv3d(inputs, outputs, kernel_size=3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs)) if batch_norm else conv
