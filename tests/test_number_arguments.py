"""Numbers that a caller gives to any public function: what makes no sense is a ValueError that names it."""

import functools
import math

import pytest
import torch

import prernn
from prernn.conversion.accounting import frame_cost, matched_hidden_size
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.irregular import Paths, Sparse
from prernn.layers.structures.regular import Band, Grouped
from prernn.tasks.events.ctc_decoders import BeamDecoder, GreedyDecoder
from small_cnns import FcNet, film

SMALL = {"image_size": (8, 8)}
ODD = (True, math.nan, math.inf, -math.inf, 1e300, 10**30, "two", -1)


@functools.cache
def cnn():
    return FcNet().eval()


@functools.cache
def network():
    return prernn.convert(cnn(), **SMALL)


COUNTS = {
    "input_size": lambda n: prernn.LSTM(n, 4),
    "hidden_size": lambda n: prernn.GRU(3, n, hidden="diagonal"),
    "num_layers": lambda n: prernn.VRNN(3, 4, n),
    "size": lambda n: HiddenToHidden(n, 1),
    "gates": lambda n: HiddenToHidden(4, n),
    "width": Band,
    "groups": Grouped,
    "paths": Paths,
    "outputs": lambda n: prernn.convert(cnn(), outputs=n, **SMALL),
    "image_size": lambda n: prernn.framewise(cnn(), image_size=(n, 8)),
    "image_size of a state": lambda n: prernn.convert_rcn(cnn(), **SMALL).init_state(1, (8, n)),
    "image_size of costs": lambda n: frame_cost(network(), (n, 8)),
    "hidden_size of the baseline": lambda n: prernn.traditional(cnn(), hidden_size=n, **SMALL),
    "num_layers of the baseline": lambda n: prernn.traditional(cnn(), num_layers=n, **SMALL),
    "num_layers that match": lambda n: matched_hidden_size(cnn(), "fc7", cell="gru", num_layers=n),
    "batch_size": lambda n: network().init_state(n),
    "checkpoint": lambda n: network()(film(), checkpoint=n),
    "time": lambda n: prernn.inflate(cnn(), time=n, **SMALL),
    "frames": lambda n: prernn.inflate(cnn(), frames=n, **SMALL),
    "start": lambda n: prernn.online_sparsity(cnn(), start=n),
    "inputs": lambda n: prernn.PathLinear(n, 4, 8),
    "paths of a layer": lambda n: prernn.PathLinear(4, 4, n),
    "skip": lambda n: prernn.PathLinear(4, 4, 8, skip=n),
    "kernel_size": lambda n: prernn.PathConv2d(4, 4, n, 8),
    "padding": lambda n: prernn.PathConv2d(4, 4, 3, 8, padding=n),
    "widths": lambda n: prernn.PathNetwork([4, n], 8),
    "paths of a grown network": lambda n: prernn.PathNetwork([4, 4], 8).grown(n),
    "width of a beam": lambda n: BeamDecoder(n),
    "patience": lambda n: BeamDecoder(patience=n),
}
SHARES = {
    "dropout": lambda x: prernn.LSTM(3, 4, 2, dropout=x),
    "density": Sparse,
    "percent": lambda x: Band(percent=x),
    "conv": lambda x: prernn.online_sparsity(cnn(), conv=x),
    "linear": lambda x: prernn.online_sparsity(cnn(), linear=x),
    "samples_per_weight": lambda x: prernn.quantize(cnn(), x),
    "allocation": lambda x: prernn.quantize(cnn(), allocation=x if x != -1 else None),
    "threshold": GreedyDecoder,
    "certainty": lambda x: BeamDecoder(certainty=x),
}
SEEDS = {
    "seed": lambda n: prernn.quantize(cnn(), seed=n),
    "seed of offsets": lambda n: prernn.online_sparsity(cnn(), seed=n),
    "seed of paths": lambda n: prernn.PathLinear(4, 4, 8, sampler="random", seed=n),
}


@pytest.mark.parametrize(("name", "use"), [*COUNTS.items(), *SHARES.items(), *SEEDS.items()])
def test_a_number_that_makes_no_sense_is_an_error_that_names_it(name, use):
    odd = [value for value in ODD if name not in SEEDS or value != -1]
    odd += [2.5] if name not in SHARES else []
    for value in odd:
        if name in ("start", "padding") and value == "two":
            continue  # a layer's name, and a padding that is not there yet
        many = name == "samples_per_weight" and value in (1e300, 10**30)
        rule = "at most 9,007,199,254,740,992 samples of a layer" if many else rf"{name.split()[0]}: expected .*got"
        with pytest.raises(ValueError, match=rule):
            use(value)


def test_integers_of_other_libraries_are_numbers():
    numpy = pytest.importorskip("numpy")
    layer = prernn.LSTM(numpy.int64(3), torch.tensor(4), dropout=numpy.float32(0))
    assert type(layer.hidden_size) is int
    assert layer(torch.zeros(2, 1, 3))[0].shape == (2, 1, 4)


def test_a_size_of_an_image_that_is_none():
    for size in (8, "88", 8.0):
        with pytest.raises(ValueError, match=r"image_size: expected \(H, W\) or \(D, H, W\), got"):
            prernn.convert(cnn(), image_size=size)
