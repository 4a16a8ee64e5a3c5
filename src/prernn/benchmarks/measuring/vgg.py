"""VGG16 for small pictures, its thirteen convolutions and two dense layers, trained from local files.

Training pictures are shifted by up to 4 pixels, and mirrored if they are in color (a digit has no mirror image).
Stochastic gradient descent, one cycle of the learning rate; products in bfloat16 if the processor supports it.
"""

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from prernn.conversion.modes import channels_last
from prernn.models.backbones import IMAGENET
from prernn.ops.backends import has_bfloat16
from prernn.reports.files import whole_file

SIDE, SHIFT = 32, 4
"""Side of a picture in pixels, and the largest shift."""
FULL = 64
"""Channels of VGG16's first convolution."""
BATCH, MOMENTUM, DECAY, DROPOUT = 64, 0.9, 5e-4, 0.3


class SmallPicturesVGG(nn.Module):
    """VGG16's convolutions with batch normalization, a dense layer as wide as the last of them, and a dense output.

    Takes pictures ``(B, 3, 32, 32)`` and returns ``(B, classes)``.

    Args:
        width: channels of the first convolution; 64 is VGG16.
        classes: number of outputs.
    """

    def __init__(self, width: int = FULL, classes: int = 10) -> None:
        super().__init__()
        if width < 1 or classes < 1:
            raise ValueError(f"expected width and classes of at least 1, got {width} and {classes}")
        layers = [size if isinstance(size, str) else size * width // FULL for size in cfgs["D"]]
        self.features = make_layers(layers, batch_norm=True)
        self.fc1, self.fc2 = nn.Linear(8 * width, 8 * width), nn.Linear(8 * width, classes)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(B, classes)`` of pictures ``(B, 3, 32, 32)``."""
        x = self.features(x).flatten(1)  # (B, 8 width)
        return self.fc2(self.dropout(self.relu(self.fc1(self.dropout(x)))))  # (B, classes)


@dataclass(frozen=True)
class Pictures:
    """Scaled pictures ``(N, 3, 32, 32)`` and classes ``(N,)``, for training and test; whether they may be mirrored."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    mirrored: bool

    def first(self, count: int) -> "Pictures":
        """The same with only the first training pictures; 0: all."""
        return dataclasses.replace(self, train=(self.train[0][: count or None], self.train[1][: count or None]))


def read(folder: str | Path) -> Pictures:
    """The pictures of a folder's first ``.npz`` file: CIFAR-10's, or digits, with a margin and three equal channels.

    It has ``train_x``, ``train_y``, ``test_x`` and ``test_y``, uint8, of shapes ``(N, 3, 32, 32)`` or ``(N, 28, 28)``.

    Raises:
        ValueError: no such file, or arrays that are missing or have other shapes.
    """
    found = sorted(Path(folder).glob("*.npz"))
    if not found:
        raise ValueError(f"{folder}: expected a file *.npz, found none")
    try:
        with np.load(found[0], allow_pickle=False) as arrays:
            parts = [torch.from_numpy(arrays[f"{part}_{kind}"]) for part in ("train", "test") for kind in "xy"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{found[0]}: expected train_x, train_y, test_x and test_y: {error}") from error
    train, labels, test, test_labels = parts
    for pictures, own in ((train, labels), (test, test_labels)):
        if pictures.shape[1:] not in ((3, SIDE, SIDE), (28, 28)) or own.shape != pictures.shape[:1] or not len(own):
            shapes = f"{tuple(pictures.shape)} and {tuple(own.shape)}"
            raise ValueError(f"{found[0]}: expected (N, 3, {SIDE}, {SIDE}) or (N, 28, 28) and (N,), got {shapes}")
    return Pictures((_scaled(train), labels.long()), (_scaled(test), test_labels.long()), train.ndim == 4)


def _scaled(pictures: Tensor) -> Tensor:
    if pictures.ndim == 3:
        margin = (SIDE - pictures.shape[2]) // 2
        pictures = F.pad(pictures, (margin,) * 4).unsqueeze(1).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((pictures.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def trained(pictures: Pictures, file: Path, width: int, epochs: int, rate: float, seed: int) -> SmallPicturesVGG:
    """The network from a file of weights; if there is none, it is trained first, and saved there.

    Raises:
        ValueError: a file of another network.
    """
    classes = int(max(pictures.train[1].max(), pictures.test[1].max())) + 1
    torch.manual_seed(seed)
    net = SmallPicturesVGG(width, classes)
    if not file.exists():
        train(net, pictures, epochs, rate)
        with whole_file(file) as path:
            torch.save(net.state_dict(), path)
    try:
        net.load_state_dict(torch.load(file, weights_only=True))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{file}: expected weights of a VGG of width {width}: {error}") from error
    channels_last(net)
    return net.eval()


def train(
    net: nn.Module, pictures: Pictures, epochs: int, rate: float, *, bfloat16: bool = True, quiet: bool = False
) -> None:
    """Trains in place; prints the loss of each epoch. In bfloat16 only if the processor supports it."""
    channels_last(net).train()
    images, labels = pictures.train
    steps = -(-len(labels) // BATCH) * epochs
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(labels)).split(BATCH):
            x = varied(images[rows], pictures.mirrored).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16 and has_bfloat16()):
                out = net(x)
            loss = F.cross_entropy(out.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if not quiet:
            print(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / len(losses):.4f}", flush=True)


def varied(pictures: Tensor, mirrored: bool) -> Tensor:
    """Pictures ``(B, 3, H, W)``, each shifted by up to 4 pixels and, if allowed, mirrored with probability 1/2."""
    shifts = torch.randint(0, 2 * SHIFT + 1, (len(pictures), 2)).tolist()
    padded = F.pad(pictures, (SHIFT,) * 4, mode="replicate")
    height, width = pictures.shape[2:]
    parts = [x[:, top : top + height, left : left + width] for x, (top, left) in zip(padded, shifts, strict=True)]
    if mirrored:
        turned = (torch.rand(len(parts)) < 0.5).tolist()
        parts = [x.flip(2) if turn else x for x, turn in zip(parts, turned, strict=True)]
    return torch.stack(parts)
