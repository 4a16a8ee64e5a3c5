"""CIFAR-10's test pictures and trained residual networks, from local files."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.modes import channels_last
from prernn.models.backbones import IMAGENET
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.models.weight_files import load_weights

DEPTHS = (20, 32, 44, 56)
BATCH = 141
"""Number of pictures at a time."""


def read(folder: str | Path) -> tuple[Tensor, Tensor]:
    """Test pictures ``(N, 3, 32, 32)``, scaled as the networks were trained, and their classes ``(N,)``.

    The folder contains an ``.npz`` file with ``test_x (N, 3, 32, 32)`` and ``test_y (N,)``, uint8.

    Raises:
        ValueError: no such file, or arrays that are missing or have other shapes.
    """
    path = _one(Path(folder), "*.npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pictures, labels = (torch.from_numpy(arrays[name]) for name in ("test_x", "test_y"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected arrays test_x and test_y: {error}") from error
    count = len(pictures)
    if pictures.shape != (count, 3, 32, 32) or labels.shape != (count,) or not count:
        shapes = f"{tuple(pictures.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"{path}: expected test_x (N, 3, 32, 32) and test_y (N,), got {shapes}")
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    scaled = (pictures.float() / 255 - mean) / std
    return scaled.contiguous(memory_format=torch.channels_last), labels.long()


def network(folder: str | Path, depth: int) -> CifarResNet:
    """The trained network with ``depth`` layers, from the folder's file ``resnet<depth>*``, in evaluation mode.

    Raises:
        ValueError: no such file, or one of another network.
    """
    net = CifarResNet(depth)
    load_weights(net, _one(Path(folder), f"resnet{depth}*"))
    channels_last(net)
    return net.eval()


def accuracy(net: torch.nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Share of pictures whose class has the highest score, in percent."""
    with torch.inference_mode():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in _batches(pictures, labels))
    return 100 * right / len(labels)


def _batches(pictures: Tensor, labels: Tensor):
    return zip(pictures.split(BATCH), labels.split(BATCH), strict=True)


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder}: expected a file {pattern}, found none")
    return found[0]
