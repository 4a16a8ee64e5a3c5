"""Layers whose inputs are sampled."""

import torch
from torch import nn

DOUBLE = {"dtype": torch.float64}


class Layers(nn.Sequential):
    """Two convolutions and two linear layers, for pictures (2, 6, 6)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 3, 3, stride=2, groups=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, 30),
            nn.ReLU(),
            nn.Linear(30, 5),
        )


def pictures(count=4):
    return torch.randn(count, 2, 6, 6, **DOUBLE)
