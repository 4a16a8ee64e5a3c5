"""prernn.VRNN, LSTM and GRU with a structured ``W_ih`` against torch.nn's with the same matrix."""

import contextlib
import copy
import io
import itertools
import pickle

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pack_sequence

import prernn
from equations import close
from prernn import ops
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence
from prernn.layers.structures.parse import input_structure
from prernn.ops.input_projection import _works, blockwise
from rnn_layers import DOUBLE, OURS

TORCHS = {"vrnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
SPECS = ["grouped:2", "band:3", "band:40%", "paths:2", "sparse:0.3", "diagonal", "ring"]
SIZES = [(4, 8), (8, 8), (12, 8)]
"""``(I, D)``."""
CASES = [(kind, spec, *sizes) for kind, spec, sizes in itertools.product(OURS, SPECS, SIZES)]
CASES = [case for case in CASES if case[2] == case[3] or case[1] not in ("diagonal", "ring")]


def dense_twin(layer, kind, **options):
    """torch's layer with the matrices of ours."""
    theirs = TORCHS[kind](layer.input_size, layer.hidden_size, layer.num_layers, **options, **DOUBLE)
    state = dict(layer.state_dict())
    for number, suffix in enumerate(layer.suffixes()):
        place = {"layer": number // layer.directions, "reverse": suffix.endswith("reverse")}
        state[f"weight_ih{suffix}"] = layer.input_matrix(**place).flatten(0, 1)
        state[f"weight_hh{suffix}"] = layer.hidden_matrix(**place).flatten(0, 1)
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize(("kind", "spec", "inputs", "size"), CASES)
def test_a_layer_is_torchs_with_its_matrix(kind, spec, inputs, size):
    layer = OURS[kind](inputs, size, inputs=spec, hidden="diagonal", **DOUBLE)
    theirs, x = dense_twin(layer, kind), torch.randn(5, 3, inputs, **DOUBLE, requires_grad=True)
    out, state = layer(x)
    close((out, state), theirs(x))
    seed = torch.randn_like(out)
    ours = torch.autograd.grad((out * seed).sum(), [x, layer.weight_ih_l0, layer.bias_ih_l0], retain_graph=True)
    wanted = torch.autograd.grad((theirs(x)[0] * seed).sum(), [x, theirs.weight_ih_l0, theirs.bias_ih_l0])
    close((ours[0], ours[2]), (wanted[0], wanted[2]))
    # the gradient of the matrix, brought to where each weight stands in it
    matrix = layer.input_matrix()
    (compact,) = torch.autograd.grad((matrix * wanted[1].view_as(matrix)).sum(), [layer.weight_ih_l0])
    close(ours[1], compact)
    stepped, held = [], None
    for frame in x:
        y, held = layer.step(frame, held)
        stepped.append(y)
    close((torch.stack(stepped), held), (out, state))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("spec", ["grouped:1", "band:9", "sparse:1", "paths:5", "full"])
def test_structures_that_hold_all_of_the_matrix_are_torchs_layer(kind, spec):
    """Law 3: every connection is there, wherever its weight lies."""
    layer, theirs = OURS[kind](5, 7, inputs=spec, **DOUBLE), TORCHS[kind](5, 7, **DOUBLE)
    state = dict(theirs.state_dict())
    structure = input_structure(spec)
    assert bool(structure.mask(7, 5).all())
    numbers = torch.arange(1.0, 1 + layer.weight_ih_l0.numel(), **DOUBLE).view_as(layer.weight_ih_l0)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(numbers)
        where = (layer.input_matrix().flatten().long() - 1).argsort()
        compact = torch.zeros_like(numbers).flatten()
        compact[layer.input_matrix().flatten().long().sort().values - 1] = state["weight_ih_l0"].flatten()[where]
    state["weight_ih_l0"] = compact.view_as(numbers)
    layer.load_state_dict(state)
    x = torch.randn(4, 2, 5, **DOUBLE)
    close(layer(x), theirs(x))


@pytest.mark.parametrize("spec", ["grouped:4", "band:5", "paths:3", "sparse:0.2"])
@pytest.mark.parametrize("kind", OURS)
def test_layers_directions_batch_first_and_packed_rows(kind, spec):
    options = {"bidirectional": True, "batch_first": True}
    layer = OURS[kind](12, 8, 3, inputs=spec, **options, **DOUBLE)
    theirs, x = dense_twin(layer, kind, **options), torch.randn(2, 6, 12, **DOUBLE)
    assert layer.input_matrix(1).shape == (len(layer.cell.gates), 8, 16)
    close(layer(x), theirs(x))
    packed = pack_sequence([x[0], x[1, :4]])
    close(layer(packed)[0].data, theirs(packed)[0].data)
    ended = layer(x, lengths=torch.tensor([6, 4]))[0]
    close(ended[1, :4], layer(x[1:, :4])[0][0])


@pytest.mark.parametrize("spec", ["grouped:2", "band:3", "paths:2", "sparse:0.3"])
def test_a_projected_lstm(spec):
    layer = prernn.LSTM(6, 8, 2, proj_size=4, inputs=spec, **DOUBLE)
    theirs, x = dense_twin(layer, "lstm", proj_size=4), torch.randn(5, 3, 6, **DOUBLE)
    close(layer(x), theirs(x))
    with pytest.raises(NotImplementedError, match="proj_size=4"):
        prernn.LSTM(6, 8, proj_size=4, inputs=spec, hidden="diagonal")


def test_dropout_between_layers_is_of_the_outputs_below():
    layer, x = prernn.LSTM(8, 8, 2, dropout=0.5, inputs="grouped:2", hidden="diagonal"), torch.randn(4, 3, 8)
    below = prernn.LSTM(8, 8, inputs="grouped:2", hidden="diagonal")
    below.load_state_dict({name: value for name, value in layer.state_dict().items() if "_l1" not in name})
    torch.manual_seed(3)
    out = layer(x)[0]
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(below(x)[0], 0.5)
    above = prernn.LSTM(8, 8, inputs="grouped:2", hidden="diagonal")
    above.load_state_dict({n.replace("_l1", "_l0"): v for n, v in layer.state_dict().items() if "_l1" in n})
    close(out, above(dropped)[0], atol=1e-6)
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])


@pytest.mark.parametrize("spec", SPECS)
def test_a_layer_is_stored_copied_and_pickled(spec):
    layer, x = prernn.GRU(8, 8, 2, inputs=spec), torch.randn(3, 2, 8)
    gates, each = 3, input_structure(spec).weight_shape(8, 8)
    assert layer.weight_ih_l0.shape == (gates * each[0], *each[1:])
    assert not [name for name in layer.state_dict() if "index" in name]
    assert f"inputs={spec!r}" in repr(layer)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = prernn.GRU(8, 8, 2, inputs=spec)
    twin.load_state_dict(torch.load(file))
    empty = prernn.GRU(8, 8, 2, inputs=spec, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    for other in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), empty):
        assert torch.equal(other(x)[0], layer(x)[0])
    close(layer.double()(x.double())[0], twin(x)[0].double(), atol=1e-5)


def test_full_inputs_are_the_default_and_torchs_form():
    layer = prernn.LSTM(6, 8)
    assert "inputs" not in repr(layer)
    assert layer.weight_ih_l0.shape == (32, 6)
    close(layer.input_matrix(), layer.weight_ih_l0.view(4, 8, 6))


@pytest.mark.parametrize("spec", ["grouped:4", "band:5", "paths:3", "sparse:0.1"])
def test_weights_start_at_the_scale_of_the_full_product(spec):
    layer = prernn.LSTM(240, 120, 2, inputs=spec)
    for number, inputs in enumerate((240, 120)):
        fan_in = layer.input_structure.fan_in(120, inputs)
        bound, weight = (inputs / fan_in / 120) ** 0.5, getattr(layer, f"weight_ih_l{number}")
        assert 0.9 * bound < float(weight.detach().abs().max()) <= bound


ERRORS = [
    ({"inputs": "grouped:5"}, "inputs='grouped:5'.*I=12 and D=8"),
    ({"inputs": "diagonal"}, "inputs='diagonal'.*I=12 and D=8"),
    ({"inputs": "paths:10", "num_layers": 2}, "inputs='paths:10'.*I=8 and D=8"),
    ({"inputs": "banana"}, "inputs='banana': unknown structure"),
    ({"inputs": 3}, "inputs=3: expected one of"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_what_does_not_fit_is_refused_with_its_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        prernn.LSTM(12, 8, **options)
    with pytest.raises(ValueError, match=r"inputs='diagonal'.*I=16 and D=8"):
        prernn.LSTM(8, 8, 2, bidirectional=True, inputs="diagonal")


@pytest.mark.parametrize("spec", ["grouped:2", "band:3", "paths:2"])
def test_compile_export_and_functional_transforms(spec):
    layer, x = prernn.LSTM(8, 8, inputs=spec, hidden="diagonal"), torch.randn(3, 2, 8)
    expected = layer(x)[0]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    out = compiled(x)[0]
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    program = torch.export.export(copy.deepcopy(layer).eval(), (x,))
    torch.testing.assert_close(program.module()(x)[0], expected)
    weights = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].square().sum()

    samples = torch.randn(4, 3, 2, 8)
    each = vmap(grad(loss), in_dims=(None, 0))(weights, samples)
    for number, sample in enumerate(samples):
        layer.zero_grad()
        layer(sample)[0].square().sum().backward()
        torch.testing.assert_close(each["weight_ih_l0"][number], layer.weight_ih_l0.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["grouped:2", "band:9", "paths:4", "sparse:0.1", "diagonal"])
def test_autocast(spec):
    layer, x = prernn.LSTM(64, 64, 2, inputs=spec, hidden="diagonal"), torch.randn(5, 3, 64)
    expected = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)[0]
        out.float().sum().backward()
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.03)
    assert bool(layer.weight_ih_l0.grad.isfinite().all())


@pytest.mark.parametrize("spec", SPECS)
def test_quantized_layers_keep_integers_in_a_file(spec, tmp_path):
    layer, x = prernn.LSTM(12 if spec not in ("diagonal", "ring") else 8, 8, 1, inputs=spec), None
    x = torch.randn(4, 2, layer.input_size)
    small = prernn.quantize(layer, 4)
    row = next(row for row in prernn.quantization_report(small) if row.name == "weight_ih_l0")
    assert row.weights == 4 * layer.input_structure.weight_count(8, layer.input_size)
    prernn.save_quantized(small, tmp_path / "small.safetensors")
    again = prernn.load_quantized(copy.deepcopy(layer), tmp_path / "small.safetensors")
    assert torch.equal(again(x)[0], small(x)[0])
    by_neuron = prernn.quantize(layer, 4, scale="neuron")
    assert by_neuron.weight_ih_l0_scale.shape == (4 * 8,)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    ("spec", "narrow"),
    [("grouped:2", True), ("band:65", True), ("band:3", False), ("paths:40", True), ("sparse:0.3", True)],
)
def test_inputs_of_few_bits(spec, narrow, precision):
    layer = prernn.LSTM(192, 128, inputs=spec, hidden="diagonal")
    small = prernn.low_precision(layer, precision)
    assert isinstance(small.weight_ih_l0, NarrowRecurrence) == narrow
    for rows in (1, 3, 20):  # the last by the widened weight, where neurons hear runs
        x = torch.randn(rows, 192)
        torch.testing.assert_close(small.step(x)[0], layer.step(x)[0], rtol=0.05, atol=0.02)
    if narrow:
        matrix = layer.input_matrix()
        torch.testing.assert_close(
            small.input_matrix(), matrix, rtol=0.01, atol=float(matrix.detach().abs().max()) / 250
        )
        x = torch.randn(6, 2, 192)
        wide = copy.deepcopy(layer)
        with torch.no_grad():
            wide.weight_ih_l0.copy_(small.weight_ih_l0.compact().view_as(wide.weight_ih_l0))
        with ops.using("reference"):
            torch.testing.assert_close(small(x)[0], wide(x)[0], rtol=1e-4, atol=1e-5)


def test_large_blocks_by_onednn_are_those_of_the_matrix():
    """Blocks large enough for `prernn.ops.input_projection.blockwise` to leave torch's own product."""
    layer, x = prernn.LSTM(256, 128, inputs="grouped:2"), torch.randn(16, 8, 256, requires_grad=True)
    leaves, results = [x, *layer.parameters()], []
    for backend in (None, "reference"):
        with ops.using(backend) if backend else contextlib.nullcontext():
            out = layer(x)[0]
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-3)


def test_gradients_of_large_blocks_have_gradients():
    blocks, bias = torch.randn(4, 128, 128, requires_grad=True), torch.randn(512, requires_grad=True)
    x, seed, results = torch.randn(80, 256, requires_grad=True), torch.randn(80, 512), []
    for backend in (None, "reference"):
        with ops.using(backend) if backend else contextlib.nullcontext():
            y = blockwise(x, blocks, bias)
            assert ("_Blocks" in type(y.grad_fn).__name__) == (backend is None and _works())
            first = torch.autograd.grad((y * seed).square().sum(), (x, blocks, bias), create_graph=True)
            second = torch.autograd.grad(sum(each.square().sum() for each in first) / 1e6, (x, blocks))
            results.append((y, *first, *second))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours / wanted.abs().max(), wanted / wanted.abs().max(), rtol=1e-4, atol=1e-4)
