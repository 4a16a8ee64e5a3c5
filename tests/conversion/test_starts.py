"""How recurrences start: in every structure, converted and stacked, and as the recipe says."""

import math

import pytest
import torch
from torch import nn

import prernn
from prernn.conversion.calibration import unmeasured
from prernn.layers.cells import CELLS, GRUCell, LinearCell, LSTMCell, VRNNCell, make_cell, recurrent_gates
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.input_to_hidden import INPUTS, TraditionalInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.layers.starts import KEPT, lasting_gain
from prernn.layers.structures.parse import hidden_structure
from prernn.models.from_config import NetworkSpec
from prernn.studies.runs.gates import recording
from small_cnns import SIZE, FcNet, PlainNet, ResidualNet, film, prepare

SMALL = {"image_size": (8, 8)}
STRUCTURES = ("full", "diagonal", "band:3", "grouped:3")


def start_of(net):
    (layer,) = net.recurrent_layers
    return layer.hidden_to_hidden.weight.detach()


@pytest.mark.parametrize("hidden", STRUCTURES)
@pytest.mark.parametrize("cell", [name for name in CELLS if recurrent_gates(make_cell(name))])
@pytest.mark.parametrize("way", [prernn.convert, prernn.traditional])
def test_it_multiplies_the_start(way, cell, hidden):
    cnn, starts = prepare(FcNet()), []
    for options in ({}, {"start": 1}, {"start": 3}, {"start": 0}):
        torch.manual_seed(0)
        starts.append(start_of(way(cnn, cell=cell, hidden=hidden, **options, **SMALL)))
    usual, one, three, none = starts
    bound = 1 / math.sqrt(hidden_structure(getattr(make_cell(cell), "structure", hidden)).fan_in(12))
    assert 0.7 * bound < usual.abs().max() <= bound
    torch.testing.assert_close(one, usual)
    torch.testing.assert_close(three, 3 * usual)
    assert not none.any()


@torch.no_grad()
def test_without_it_prevrnn_begins_as_the_cnn():
    cnn, video = prepare(FcNet()), film()
    net = prernn.convert(cnn, cell="vrnn", start=0, **SMALL)
    torch.testing.assert_close(net(video)[0], torch.stack([cnn(frame) for frame in video.unbind(1)], 1))


def test_a_recipe_keeps_it(tmp_path):
    net = prernn.convert(FcNet(), start=2.5, outputs=3, **SMALL)
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path, cnn=FcNet())
    assert again.recipe.steps[0].arguments["start"] == 2.5
    torch.testing.assert_close(start_of(again), start_of(net))
    assert "start" not in prernn.convert(FcNet(), **SMALL).recipe.steps[0].arguments


@pytest.mark.parametrize("method", ["prernn", "traditional"])
def test_a_config_says_it(method):
    spec = {"backbone": "timm/test_resnet", "method": method}
    torch.manual_seed(0)
    small = start_of(NetworkSpec(**spec, start=0.5).build(2))
    bound = 0.5 / math.sqrt(small.shape[-1])
    assert 0.9 * bound < small.abs().max() <= bound


@pytest.mark.parametrize(
    ("options", "gain"),
    [
        ({}, 3.0),
        ({"cell": "lstm"}, 1.0),
        ({"cell": "vrnn"}, None),
        ({"calibrate": False}, 1.0),
        ({"start": 2}, 2.0),
    ],
)
@pytest.mark.parametrize("method", ["prernn", "traditional"])
def test_calibrated_gates_begin_with_a_memory(method, options, gain):
    net = NetworkSpec("timm/test_resnet", method=method, **options).build(2)
    if gain is None:  # tanh, and the CNN's ReLU
        gain = 1.62 if method == "traditional" else 2.29
    assert net.recurrent_layers[0].hidden_to_hidden.gain == pytest.approx(gain, abs=0.01)


CELLS_OF_STATES = {
    "gru": GRUCell(),
    "gru, torch's": GRUCell(reset="after", update="old"),
    "vrnn": VRNNCell(),
    "vrnn, Hardswish": VRNNCell(nn.Hardswish(inplace=True)),
}


@pytest.mark.parametrize("name", list(CELLS_OF_STATES))
def test_a_memory_that_lasts(name):
    """Near zero the cell is the linear recurrence that it is said to be, and its step has the radius."""
    cell, size, gates = CELLS_OF_STATES[name], 400, len(CELLS_OF_STATES[name].gates)
    torch.manual_seed(0)
    hidden = HiddenToHidden(size, gates, gain=lasting_gain(cell), dtype=torch.float64)
    u, products = torch.zeros(1, gates, size, dtype=torch.float64), hidden.weights().products(cell.groups)

    def step(h):
        return cell.step(u, (h,), products)[0][0]

    matrix = torch.autograd.functional.jacobian(step, torch.zeros(1, size, dtype=torch.float64))[:, 0]
    assert torch.linalg.eigvals(matrix).abs().max() == pytest.approx(KEPT, abs=0.03)


def test_a_relu_keeps_what_is_left_of_it():
    """Of units that are half of them shut the mean square of a change is kept as the rule says."""
    torch.manual_seed(0)
    cell = VRNNCell(torch.relu)
    hidden = HiddenToHidden(2000, 1, gain=lasting_gain(cell), dtype=torch.float64)
    u, state = torch.randn(8, 1, 2000, dtype=torch.float64), torch.rand(8, 2000, dtype=torch.float64)
    change, products = 1e-4 * torch.randn(8, 2000, dtype=torch.float64), hidden.weights().products(cell.groups)
    with torch.no_grad():
        after = cell.step(u, (state + change,), products)[0] - cell.step(u, (state,), products)[0]
    assert float((after.square().mean() / change.square().mean()).sqrt()) == pytest.approx(KEPT, abs=0.05)


@pytest.mark.parametrize("cell", [LinearCell(), LSTMCell()])
def test_other_cells_start_as_torchs(cell):
    assert lasting_gain(cell) == 1.0


@pytest.mark.parametrize("update", ["new", "old"])
def test_units_that_are_alone_last_by_their_update_gates(update):
    """A diagonal GRU's units keep what they have for 2 to 30 frames; with other structures the bias begins at 0."""
    torch.manual_seed(0)
    cell, size = GRUCell(update=update), 400
    layer = RecurrentLayer(TraditionalInput(3, size, 3), cell, size, "diagonal", start="lasting")
    reset, _, candidate = layer.bias.detach()
    assert not reset.any()
    assert not candidate.any()
    assert layer.hidden_to_hidden.gain == 1
    h = torch.ones(1, size)
    layer.hidden_to_hidden.zero_()
    kept = layer.run(torch.zeros(1, 1, 3, size), (h,))[0].detach().flatten()
    frames = 1 / (1 - kept)  # of 1 / (1 + b), which the update gate is, after one frame
    assert 2 <= frames.min() < 3
    assert 28 < frames.max() <= 30.1
    for other in ("full", "ring", "band:3"):
        assert not RecurrentLayer(TraditionalInput(3, 12, 3), cell, 12, other, start="lasting").bias.any()


@pytest.mark.parametrize("gain", [-1, float("nan"), "3", True])
def test_a_gain_that_is_none(gain):
    with pytest.raises(ValueError, match="start: expected a number from 0 on"):
        prernn.convert(FcNet(), start=gain, **SMALL)


KINDS = {"fc": FcNet, "residual": ResidualNet, "ReLU6": PlainNet}


@pytest.mark.parametrize("form", list(INPUTS))
@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_a_network_that_begins_as_the_cnn(kind, cell, form):
    """It answers what the CNN answers, but for what gates and tanh bend, and a frame before that fades at once."""
    cnn, videos = prepare(KINDS[kind]()), [film() for _ in range(3)]
    net = prernn.convert(cnn, cell=cell, input=form, start="cnn", keep_activation=True, **SMALL)
    if cell != "vrnn":  # which is the CNN without
        net = prernn.calibrate(net, videos)
    expected = torch.stack([cnn(frame) for frame in videos[0].unbind(1)], 1)
    usual = prernn.calibrate(prernn.convert(cnn, cell=cell, input=form, keep_activation=True, **SMALL), videos)

    def error(answers):
        return float((answers - expected).norm() / (expected - expected.mean((0, 1))).norm())

    assert error(net(videos[0])[0]) < (1e-5 if cell == "vrnn" else 0.25)
    assert error(usual(videos[0])[0]) > 0.5
    still = videos[0][:, :1].expand(-1, 6, -1, -1, -1)
    answers = net(still)[0]
    assert (answers[:, -1] - expected[:, 0]).norm() < 0.2 * (expected[:, 0] - expected.mean((0, 1))).norm()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_it_streams_learns_and_comes_back(cell, tmp_path):
    video = film()
    net = prernn.convert(FcNet(), cell=cell, start="cnn", keep_activation=True, outputs=3, **SMALL).double()
    net = prernn.calibrate(net, [video]).eval()
    whole, state, steps = net(video)[0], None, []
    for frame in video.unbind(1):
        out, state = net(frame[:, None], state)
        steps.append(out[:, 0])
    torch.testing.assert_close(torch.stack(steps, 1), whole)
    whole.square().sum().backward()
    (layer,) = net.recurrent_layers
    assert layer.hidden_to_hidden.weight.grad.any()
    assert not any("restoration" in name for name, _ in net.named_parameters())
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path, cnn=FcNet()).double()
    torch.testing.assert_close(again(video)[0], whole, rtol=1e-5, atol=1e-5)
    with recording(net) as seen, torch.no_grad():  # gates are those of the states, not of what leaves the layer
        net(video)
    (gates,) = seen.values()
    (recurrent,) = (module for module in net.modules() if isinstance(module, RecurrentLayer))
    with torch.no_grad():
        u = calibrated_inputs(net, recurrent, video)
        state = recurrent.init_state(2)
        for step, inputs in enumerate(u.unflatten(0, (-1, 2))):
            products = recurrent.hidden_to_hidden.weights(recurrent.bias).products(recurrent.cell.groups)
            found = recurrent.cell.activations(inputs, state[0], products)
            for gate, value in zip(recurrent.cell.gates, found, strict=True):
                torch.testing.assert_close(gates[gate][:, step], value)
            state = recurrent.cell.step(inputs, state, products)


def calibrated_inputs(net, layer, video):
    found = []
    hook = layer.calibration.register_forward_hook(lambda module, inputs, u: found.append(u))
    net(video)
    hook.remove()
    return found[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: prernn.convert(FcNet(), start="cnn", **SMALL), ValueError, "expected keep_activation"),
        (lambda: prernn.traditional(FcNet(), start="cnn", **SMALL), ValueError, "got stacked layers"),
        (
            lambda: prernn.convert(FcNet(), cell="vrnn", start="cnn", pretrained=False, **SMALL),
            ValueError,
            "expected the CNN's own weights, got pretrained=False",
        ),
        (lambda: prernn.convert(FcNet(), start="cn", **SMALL), ValueError, "'lasting' or 'cnn', got 'cn'"),
    ],
)
def test_starts_that_are_none(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_config_begins_as_the_cnn():
    """Stacked layers, which are no part of a CNN, last; PreVRNN is the CNN without calibration."""
    made = {"backbone": "timm/test_resnet", "start": "cnn", "keep_activation": True}
    nets = {
        "vrnn": NetworkSpec(**made, cell="vrnn").build(2),
        "gru": NetworkSpec(**made).build(2),
        "stacked": NetworkSpec(**made, method="traditional").build(2),
        "on top": NetworkSpec(**made, layers_on_top=1).build(2),
    }
    gains = {name: [layer.hidden_to_hidden.gain for layer in net.recurrent_layers] for name, net in nets.items()}
    assert gains == {
        "vrnn": [0],
        "gru": [0],
        "stacked": [pytest.approx(3, abs=0.01)],
        "on top": [0, pytest.approx(3, abs=0.01)],
    }
    assert [len(unmeasured(net)) for net in nets.values()] == [0, 1, 0, 1]
    random = NetworkSpec(**made, cell="vrnn", pretrained_layer=False).build(2)
    assert random.recurrent_layers[0].hidden_to_hidden.gain > 1  # which is no part of a CNN either
    assert len(unmeasured(random)) == 1
    top = NetworkSpec(**made, cell="vrnn", layers_on_top=1, calibrate="all").build(2)
    assert [len(unmeasured(top)), len(top.recurrent_layers)] == [1, 2]
    with pytest.raises(ValueError, match="expected calibrate with 'cnn' and the cell lstm, got false"):
        NetworkSpec(**made, cell="lstm", calibrate=False)


def test_an_activation_with_weights_of_another_precision():
    """The mean square of PReLU's two slopes, 1 and 1/4."""
    expected = math.sqrt(3) * KEPT / math.sqrt((1 + 1 / 16) / 2)
    assert lasting_gain(VRNNCell(nn.PReLU().double())) == pytest.approx(expected, rel=1e-3)
    assert lasting_gain(VRNNCell(nn.PReLU(SIZE))) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("start", ["cnn", "lasting"])
@pytest.mark.parametrize("kept", [False, True])
@torch.no_grad()
def test_slopes_of_each_unit(kept, start):
    """Behind such an activation too, from "cnn" a PreVRNN is the CNN, kept before the sum or behind it."""
    cnn, video = prepare(FcNet(lambda: nn.PReLU(SIZE))).float(), film().float()
    net = prernn.convert(cnn, cell="vrnn", start=start, keep_activation=kept, **SMALL)
    expected = torch.stack([cnn(frame) for frame in video.unbind(1)], 1)
    assert torch.allclose(net(video)[0], expected, atol=1e-5) == (start == "cnn")
