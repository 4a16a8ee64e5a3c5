"""Small CNNs of every kind as RCNs, the videos they run on, and RCN's equation run frame by frame."""

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn

import prernn
from prernn.conversion.accounting import recurrent_parameters
from prernn.layers.cells import LinearCell
from small_cnns import SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare
from strategies import SPECS

SMALL = {"image_size": (8, 8)}
DOUBLE = {"dtype": torch.float64}
STRUCTURES = [*SPECS, "sparse:0.5+self", "paths:2+self"]
MIXES = {"mean": 0.5, "sum": 1.0}


class WideNet(nn.Module):
    """Two convolutions of SIZE channels, which fit every structure, and a ReLU that overwrites what it reads."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm2d(SIZE)
        self.conv2, self.relu = nn.Conv2d(SIZE, SIZE, 3, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(SIZE, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv2(F.relu(self.bn(self.conv1(x))))).mean((2, 3)))


class GroupedNet(nn.Module):
    """A depthwise and a grouped convolution, one with a dilation, behind a 1x1."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, SIZE, 1)
        self.depthwise = nn.Conv2d(SIZE, SIZE, 3, padding=1, groups=SIZE, bias=False)
        self.grouped = nn.Conv2d(SIZE, SIZE, (3, 1), padding=(2, 0), dilation=2, groups=4)
        self.norm, self.fc = nn.BatchNorm2d(SIZE), nn.Linear(SIZE, 5)

    def forward(self, x):
        x = F.gelu(self.depthwise(F.silu(self.stem(x))))
        return self.fc(torch.tanh(self.norm(self.grouped(x))).mean((2, 3)))


class SnippetNet(nn.Module):
    """A 3-D CNN over snippets."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv3d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm3d(SIZE)
        self.conv2, self.fc = nn.Conv3d(SIZE, SIZE, (3, 1, 1), padding=(1, 0, 0)), nn.Linear(SIZE, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x))))).mean((2, 3, 4)))


ALL_CNNS = {
    "fc": FcNet,
    "residual": ResidualNet,
    "dense": DenseNet,
    "plain": lambda: PlainNet(kernel=3),
    "wide": WideNet,
    "grouped": GroupedNet,
    "snippets": SnippetNet,
}


def size_of(kind):
    return (2, 8, 8) if kind == "snippets" else (8, 8)


@functools.cache
def converted(kind, spec="full", mix="mean", init="identity"):
    """A small CNN and its RCN, just after conversion."""
    torch.manual_seed(1)
    cnn = prepare(ALL_CNNS[kind]())
    return cnn, prernn.convert_rcn(cnn, hidden=spec, mix=mix, init=init, image_size=size_of(kind))


@functools.cache
def trained(kind, spec="full", mix="mean", init="identity"):
    """The network with W_hh and biases drawn, as after some training."""
    return drawn(copy.deepcopy(converted(kind, spec, mix, init)[1]))


@torch.no_grad()
def drawn(net):
    torch.manual_seed(2)
    for layer in net.recurrent_layers:
        if isinstance(layer.cell, LinearCell):
            nn.init.normal_(layer.hidden_to_hidden.weight, std=0.3)
        nn.init.normal_(layer.bias, std=0.5)
    return net


def video_of(kind, batch=2, steps=4):
    return film(batch, steps, size_of(kind))


def still(picture, steps=4):
    return picture.unsqueeze(1).expand(-1, steps, *picture.shape[1:])


def units(net):
    """Units by the name of their convolution."""
    named = zip((count.name for count in recurrent_parameters(net).layers), net.recurrent_layers, strict=True)
    return {name: layer for name, layer in named if isinstance(layer.cell, LinearCell)}


def in_steps(net, video, state=None):
    outputs = []
    for frame in video.unbind(1):
        out, state = net.step(frame, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state


def in_chunks(net, video, splits, state=None):
    outputs = []
    for chunk in video.split(splits, dim=1):
        out, state = net(chunk, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state


def draw_state(net, batch, size=None, started=None):
    """Random maps; rows have ``started`` where that is 1."""
    flags = torch.ones(batch, 1, **DOUBLE) if started is None else torch.tensor(started, **DOUBLE).view(batch, 1)
    state = net.init_state(batch) if size is None else net.init_state(batch, size)
    return tuple((torch.randn_like(h), flags.clone()) for h, _ in state)


def rows_of(state, rows):
    return tuple(tuple(leaf[rows] for leaf in part) for part in state)


@torch.no_grad()
def written_out(cnn, net, video):
    """The CNN run frame by frame; behind each unit's convolution stands eq. 1 with the dense matrix."""
    cnn, memory, handles = copy.deepcopy(cnn), {}, []

    def recurrence(name, unit):
        matrix, (bias,) = unit.hidden_to_hidden.matrix()[0], unit.bias

        def mix(module, args, u):
            if name in memory:
                offset = bias.view(-1, *[1] * (u.ndim - 2))
                u = (torch.einsum("ij,nj...->ni...", matrix, memory[name]) + offset + u) * MIXES[unit.cell.mix]
            memory[name] = u.clone()
            return u

        return mix

    for name, unit in units(net).items():
        handles.append(cnn.get_submodule(name).register_forward_hook(recurrence(name, unit)))
    out = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    for handle in handles:
        handle.remove()
    return out, memory


def parameters_of(net):
    """The values of a network: the CNN's under the names that they have in the CNN, and those of units, by theirs."""
    own, new = {}, {}
    for name, value in net.cnn.state_dict().items():
        unit, _, kind = name.rpartition(".")
        if unit.removesuffix(".hidden_to_hidden") in units(net):
            new[name] = value
        else:
            own[f"{unit.removesuffix('.input_to_hidden.layer')}.{kind}"] = value
    return own, new
