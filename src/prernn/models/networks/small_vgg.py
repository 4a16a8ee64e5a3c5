"""A VGG small enough to train from scratch on a machine without a GPU, with fc6 and fc7 as in VGG16."""

from torch import Tensor, nn
from torchvision.models.vgg import make_layers


class SmallVGG(nn.Module):
    """Four stages of one 3x3 convolution with batch normalization and max pooling, then three fc layers.

    Takes pictures ``(B, 3, size, size)`` and returns ``(B, classes)``. Unlike networks with global average pooling it
    preserves positions, like VGG16, as needed for landmarks.

    Args:
        classes: number of outputs.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        units: number of outputs of fc6 and fc7.
        size: side of the picture in pixels, a multiple of 16.
        dropout: probability with which each output of fc6 and fc7 is dropped in training.
        batch_norm: also use batch normalization after fc6 and fc7, so that training from scratch takes fewer epochs.

    Raises:
        ValueError: a size that is not a multiple of 16, or numbers below 1.
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        width: int = 16,
        units: int = 512,
        size: int = 64,
        dropout: float = 0.2,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if size < 16 or size % 16:
            raise ValueError(f"small VGG halves the picture four times: expected size a multiple of 16, got {size}")
        if min(classes, width, units) < 1:
            raise ValueError(f"small VGG: expected classes, width, units from 1 on, got {classes}, {width}, {units}")
        self.frame_size, self.image_size = (size, size), size
        self.features = make_layers([width, "M", 2 * width, "M", 4 * width, "M", 8 * width, "M"], batch_norm=True)
        self.fc6 = nn.Linear(8 * width * (size // 16) ** 2, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        self.norm6, self.norm7 = (nn.BatchNorm1d(units) if batch_norm else nn.Identity() for _ in range(2))
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(B, classes)`` of pictures ``(B, 3, size, size)``."""
        x = self.features(x).flatten(1)  # (B, 8 width size**2 / 256)
        x = self.dropout(self.relu(self.norm6(self.fc6(x))))  # (B, units)
        x = self.dropout(self.relu(self.norm7(self.fc7(x))))  # (B, units)
        return self.fc8(x)  # (B, classes)
