"""The CNN's activation kept before the recurrence: gates read the CNN's own features, whatever stands around them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from equations import EQUATIONS, close, run_equations
from prernn.layers.cells import CELLS, make_cell
from prernn.layers.input_to_hidden import INPUTS
from small_cnns import DenseNet, FcNet, PlainNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}
everything = pytest.mark.parametrize("form", list(INPUTS))


def normed_fc():
    """Normalization and activation behind the vector."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.BatchNorm1d(12), nn.Hardswish(inplace=True)).append(
        nn.Linear(12, 5)
    )


KINDS = {
    "fc": FcNet,
    "fc, SiLU": lambda: FcNet(nn.SiLU),
    "residual": ResidualNet,
    "dense": DenseNet,
    "ReLU6": PlainNet,
    "3x3": lambda: PlainNet(nn.ReLU6, 3),
    "Hardswish": lambda: PlainNet(nn.Hardswish),
    "Hardswish in place": lambda: PlainNet(lambda: nn.Hardswish(inplace=True)),
    "GELU": lambda: PlainNet(nn.GELU),
    "batch norm behind": normed_fc,
}


@everything
@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_without_recurrence_it_is_the_cnn(kind, form):
    cnn = prepare(KINDS[kind]())
    net = prernn.convert(cnn, cell="vrnn", input=form, keep_activation=True, **SMALL)
    net.recurrent_layers[0].hidden_to_hidden.zero_()
    video = film()
    close(net(video)[0], torch.stack([cnn(frame) for frame in video.unbind(1)], 1))


@everything
@pytest.mark.parametrize("cell", [name for name in CELLS if len(make_cell(name).gates) > 1])
@torch.no_grad()
def test_gates_read_the_features(cell, form):
    """``u_t(g) = P(H(B(W_g * x_t) + gamma_t))``, written out for a residual ending."""
    cnn = prepare(ResidualNet())
    net = shake(prernn.convert(cnn, cell=cell, input=form, keep_activation=True, **SMALL))
    layer, video = net.recurrent_layers[0], film()
    own = layer.input_to_hidden
    weights = [own.layer.weight] * len(layer.cell.gates) if form == "single" else list(own.copies)
    if form == "gate":
        weights.insert(layer.cell.own_gate, own.layer.weight)

    def features(frame, weight):
        gamma = F.relu(cnn.bn0(cnn.stem(frame)))
        x = F.relu(cnn.bn2(cnn.conv2(F.relu(cnn.bn1(cnn.conv1(gamma))))))
        return F.relu(cnn.bn3(F.conv2d(x, weight)) + gamma).mean((2, 3))

    u = torch.stack([torch.stack([features(frame, w) for w in weights], 1) for frame in video.unbind(1)])
    zeros = tuple(torch.zeros(2, 12, dtype=torch.float64) for _ in layer.cell.states)
    h, _ = run_equations(EQUATIONS[cell], u, zeros, layer.hidden_to_hidden.matrix(), layer.bias)
    close(net(video)[0], cnn.fc(h).transpose(0, 1))


def test_pooling_first_where_it_may():
    """Before the activation it may not: the layer runs at every place, as in the CNN."""
    moved, kept = (prernn.convert(PlainNet(), keep_activation=keep, **SMALL) for keep in (False, True))
    assert moved.recurrent_layers[0].input_to_hidden.pool_first
    assert not kept.recurrent_layers[0].input_to_hidden.pool_first


def test_a_recipe_keeps_it(tmp_path):
    net = prernn.convert(PlainNet(), cell="lstm", keep_activation=True, outputs=3, **SMALL)
    prernn.save(net, tmp_path)
    video = film().float()
    close(prernn.load(tmp_path, cnn=PlainNet())(video)[0], net.eval()(video)[0], atol=1e-5)
    assert "keep_activation" not in prernn.convert(PlainNet(), **SMALL).recipe.steps[0].arguments


def test_an_activation_that_is_not_there():
    with pytest.raises(ValueError, match="expected an activation after layer 'conv' to keep, found none"):
        prernn.convert(PlainNet(nn.Identity), "conv", keep_activation=True, **SMALL)
