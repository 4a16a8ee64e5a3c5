"""How large ``W_hh`` starts: in every structure, converted and stacked, and as the recipe says."""

import math

import pytest
import torch

import prernn
from prernn.layers.cells import CELLS
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.parse import hidden_structure
from prernn.models.from_config import LASTING, NetworkSpec
from small_cnns import FcNet, film, prepare

SMALL = {"image_size": (8, 8)}
STRUCTURES = ("full", "diagonal", "band:3", "grouped:3")


def start_of(net):
    (layer,) = net.recurrent_layers
    return layer.hidden_to_hidden.weight.detach()


@pytest.mark.parametrize("hidden", STRUCTURES)
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("way", [prernn.convert, prernn.traditional])
def test_it_multiplies_the_start(way, cell, hidden):
    cnn, starts = prepare(FcNet()), []
    for options in ({}, {"hidden_gain": 1}, {"hidden_gain": 3}, {"hidden_gain": 0}):
        torch.manual_seed(0)
        starts.append(start_of(way(cnn, cell=cell, hidden=hidden, **options, **SMALL)))
    usual, one, three, none = starts
    bound = 1 / math.sqrt(hidden_structure(hidden).fan_in(12))
    assert 0.7 * bound < usual.abs().max() <= bound
    torch.testing.assert_close(one, usual)
    torch.testing.assert_close(three, 3 * usual)
    assert not none.any()


@torch.no_grad()
def test_without_it_prevrnn_begins_as_the_cnn():
    cnn, video = prepare(FcNet()), film()
    net = prernn.convert(cnn, cell="vrnn", hidden_gain=0, **SMALL)
    torch.testing.assert_close(net(video)[0], torch.stack([cnn(frame) for frame in video.unbind(1)], 1))


def test_a_recipe_keeps_it(tmp_path):
    net = prernn.convert(FcNet(), hidden_gain=2.5, outputs=3, **SMALL)
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path, cnn=FcNet())
    assert again.recipe.steps[0].arguments["hidden_gain"] == 2.5
    torch.testing.assert_close(start_of(again), start_of(net))
    assert "hidden_gain" not in prernn.convert(FcNet(), **SMALL).recipe.steps[0].arguments


@pytest.mark.parametrize("method", ["prernn", "traditional"])
def test_a_config_says_it(method):
    spec = {"backbone": "timm/test_resnet", "method": method}
    torch.manual_seed(0)
    small = start_of(NetworkSpec(**spec, hidden_gain=0.5).build(2))
    bound = 0.5 / math.sqrt(small.shape[-1])
    assert 0.9 * bound < small.abs().max() <= bound


@pytest.mark.parametrize(
    ("options", "gain"), [({}, 3), ({"cell": "lstm"}, 3), ({"cell": "vrnn"}, 1), ({"calibrate": False}, 1)]
)
@pytest.mark.parametrize("method", ["prernn", "traditional"])
def test_calibrated_gates_begin_with_a_memory(method, options, gain):
    net = NetworkSpec("timm/test_resnet", method=method, **options).build(2)
    assert net.recurrent_layers[0].hidden_to_hidden.gain == gain


@pytest.mark.parametrize("cell", list(LASTING))
def test_a_memory_that_lasts(cell):
    """The linear recurrence of the docstring is the cell's near zero, and its states fade as it says."""
    size, gain = 400, LASTING[cell]
    torch.manual_seed(0)
    hidden = HiddenToHidden(size, len(CELLS[cell]().gates), gain=gain, dtype=torch.float64)
    (own,) = (hidden.matrix()[CELLS[cell]().own_gate],)
    step = 0.5 * torch.eye(size, dtype=torch.float64) + own.detach() / 4
    products = hidden.weights().products(CELLS[cell]().groups)
    h = 1e-6 * torch.randn(1, size, dtype=torch.float64)
    u = torch.zeros(1, len(CELLS[cell]().gates), size, dtype=torch.float64)
    state = (h,) if cell == "gru" else (h / 2, h)  # o = 1/2: h is half of c
    new = CELLS[cell]().step(u, state, products)[-1]
    torch.testing.assert_close(new, h @ step.T, rtol=1e-4, atol=1e-11)
    assert torch.linalg.eigvals(step).abs().max() == pytest.approx(0.5 + gain / (4 * math.sqrt(3)), abs=0.02)


@pytest.mark.parametrize("gain", [-1, float("nan"), "3", True])
def test_a_gain_that_is_none(gain):
    with pytest.raises(ValueError, match="hidden_gain: expected a number from 0 on"):
        prernn.convert(FcNet(), hidden_gain=gain, **SMALL)
