"""Small networks to stream with."""

from dataclasses import replace

import numpy as np
import torch

import prernn
from prernn.streaming.prediction import Prediction
from small_cnns import FcNet, ResidualNet, shake

SPEC = {"size": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
LABELS = ["zoom in", "zoom out", "fade in", "fade out", "still, or so"]
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def network(cell="gru", **options):
    net = shake(prernn.convert(ResidualNet(), cell=cell, **options)).eval()
    net.recipe = replace(net.recipe, transform=SPEC, labels=LABELS)
    return net


def pictures(count, size=(20, 24)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


NETWORKS = {
    **{cell: lambda cell=cell: network(cell) for cell in ("vrnn", "lstm", "gru")},
    "two layers": lambda: shake(prernn.convert(FcNet(), ["fc6", "fc7"], cell="lstm")).eval(),
    "traditional": lambda: prernn.traditional(ResidualNet(), cell="gru", num_layers=2).eval(),
    "frame-wise": lambda: prernn.framewise(ResidualNet()).eval(),
}


def made_up(index=0, label="a, b", probability=0.25):
    return Prediction(index, index / 10, label, probability, 12.345, torch.tensor([probability, 1 - probability]))
