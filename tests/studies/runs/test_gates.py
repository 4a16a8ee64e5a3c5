"""Gate activations against the paper's equations in a plain loop; saturation and histograms against numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prernn
from equations import close
from prernn.conversion.graph.graft import recurrent_nodes
from prernn.layers.cells import CELLS, GRUCell, LinearCell, make_cell
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.studies.runs import gates
from prernn.studies.runs.gates import GateCounts, bounded_gates, gate_activations, gate_counts, recording
from small_cnns import CNNS, SIZE, FcNet, film, prepare, shake

DOUBLE = {"dtype": torch.float64}
STRUCTURES = ("full", "diagonal", "band:3", "sparse:0.5")
SAMPLE = list(itertools.product(CELLS, ("gate", "single"), STRUCTURES, CNNS))


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


# the paper's gates, for one row: u (G, D), w (G, D, D), b (G, D), state of vectors (D,)


def vrnn_gates(u, state, w, b):
    h = torch.tanh(u[0] + w[0] @ state[0] + b[0])
    return {"h": h}, (h,)


def lstm_gates(u, state, w, b):
    """PreRNN, eqs. 2 and 8."""
    h, c = state
    i, f, o = (sigmoid(u[k] + w[k] @ h + b[k]) for k in (0, 1, 3))
    g = torch.tanh(u[2] + w[2] @ h + b[2])
    c = f * c + i * g
    return {"i": i, "f": f, "g": g, "o": o}, (o * torch.tanh(c), c)


def gru_gates(u, state, w, b):
    """PreRNN, eqs. 3 and 9."""
    (h,) = state
    r, z = (sigmoid(u[k] + w[k] @ h + b[k]) for k in (0, 1))
    n = torch.tanh(u[2] + w[2] @ (r * h) + b[2])
    return {"r": r, "z": z, "n": n}, ((1 - z) * h + z * n,)


def ligru_gates(u, state, w, b):
    z = sigmoid(u[0] + w[0] @ state[0] + b[0])
    n = torch.relu(u[1] + w[1] @ state[0] + b[1])
    return {"z": z, "n": n}, (z * state[0] + (1 - z) * n,)


def indrnn_gates(u, state, w, b):
    h = torch.relu(u[0] + w[0] @ state[0] + b[0])
    return {"h": h}, (h,)


def qrnn_gates(u, state, w, b):
    z, f, o = torch.tanh(u[0]), sigmoid(u[1]), sigmoid(u[2])
    c = f * state[1] + (1 - f) * z
    return {"z": z, "f": f, "o": o}, (o * c, c)


def sru_gates(u, state, w, b):
    f, r = sigmoid(u[1]), sigmoid(u[2])
    c = f * state[1] + (1 - f) * u[0]
    return {"x": u[0], "f": f, "r": r, "s": u[3]}, (r * torch.tanh(c) + (1 - r) * u[3], c)


def mingru_gates(u, state, w, b):
    z = sigmoid(u[0])
    return {"z": z, "h": u[1]}, ((1 - z) * state[0] + z * u[1],)


GATES = {
    "vrnn": vrnn_gates,
    "lstm": lstm_gates,
    "gru": gru_gates,
    "ligru": ligru_gates,
    "indrnn": indrnn_gates,
    "qrnn": qrnn_gates,
    "sru": sru_gates,
    "mingru": mingru_gates,
}


def loop(cell, u, state, w, b):
    """``u (T, B, G or 1, D)`` to ``{gate: (B, T, D)}``, row by row and step by step."""
    rows = []
    for row in range(u.shape[1]):
        own, steps = tuple(t[row] for t in state), []
        for u_t in u[:, row]:
            values, own = GATES[cell](u_t.expand(len(make_cell(cell).gates), -1), own, w, b)
            steps.append(values)
        rows.append({gate: torch.stack([values[gate] for values in steps]) for gate in steps[0]})
    return {gate: torch.stack([row[gate] for row in rows]) for gate in rows[0]}


def network(cell, form="gate", hidden="full", kind="fc", **options):
    """A small converted network, its activation tanh, with gates that differ."""
    cnn = prepare(FcNet(nn.Tanh) if kind == "fc" else CNNS[kind]())
    if kind != "fc":
        cnn.relu = nn.Tanh()
    return shake(prernn.convert(cnn, cell=cell, input=form, hidden=hidden, image_size=(8, 8), **options))


@torch.no_grad()
def expected_gates(net, cell, video, state):
    """What each layer's gates should be, from gate inputs taken by a plain call of its input-to-hidden module."""
    layers, inputs = net.recurrent_layers, {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, k=k: inputs.update({k: given[0]}))
        for k, layer in enumerate(layers)
    ]
    net(video, state)
    for hook in hooks:
        hook.remove()
    every = []
    for k, layer in enumerate(layers):
        u = layer.input_to_hidden(*inputs[k]).unflatten(0, (-1, len(video)))  # (T, B, G, D)
        start = layer.init_state(len(video)) if state is None else state[k]
        every.append(loop(cell, u, start, layer.hidden_to_hidden.matrix(), layer.bias))
    return every


@torch.no_grad()
@pytest.mark.parametrize("combination", SAMPLE, ids="-".join)
def test_activations_are_those_of_a_plain_loop(combination):
    net, video = network(*combination), film(batch=2, steps=4)
    state = tuple(tuple(torch.randn_like(t) for t in layer) for layer in net.init_state(2))
    plain = net(video, state)
    with recording(net) as seen:
        close(net(video, state), plain, atol=0)
    (expected,) = expected_gates(net, combination[0], video, state)
    (name,) = seen
    close(seen[name], expected)
    assert not net.recurrent_layers[0]._forward_hooks  # nothing stays behind


@torch.no_grad()
@pytest.mark.parametrize("cell", CELLS)
def test_every_layer_of_a_deep_network_is_recorded(cell):
    stacked = prernn.traditional(prepare(FcNet()), cell=cell, hidden_size=7, num_layers=2, image_size=(8, 8))
    both = prernn.traditional(network(cell, layer=["fc6", "fc7"]), cell=cell)
    video = film(batch=2, steps=3)
    for net, layers in ((shake(stacked), 2), (shake(both), 3)):
        with recording(net) as seen:
            net(video)
        assert list(seen) == [node.target for node in recurrent_nodes(net.cnn)]
        assert len(seen) == layers
        close(list(seen.values()), expected_gates(net, cell, video, None))


@torch.no_grad()
@pytest.mark.parametrize(
    "cell", [*map(make_cell, CELLS), GRUCell("after", "old"), LinearCell("sum")], ids=lambda cell: cell.kernel
)
@pytest.mark.parametrize("shared", [False, True])
def test_feature_maps_are_recorded_place_by_place(cell, shared):
    layer = RecurrentLayer(nn.Identity(), cell, 5, "band:3", **DOUBLE)
    nn.init.normal_(layer.bias)
    steps, batch, extent = 3, 2, (2, 3)
    u = torch.randn(steps * batch, 1 if shared else len(cell.gates), 5, *extent, **DOUBLE)
    state = tuple(torch.randn_like(t) for t in layer.init_state(batch, *extent))
    out, _ = layer((u,), state)
    maps = gate_activations(layer, u, state, out)
    assert list(maps) == list(cell.gates)
    for place in itertools.product(*map(range, extent)):
        at = (..., *place)
        own = tuple(t[at] if t.ndim > 2 else t for t in state)  # a flag belongs to the stream, not to a place
        alone = gate_activations(layer, u[at], own, out[at])
        close({gate: values[at] for gate, values in maps.items()}, alone)


@torch.no_grad()
def test_a_step_is_made_of_the_activations():
    """One source of truth: `step` of torch's own GRU and the recording share the cell's equations."""
    cell = GRUCell("after", "old")
    layer = RecurrentLayer(nn.Identity(), cell, 4, **DOUBLE)
    nn.init.normal_(layer.bias)
    u, h = torch.randn(3, 3, 4, **DOUBLE), torch.randn(3, 4, **DOUBLE)
    (out,) = cell.step(u, (h,), layer.hidden_to_hidden.weights(layer.bias).products(cell.groups))
    values = gate_activations(layer, u, (h,), out)  # three rows, one step
    close(out[:, None], (1 - values["z"]) * values["n"] + values["z"] * h[:, None])


def counted(values, valid, bounds=(0.0, 1.0)):
    counts = GateCounts(values.shape[2], *bounds)
    counts.add(values, valid)
    return counts


@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 5),
    size=st.integers(1, 4),
    extent=st.sampled_from([(), (2,), (2, 1)]),
    tanh=st.booleans(),
    data=st.data(),
)
def test_saturation_and_histogram_are_numpys(batch, steps, size, extent, tanh, data):
    low = -1.0 if tanh else 0.0
    shape = (batch, steps, size, *extent)
    element = st.one_of(st.floats(low, 1), st.sampled_from([low, 0.1, 0.5, 0.9, 1.0]))
    flat = data.draw(st.lists(element, min_size=math.prod(shape), max_size=math.prod(shape)))
    values = torch.tensor(flat, **DOUBLE).reshape(shape)
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    valid = torch.arange(steps) < torch.tensor(lengths)[:, None]
    counts = GateCounts(size, low, 1.0)
    for row in range(batch):  # in as many parts as there are videos
        counts.add(values[row : row + 1], valid[row : row + 1])
    units = [[] for _ in range(size)]
    for row, length in enumerate(lengths):
        for time in range(length):
            for unit in range(size):
                units[unit] += values[row, time, unit].flatten().tolist()
    left, right = counts.saturation()
    close(left, torch.tensor([sum(v < 0.1 for v in unit) / len(unit) for unit in units], **DOUBLE))
    close(right, torch.tensor([sum(v > 0.9 for v in unit) / len(unit) for unit in units], **DOUBLE))
    every = np.array(units).ravel()
    bins, _ = np.histogram(every, [low + (1 - low) * k / 10 for k in range(11)])
    close(counts.histogram(), torch.from_numpy(bins / len(every)))
    assert counts.switches is not tanh


@torch.no_grad()
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_counts_leave_out_padding_and_run_in_chunks(cell, monkeypatch):
    net, video = network(cell), film(batch=3, steps=5)
    lengths = torch.tensor([5, 2, 3])
    garbage = video.clone()
    garbage[1, 2:], garbage[2, 3:] = 50.0, -50.0
    with recording(net) as seen:
        net(video)
    ((name, values),) = seen.items()
    valid = torch.arange(5) < lengths[:, None]
    for at_once in (1, 6, 100):  # one frame of each, two, all
        monkeypatch.setattr(gates, "FRAMES_AT_ONCE", at_once)
        empty = {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)}
        counts = gate_counts(net, [{"input": garbage, "lengths": lengths}, empty])
        for gate, count in counts[name].items():
            expected = counted(values[gate], valid, (count.low, count.high))
            assert count.times == expected.times == 10
            for part in ("left", "right", "bins"):
                close(getattr(count, part), getattr(expected, part))


def test_which_gates_have_bounds():
    assert bounded_gates(network("lstm").recurrent_layers[0]) == {"i": (0, 1), "f": (0, 1), "g": (-1, 1), "o": (0, 1)}
    assert bounded_gates(network("gru").recurrent_layers[0]) == {"r": (0, 1), "z": (0, 1), "n": (-1, 1)}
    assert bounded_gates(network("vrnn").recurrent_layers[0]) == {"h": (-1, 1)}
    relu = prernn.convert(prepare(FcNet()), cell="vrnn", image_size=(8, 8))
    assert bounded_gates(relu.recurrent_layers[0]) == {}
    assert gate_counts(relu, iter(())) == {"fc7": {}}


def test_a_network_without_recurrence_has_no_gates():
    net = prernn.framewise(prepare(FcNet()), image_size=(8, 8))
    assert gate_counts(net, [{"input": film(), "lengths": torch.tensor([4, 4])}]) == {}


def test_half_precision_trunks_are_recorded_as_they_run():
    net = network("lstm").float()
    video = film().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), recording(net) as seen:
        net(video)
    assert {values.dtype for values in seen["fc7"].values()} == {torch.float32}
    assert seen["fc7"]["i"].shape == (2, 4, SIZE)


def test_nothing_seen_is_an_error_and_so_are_bad_lengths():
    with pytest.raises(ValueError, match="at least one video"):
        GateCounts(3, 0, 1).saturation()
    with pytest.raises(ValueError, match="lengths"):
        gate_counts(network("gru"), [{"input": film(), "lengths": torch.tensor([4, 5])}])
