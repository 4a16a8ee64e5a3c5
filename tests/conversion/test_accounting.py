"""The papers' numbers exactly, and counts against networks that were really built."""

import functools
import itertools
import math

import pytest
import torch
from torchvision.models import get_model

import prernn
from prernn.conversion.accounting import frame_cost, total_weights
from prernn.conversion.network import open_network
from prernn.layers.cells import CELLS, make_cell, recurrent_gates
from prernn.layers.input_to_hidden import INPUTS
from prernn.layers.structures.parse import hidden_structure
from prernn.models.networks.c3d import C3D
from small_cnns import SIZE, DenseNet, FcNet, PlainNet, ResidualNet
from strategies import SPECS

SMALL = {"image_size": (8, 8)}


@functools.cache
def traced(make, device=None):
    """The network without recurrence that conversions of a small CNN begin with: it is traced once."""
    with torch.device(device or "cpu"):
        return open_network(make(), **SMALL)


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
    gates = recurrent_gates(make_cell(cell))
    for make in (FcNet, ResidualNet):
        cnn, net = make(), prernn.convert(traced(make), cell=cell, input=form, hidden=spec)
        count = prernn.recurrent_parameters(net)
        extra = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in cnn.parameters())
        structure = hidden_structure(getattr(make_cell(cell), "structure", spec))
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
            cnn = traced(make, "meta")
            net = prernn.traditional(cnn, cell=cell, hidden_size=size, num_layers=num_layers, outputs=outputs)
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
    cnn = traced(make)
    goal = weights(prernn.convert(cnn, layer, cell=cell, input=form, outputs=outputs))
    size = prernn.matched_hidden_size(cnn, layer, cell=cell, input=form, num_layers=num_layers, outputs=outputs)
    distances = {
        other: abs(totals(make, cell, num_layers, outputs, other) - goal)
        for other in {1, size - 1, size, size + 1, 3 * size} - {0}
    }
    assert distances[size] == min(distances.values())


def test_matched_size_from_one_to_forty(totals):
    """Every size tried for a few cases."""
    for cell, num_layers in itertools.product(("vrnn", "gru"), (1, 2)):
        cnn = traced(FcNet, "meta")
        goal = weights(prernn.convert(cnn, ["fc6", "fc7"], cell=cell, outputs=7))
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


# --- what a frame costs

RESNET18 = 1_814_073_344
"""Multiply-adds of ResNet-18 at 224 pixels."""


@pytest.fixture(scope="module")
def resnet18():
    with torch.device("meta"):
        return get_model("resnet18")


def test_cost_of_resnet18_and_of_its_rcn(resnet18):
    plain, rcn = frame_cost(prernn.framewise(resnet18)), frame_cost(prernn.convert_rcn(resnet18))
    assert plain.layers == ()
    assert (plain.feedforward, plain.multiply_adds, plain.state) == (RESNET18, RESNET18, 0)
    assert rcn.feedforward == RESNET18
    assert len(rcn.layers) == 17
    first = rcn.layers[0]
    assert (first.name, first.hidden, first.size, first.map) == ("conv1", "full", 64, (112, 112))
    assert (first.places, first.weights, first.state) == (112 * 112, 64 * 64, 64 * 112 * 112 + 1)
    assert first.multiply_adds == 64 * 64 * 112 * 112
    # conv1, and the 4 units of each stage
    stages = [(64, 56), (128, 28), (256, 14), (512, 7)]
    assert rcn.state == 64 * 112**2 + 4 * sum(size * side**2 for size, side in stages) + 17 == 2_308_113
    assert rcn.state_bytes == 4 * rcn.state
    recurrent = 64**2 * 112**2 + 4 * sum(size**2 * side**2 for size, side in stages)
    assert rcn.multiply_adds == RESNET18 + recurrent


@pytest.mark.parametrize("spec", ["diagonal", "band:3", "grouped:4", "sparse:0.1+self", "paths:3"])
def test_cost_follows_the_structure(resnet18, spec):
    cost = frame_cost(prernn.convert_rcn(resnet18, layers="layer4.1.*", hidden=spec, init="random"))
    each = hidden_structure(spec).weight_count(512)
    assert [layer.multiply_adds for layer in cost.layers] == [each * 49] * 2
    assert [layer.weights for layer in cost.layers] == [each] * 2
    assert [layer.hidden for layer in cost.layers] == [spec] * 2
    assert cost.feedforward == RESNET18
    assert cost.state == 2 * (512 * 49 + 1)


def test_cost_at_another_size_and_in_another_type(resnet18):
    net = prernn.convert_rcn(resnet18).double()
    cost = frame_cost(net, (64, 96))
    assert cost.layers[0].map == (32, 48)
    assert cost.layers[-1].map == (2, 3)
    places = 64 * 96 / 224**2
    assert abs(cost.multiply_adds / (frame_cost(net).multiply_adds * places) - 1) < 0.01  # all but the output layer
    assert cost.state == sum(math.prod(t.shape) for layer in net.init_state(1, (64, 96)) for t in layer)
    assert cost.state_bytes == 8 * cost.state


def test_cost_of_a_3d_network():
    with torch.device("meta"):
        cnn = get_model("r3d_18")
    cost = frame_cost(prernn.framewise(cnn, image_size=(16, 112, 112)))
    assert abs(cost.multiply_adds / 40.7e9 - 1) < 0.005
    assert cost.state == 0


@pytest.mark.parametrize(("input", "products"), [("gate", 3), ("single", 1)])
def test_cost_of_prernn(input, products):
    """fc7 runs once for each gate, or once for all; W_hh of all gates at one place."""
    cnn = FcNet()
    plain = frame_cost(prernn.framewise(cnn, **SMALL))
    cost = frame_cost(prernn.convert(cnn, cell="gru", input=input, **SMALL))
    assert plain.multiply_adds == 8 * 8 * 3 * 4 * 9 + 16 * SIZE + SIZE * SIZE + SIZE * 5
    (layer,) = cost.layers
    assert (layer.map, layer.places, layer.weights, layer.state) == ((), 1, 3 * SIZE * SIZE, SIZE)
    assert layer.multiply_adds == 3 * SIZE * SIZE
    assert cost.feedforward == plain.feedforward + (products - 1) * SIZE * SIZE
    lstm = frame_cost(prernn.convert(cnn, cell="lstm", hidden="band:3", **SMALL))
    assert (lstm.state, lstm.layers[0].multiply_adds) == (2 * SIZE, 4 * (3 * SIZE - 2))


@pytest.mark.parametrize("make", [FcNet, ResidualNet, DenseNet, PlainNet])
def test_cost_on_meta_is_the_cost_for_real(make):
    with torch.device("meta"):
        empty = make()
    costs = []
    for cnn in (make(), empty):
        nets = [prernn.convert_rcn(cnn, layers="*", **SMALL), prernn.convert(cnn, cell="lstm", **SMALL)]
        costs.append([frame_cost(each, size) for each in nets for size in (None, (12, 10))])
    assert costs[0] == costs[1]
    assert all(cost.multiply_adds > cost.feedforward > 0 for cost in costs[0])


def test_cost_of_frames_that_a_network_does_not_take_is_an_error():
    net = prernn.framewise(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.Flatten()), image_size=(8, 8))
    with pytest.raises(ValueError, match="takes no frames"):
        frame_cost(net, (4, 4))
