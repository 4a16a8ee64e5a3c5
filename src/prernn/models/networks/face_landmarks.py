"""A small network trained for 68 landmarks of a face, with freely available weights: a start for faces.

The architecture is that of face-api.js' ``face_landmark_68_model``: four blocks of separable convolutions, each of
which sees the sum of those before it. The weights, 357 kB, come in the npm package ``@vladmandic/face-api``
(MIT), in the format of TensorFlow.js, which `prernn.models.tfjs_weights` reads.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (32, 64, 128, 256)

SIDE = 112
"""Side in pixels of the pictures that it was trained on."""

MEAN = (122.782 / 255, 117.001 / 255, 104.298 / 255)
"""Mean of each color, for pictures from 0 to 1; they are not scaled further."""


class _Separable(nn.Module):
    """A 3x3 convolution of each channel separately, then one of 1x1; padded like TensorFlow's "same"."""

    def __init__(self, inputs: int, channels: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(_padded(x, self.stride)))


class _First(nn.Module):
    """The first convolution, on colors, with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.full = nn.Conv2d(3, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.full(_padded(x, 2))


class _Dense(nn.Module):
    """Four convolutions, the first of which halves the picture; each later one sees the sum of those before it."""

    def __init__(self, inputs: int, channels: int, first: bool = False):
        super().__init__()
        self.conv0 = _First(channels) if first else _Separable(inputs, channels, 2)
        self.conv1, self.conv2, self.conv3 = (_Separable(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv0(x))
        b = self.conv1(a)
        c = self.conv2(F.relu(a + b))
        return F.relu(a + b + c + self.conv3(F.relu(a + b + c)))


def _padded(x: Tensor, stride: int) -> Tensor:
    """Pads a picture of even size for a 3x3 convolution: with stride 2 only on the right and below."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class FaceLandmarks(nn.Module):
    """Maps pictures of a face ``(B, 3, size, size)`` to 68 points ``(B, 136)``, x and y alternating.

    Between the mean features and the output there is ``fc6``, a layer of 256 units that the original does not have. It
    starts as the identity, which, followed by ReLU, changes nothing, because the features are never negative. It can be
    made recurrent.

    Args:
        classes: number of outputs.
        size: side of the picture in pixels, a multiple of 16.

    Raises:
        ValueError: a size that is not a multiple of 16, or fewer than one output.
    """

    def __init__(self, classes: int = 136, *, size: int = SIDE) -> None:
        super().__init__()
        if size < 16 or size % 16 or classes < 1:
            raise ValueError(f"face landmarks: expected size a multiple of 16 and outputs, got {size} and {classes}")
        self.frame_size, self.image_size = (size, size), size
        self.dense0 = _Dense(3, CHANNELS[0], first=True)
        self.dense1 = _Dense(CHANNELS[0], CHANNELS[1])
        self.dense2 = _Dense(CHANNELS[1], CHANNELS[2])
        self.dense3 = _Dense(CHANNELS[2], CHANNELS[3])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc6 = nn.Linear(CHANNELS[-1], CHANNELS[-1])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(CHANNELS[-1], classes)
        with torch.no_grad():
            nn.init.eye_(self.fc6.weight)
            self.fc6.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(B, classes)`` of pictures ``(B, 3, size, size)``."""
        x = self.dense3(self.dense2(self.dense1(self.dense0(x))))  # (B, 256, size / 16, size / 16)
        x = self.relu(self.fc6(self.pool(x).flatten(1)))
        return self.fc(x)


def as_face_landmarks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """TensorFlow.js' tensors of the model with the names and the order of dimensions of `FaceLandmarks`.

    The original measures points from the corner of the picture, as a share of its size; here they are measured from its
    center, as in `prernn.tasks.face.box`.
    """
    state = {}
    for name, value in tensors.items():
        place, _, leaf = name.rpartition("/")
        place = place.replace("/", ".")
        if leaf == "depthwise_filter":
            state[f"{place}.depthwise.weight"] = value.permute(2, 3, 0, 1)
        elif leaf in ("pointwise_filter", "filters"):
            layer = "full" if leaf == "filters" else "pointwise"
            state[f"{place}.{layer}.weight"] = value.permute(3, 2, 0, 1)
        elif leaf == "weights":
            state[f"{place}.weight"] = value.T
        elif place == "fc":
            state["fc.bias"] = value - 0.5
        else:
            state[f"{place}.{'full' if place == 'dense0.conv0' else 'pointwise'}.bias"] = value
    state["fc6.weight"], state["fc6.bias"] = torch.eye(CHANNELS[-1]), torch.zeros(CHANNELS[-1])
    return {name: value.contiguous() for name, value in state.items()}
