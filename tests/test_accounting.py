"""The papers' numbers exactly, and counts against networks that were really built."""

import itertools
import math

import pytest
import torch
from conftest import SIZE, SPECS, DenseNet, FcNet, PlainNet, ResidualNet
from torchvision.models import get_model

import prernn
from prernn.accounting import total_weights
from prernn.c3d import C3D
from prernn.cells import CELLS, make_cell
from prernn.input_to_hidden import INPUTS
from prernn.structures import hidden_structure

SMALL = {"image_size": (8, 8)}


@pytest.fixture(scope="module")
def backbones():
    with torch.device("meta"):
        return {"vgg16": get_model("vgg16"), "c3d": C3D(), "resnet50": get_model("resnet50")}


LAYERS = {
    ("vgg16", "fc6"): "classifier.0",
    ("vgg16", "fc7"): "classifier.3",
    ("vgg16", "fc6/7"): ["classifier.0", "classifier.3"],
    ("c3d", "fc6"): "fc6",
    ("c3d", "fc7"): "fc7",
    ("c3d", "fc6/7"): ["fc6", "fc7"],
    ("resnet50", "conv"): "layer4.2.conv3",
}
TABLE_3 = {
    "lstm": (0.18, 0.57, 0.27, 0.40, 0.57, 0.47, 0.84),
    "gru": (0.20, 0.60, 0.30, 0.43, 0.60, 0.50, 0.86),
}


@pytest.mark.parametrize("cell", list(TABLE_3))
def test_table_3(backbones, cell):
    """Weights that PreRNN-SIH introduces, over those that PreRNN does."""
    ratios = []
    for (name, _), layer in LAYERS.items():
        gate, single = (
            prernn.recurrent_parameters(prernn.convert(backbones[name], layer, cell=cell, input=form))
            for form in ("gate", "single")
        )
        assert single.input_to_hidden == 0
        assert gate.hidden_to_hidden == single.hidden_to_hidden == single.introduced
        assert gate.introduced == gate.input_to_hidden + gate.hidden_to_hidden
        ratios.append(round(single.introduced / gate.introduced, 2))
    assert tuple(ratios) == TABLE_3[cell]


def test_weights_of_vgg16_by_hand(backbones):
    net = prernn.convert(backbones["vgg16"], "classifier.0", cell="lstm")
    count = prernn.recurrent_parameters(net)
    assert count.input_to_hidden == 3 * 25088 * 4096
    assert count.hidden_to_hidden == 4 * 4096 * 4096
    assert prernn.recurrent_parameters(prernn.convert(backbones["vgg16"], cell="vrnn")).introduced == 4096**2


@pytest.mark.parametrize(("cell", "size"), [("vrnn", 2740), ("lstm", 5761), ("gru", 5497)])
def test_matched_sizes_of_the_supplement(backbones, cell, size):
    """Two traditional layers on VGG16 against fc6/7, 136 outputs."""
    layers = ["classifier.0", "classifier.3"]
    assert prernn.matched_hidden_size(backbones["vgg16"], layers, cell=cell, num_layers=2, outputs=136) == size


def test_the_papers_band_layer(backbones):
    net = prernn.traditional(backbones["resnet50"], cell="lstm", hidden_size=400, hidden="band:9", outputs=10)
    assert prernn.recurrent_parameters(net).hidden_to_hidden == 14_320
    assert prernn.recurrent_parameters(net).input_to_hidden == 4 * 400 * 2048


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("form", list(INPUTS))
@pytest.mark.parametrize("cell", list(CELLS))
def test_counts_are_those_of_the_parameters(cell, form, spec):
    """Against the parameters of the built network: all that the CNN has not, biases apart."""
    gates = len(make_cell(cell).gates)
    for cnn in (FcNet(), ResidualNet()):
        net = prernn.convert(cnn, cell=cell, input=form, hidden=spec, **SMALL)
        count = prernn.recurrent_parameters(net)
        extra = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in cnn.parameters())
        structure = hidden_structure(spec)
        outside = gates * (math.prod(structure.weight_shape(SIZE)) - structure.weight_count(SIZE))
        assert count.introduced == extra - gates * SIZE - outside  # biases; a band's entries outside the matrix
        assert count.hidden_to_hidden == gates * int(structure.mask(SIZE).sum())
        assert count.input_to_hidden == 0 or form == "gate"
        assert total_weights(net) == total_weights(cnn) + count.introduced


def weights(net) -> int:
    """Parameters that are no biases, of a network whose structures are full."""
    return sum(p.numel() for name, p in net.named_parameters() if not name.endswith("bias"))


@pytest.fixture(scope="module")
def totals():
    """Weights of traditional networks that were built, by CNN, cell, layers and hidden size."""
    found = {}

    def total(make, cell, num_layers, outputs, size):
        key = (make, cell, num_layers, outputs, size)
        if key not in found:
            with torch.device("meta"):
                cnn = make()
            net = prernn.traditional(cnn, cell=cell, hidden_size=size, num_layers=num_layers, outputs=outputs, **SMALL)
            assert len(net.recurrent_layers) == num_layers
            assert net.output_layer.weight.shape == (outputs or 5, size)
            found[key] = weights(net)
            assert total_weights(net) == found[key]
        return found[key]

    return total


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("form", list(INPUTS))
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize(
    ("make", "layer", "outputs"),
    [(FcNet, ["fc6", "fc7"], None), (FcNet, None, 31), (ResidualNet, None, 2)],
    ids=["fc6/7", "fc7", "residual"],
)
def test_matched_size_has_the_nearest_total(totals, make, layer, outputs, cell, form, num_layers):
    """Brute force: no other size comes nearer to the converted network's weights."""
    cnn = make()
    goal = weights(prernn.convert(cnn, layer, cell=cell, input=form, outputs=outputs, **SMALL))
    size = prernn.matched_hidden_size(cnn, layer, cell=cell, input=form, num_layers=num_layers, outputs=outputs)
    distances = {
        other: abs(totals(make, cell, num_layers, outputs, other) - goal)
        for other in {1, 2, size - 2, size - 1, size, size + 1, size + 2, 3 * size} - {-1, 0}
    }
    assert distances[size] == min(distances.values())


def test_matched_size_from_one_to_forty(totals):
    """Every size tried for a few cases."""
    for cell, num_layers in itertools.product(("vrnn", "gru"), (1, 2)):
        with torch.device("meta"):
            cnn = FcNet()
        goal = weights(prernn.convert(cnn, ["fc6", "fc7"], cell=cell, outputs=7, **SMALL))
        nearest = min(range(1, 26), key=lambda size: abs(totals(FcNet, cell, num_layers, 7, size) - goal))
        layers = ["fc6", "fc7"]
        size = prernn.matched_hidden_size(cnn, layers, cell=cell, num_layers=num_layers, outputs=7)
        assert size == nearest < 25


def test_matched_size_leaves_the_cnn_alone():
    cnn = FcNet()
    before = {name: (id(p), p.detach().clone()) for name, p in cnn.named_parameters()}
    prernn.matched_hidden_size(cnn, cell="gru")
    assert not any(p.is_meta for p in cnn.parameters())
    assert all(id(p) == before[name][0] for name, p in cnn.named_parameters())
    assert all(torch.equal(p, before[name][1]) for name, p in cnn.named_parameters())


@pytest.mark.parametrize("make", [FcNet, ResidualNet, DenseNet, PlainNet])
def test_counting_on_meta_equals_counting_for_real(make):
    with torch.device("meta"):
        empty = make()
    for spec in SPECS:
        real, meta = (prernn.convert(cnn, cell="lstm", hidden=spec, **SMALL) for cnn in (make(), empty))
        assert prernn.recurrent_parameters(real) == prernn.recurrent_parameters(meta)
        assert total_weights(real) == total_weights(meta)


def test_table_names_layers_and_totals():
    net = prernn.convert(FcNet(), ["fc6", "fc7"], cell="lstm", hidden="band:3", **SMALL)
    count = prernn.recurrent_parameters(net)
    head, first, second, total = count.table().splitlines()
    assert head.split() == ["layer", "cell", "hidden", "D", "input-to-hidden", "hidden-to-hidden", "introduced"]
    band = 4 * (3 * SIZE - 2)
    assert first.split() == ["fc6", "LSTM", "band:3", "12", str(3 * 16 * SIZE), str(band), str(3 * 16 * SIZE + band)]
    assert second.split() == ["fc7", "LSTM", "band:3", "12", str(3 * 144), str(band), str(3 * 144 + band)]
    assert total.split()[0] == "total"
    assert [int(v.replace(",", "")) for v in total.split()[1:]] == [
        count.input_to_hidden,
        count.hidden_to_hidden,
        count.introduced,
    ]
    assert len({len(line) for line in (head, first, second, total)}) == 1


def test_a_network_without_recurrence_introduces_nothing():
    count = prernn.recurrent_parameters(prernn.framewise(FcNet(), **SMALL))
    assert (count.introduced, count.layers) == (0, ())
    assert "total" in count.table()
