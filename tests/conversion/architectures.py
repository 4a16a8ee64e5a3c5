"""What the tests of surgery take apart: published architectures, and a layer with a gate behind it."""

import warnings

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model


def build(name: str, meta: bool = True) -> nn.Module:
    """The architecture from torchvision, or from timm where the name starts with ``timm/``; random weights."""
    library, _, key = name.rpartition("/")
    with torch.device("meta" if meta else "cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(key) if library else get_model(key)


class Gated(nn.Module):
    """A pointwise layer, squeeze-and-excitation, then a module, shortcut and pooling."""

    def __init__(self, between):
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.gate, self.between = nn.Conv2d(6, 6, 1), between
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x))
        y = self.between(y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))) + x
        return self.fc(F.relu(y).mean((2, 3)))
