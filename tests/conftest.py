"""What the tests share: small CNNs of every kind, the paper's equations written out, and structures to draw from.

The equations here use dense matrices and plain loops over time and batch, none of the package's code.
"""

import os
import tempfile

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "prernn-hypothesis"))

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from prernn.layers.structures.parse import EXAMPLES, STRUCTURES, hidden_structure

torch.set_num_threads(1)  # these networks are too small for two

hypothesis.settings.register_profile("prernn", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "prernn"))

CLOSE = {"rtol": 0, "atol": 1e-12}
SIZE = 12
"""Hidden size of the small CNNs: every structure's example fits it."""

SPECS = [*EXAMPLES.split(", "), "paths:3", "band:3"]
"""Structures for laws over every combination; a new structure joins through its example."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, to look into; they are written all the same."""
    from prernn.reports.plots import curves  # matplotlib, for the tests that ask for it

    kept, save = [], curves.save_figure

    def keep(figure, path):
        kept.append(figure)
        return save(figure, path)

    monkeypatch.setattr(curves, "save_figure", keep)
    return kept


def close(actual, expected, **tolerance):
    """Asserts equal shapes and values, also of (nested) tuples of tensors; float64 to 1e-12 unless told."""
    torch.testing.assert_close(actual, expected, **{**CLOSE, **tolerance})


def example_specs() -> dict[str, list[str]]:
    """Example specifications of each word in STRUCTURES."""
    return {word: [x for x in SPECS if x.partition(":")[0] == word] for word in STRUCTURES}


def specs(size: int):
    """Strategy: specification strings that make sense for ``size`` neurons, of every word in STRUCTURES."""
    odd = st.integers(0, size - 1).map(lambda n: f"band:{2 * n + 1}")
    share = st.floats(0.5, 100).map(lambda p: f"band:{p:.3g}%")
    drawn = {
        "band": st.one_of(odd, share),
        "grouped": st.sampled_from([g for g in range(1, size + 1) if size % g == 0]).map("grouped:{}".format),
        "sparse": st.floats(0.001, 1).map(lambda p: f"sparse:{p:.3g}"),
        "paths": st.integers(1, size).map("paths:{}".format),
    }
    fits = {word: st.sampled_from(examples).filter(lambda x: fits_size(x, size)) for word, examples in GIVEN.items()}
    return st.sampled_from(list(STRUCTURES)).flatmap(({**fits, **drawn}).__getitem__)


def fits_size(spec: str, size: int) -> bool:
    """Whether the structure makes sense for ``size`` neurons."""
    try:
        hidden_structure(spec).check(size)
    except ValueError:
        return False
    return True


GIVEN = {word: examples for word, examples in example_specs().items() if examples}


def compositions(total: int):
    """Strategy: ways to split ``total`` steps into chunks of at least one step."""
    cuts = st.sets(st.integers(1, total - 1)) if total > 1 else st.just(set())
    return cuts.map(lambda c: [b - a for a, b in zip([0, *sorted(c)], [*sorted(c), total], strict=True)])


def all_compositions(total: int) -> list[list[int]]:
    """Every way to split ``total`` steps into chunks."""
    if total == 0:
        return [[]]
    return [[first, *rest] for first in range(1, total + 1) for rest in all_compositions(total - first)]


# the paper's equations, for one row: u (G, D), w (G, D, D), b (G, D), state of vectors (D,)


def vrnn_step(u, state, w, b, activation=torch.tanh):
    """PreRNN, eqs. 1 and 5."""
    (h,) = state
    return (activation(u[0] + w[0] @ h + b[0]),)


def lstm_step(u, state, w, b):
    """PreRNN, eqs. 2, 8 and 11; gates in the order i, f, c~, o."""
    h, c = state
    i = torch.sigmoid(u[0] + w[0] @ h + b[0])
    f = torch.sigmoid(u[1] + w[1] @ h + b[1])
    new = torch.tanh(u[2] + w[2] @ h + b[2])
    o = torch.sigmoid(u[3] + w[3] @ h + b[3])
    c = f * c + i * new
    return o * torch.tanh(c), c


def gru_step(u, state, w, b):
    """PreRNN, eqs. 3, 9 and 12; gates in the order r, z, h~."""
    (h,) = state
    r = torch.sigmoid(u[0] + w[0] @ h + b[0])
    z = torch.sigmoid(u[1] + w[1] @ h + b[1])
    new = torch.tanh(u[2] + w[2] @ (r * h) + b[2])
    return ((1 - z) * h + z * new,)


def torch_gru_step(u, state, w, b, reset="after"):
    """torch.nn.GRU as its documentation has it, where z is the share of the old state; either reset."""
    (h,) = state
    r = torch.sigmoid(u[0] + w[0] @ h + b[0])
    z = torch.sigmoid(u[1] + w[1] @ h + b[1])
    recurrent = r * (w[2] @ h + b[2]) if reset == "after" else w[2] @ (r * h) + b[2]
    return ((1 - z) * torch.tanh(u[2] + recurrent) + z * h,)


EQUATIONS = {"vrnn": vrnn_step, "lstm": lstm_step, "gru": gru_step}


def run_equations(step, u, state, w, b):
    """Steps rows one by one: ``u (T, B, G, D)`` and states ``(B, D)`` to outputs ``(T, B, D)`` and last states."""
    columns, last = [], []
    for row in range(u.shape[1]):
        own, outputs = tuple(tensor[row] for tensor in state), []
        for u_t in u[:, row]:
            own = step(u_t, own, w, b)
            outputs.append(own[0])
        columns.append(torch.stack(outputs))
        last.append(own)
    return torch.stack(columns, dim=1), tuple(torch.stack(tensors) for tensors in zip(*last, strict=True))


# small CNNs, one of each kind of ending; hidden size SIZE; frames (3, 8, 8)


class FcNet(nn.Module):
    """Ends like VGG and AlexNet: two fc layers with activation and dropout, and an output layer."""

    layer, size = "fc7", SIZE

    def __init__(self, act=nn.ReLU, classes=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc6, self.act6, self.drop6 = nn.Linear(16, SIZE), act(), nn.Dropout()
        self.fc7, self.act7, self.drop7 = nn.Linear(SIZE, SIZE), act(), nn.Dropout()
        self.fc8 = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = torch.flatten(self.pool(F.relu(self.bn(self.conv(x)))), 1)
        x = self.drop6(self.act6(self.fc6(x)))
        return self.fc8(self.drop7(self.act7(self.fc7(x))))


class ResidualNet(nn.Module):
    """Ends like ResNet50: a bottleneck with its shortcut, activation, global average pooling, output layer."""

    layer, size = "conv3", SIZE

    def __init__(self, classes=5):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm2d(SIZE)
        self.conv1, self.bn1 = nn.Conv2d(SIZE, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, SIZE, 1, bias=False), nn.BatchNorm2d(SIZE)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.relu(self.bn0(self.stem(x)))
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.fc(torch.flatten(self.avgpool(self.relu(out)), 1))


class DenseNet(nn.Module):
    """Ends like DenseNet: the last layer's maps join the earlier ones, then norm, activation, pooling."""

    layer, size = "conv2", SIZE

    def __init__(self, classes=5):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(SIZE)
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        x = F.relu(self.norm3(x), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class PlainNet(nn.Module):
    """Ends like MobileNetV2 and EfficientNet: conv, norm, any activation, global average pooling, output layer."""

    layer, size = "conv", SIZE

    def __init__(self, act=nn.ReLU6, kernel=1, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv, self.bn, self.act = nn.Conv2d(4, SIZE, kernel, padding=kernel // 2), nn.BatchNorm2d(SIZE), act()
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.act(self.bn(self.conv(F.relu(self.stem(x)))))
        return self.fc(x.mean([2, 3]))


CNNS = {"fc": FcNet, "conv": ResidualNet}


def prepare(cnn: nn.Module) -> nn.Module:
    """The CNN in float64 and evaluation mode, with batch statistics that are not just 0 and 1."""
    for module in cnn.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.5)
    return cnn.double().eval()


@torch.no_grad()
def shake(net: nn.Module) -> nn.Module:
    """Draws recurrent biases and the other gates' weights, so that no two gates are alike."""
    for layer in net.recurrent_layers:
        nn.init.normal_(layer.bias, std=0.5)
        copies = getattr(layer.input_to_hidden, "copies", None)
        if copies is not None:
            copies += 0.3 * torch.randn_like(copies)
    return net


def film(batch=2, steps=4, size=(8, 8)):
    """Random video ``(B, T, 3, H, W)``."""
    return torch.randn(batch, steps, 3, *size, dtype=torch.float64)


def class_videos(root, labels):
    """Two videos of noise in ``train`` and two in ``test`` for each class, in one folder a class."""
    import numpy as np

    from prernn.media.video import write_video

    for part in ("train", "test"):
        for k, label in enumerate(labels):
            (root / part / label).mkdir(parents=True)
            for number in range(2):
                frames = np.random.default_rng([k, number]).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
                write_video(root / part / label / f"{number}.mp4", frames, 5)
