"""Recurrences in exported programs whose batch or number of steps is left open."""

import pytest
import torch
from torch.export import Dim, export

import prernn
from prernn.ops import backends
from small_cnns import FcNet

BATCH, STEPS = Dim("b"), Dim("t")
OPEN = {"batch": {0: BATCH}, "time": {1: STEPS}, "both": {0: BATCH, 1: STEPS}}
SMALL = {"image_size": (8, 8)}
LAYERS = {
    "loop": lambda: (prernn.LSTM(3, 4, batch_first=True), (3,)),
    "operator": lambda: (prernn.VRNN(3, 4, hidden="diagonal", batch_first=True), (3,)),
    "network of a loop": lambda: (prernn.convert(FcNet(), **SMALL), (3, 8, 8)),
    "network of an operator": lambda: (prernn.convert(FcNet(), hidden="band:3", cell="lstm", **SMALL), (3, 8, 8)),
}


@pytest.mark.parametrize("free", list(OPEN))
@pytest.mark.parametrize("name", list(LAYERS))
def test_sizes_that_are_left_open(name, free):
    """A loop of T steps becomes torch's scan."""
    layer, shape = LAYERS[name]()
    layer.eval()
    program = export(layer, (torch.randn(3, 5, *shape),), dynamic_shapes=(OPEN[free],))
    scans = [node for node in program.graph.nodes if node.target is torch.ops.higher_order.scan]
    assert bool(scans) == ("loop" in name and free != "batch")
    x = torch.randn(7 if free != "time" else 3, 9 if free != "batch" else 5, *shape)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_a_compiler_that_is_the_first_to_ask_for_the_kernels(monkeypatch):
    """As in a fresh process, where nothing has run yet: an import can't be traced."""
    monkeypatch.setattr(backends, "_reasons", {"reference": None})
    layer, x = prernn.VRNN(3, 4, hidden="diagonal"), torch.randn(5, 2, 3)
    with torch.no_grad():
        out, _ = torch.compile(layer, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(out, layer(x)[0])
