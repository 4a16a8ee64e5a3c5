"""Networks to quantize."""

import torch
from torch import nn


def small_cnn() -> nn.Sequential:
    """Batch normalization, groups, pooling and a flattened map, with statistics that are not trivial."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=4), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU()),
        nn.Linear(16, 5),
    ).double()
    for _ in range(3):
        net(torch.randn(16, 3, 10, 10, dtype=torch.float64))
    return net.eval()
