"""Products with weights of few bits against those of the numbers that they stand for."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

import prernn
from kernel_problems import native
from prernn import ops
from prernn.conversion.accounting import total_weights
from prernn.conversion.lighter import low_precision as lighter
from prernn.conversion.lighter.low_precision import LEAST, NarrowLinear, low_precision, segments_of
from prernn.layers.hidden_to_hidden import HiddenToHidden, matrix_places
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence, NarrowSegments
from prernn.ops.narrow import FEW, TYPES, NarrowWeight
from prernn.sparsity.quantization.integer_network import integer_network
from small_cnns import FcNet, prepare

FLOAT_INPUTS = ("bfloat16", "int8")
"""Kinds of weights that meet floats."""


def exact(x, values, scale=None, bias=None):
    y = x.double() @ values.double().T
    y = y if scale is None else y * scale.double()
    return (y if bias is None else y + bias.double()).float()


@pytest.mark.parametrize("kind", FLOAT_INPUTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it sets the instructions for all examples
@given(rows=st.integers(0, 9), outputs=st.integers(1, 70), inputs=st.integers(1, 150), more=st.booleans())
def test_the_kernel_gives_the_product_of_the_numbers(kind, instructions, rows, outputs, inputs, more):
    generator = torch.Generator().manual_seed(rows + 10 * outputs + 1000 * inputs)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    narrow = NarrowWeight(weight, kind)
    scale = narrow.scale if kind == "int8" else (torch.rand(outputs, generator=generator) if more else None)
    bias = torch.randn(outputs, generator=generator) if more else None
    y = native.narrow_product(x, narrow.values, scale, bias)
    torch.testing.assert_close(y, exact(x, narrow.values, scale, bias), rtol=1e-5, atol=1e-4)


def test_every_8_bit_number_is_read_as_it_is(instructions):
    values = torch.arange(-128, 128).to(torch.int8).view(1, -1)
    for place in range(256):
        x = torch.zeros(1, 256)
        x[0, place] = 1
        assert native.narrow_product(x, values).item() == place - 128


def test_numbers_that_are_not_finite_pass(instructions):
    x = torch.tensor([[1.0, torch.nan, 0.0], [torch.inf, 1.0, 0.0], [1.0, 1.0, 1.0]])
    y = native.narrow_product(x, torch.tensor([[1, 2, 3]], dtype=torch.int8))
    torch.testing.assert_close(y, torch.tensor([[torch.nan], [torch.inf], [6.0]]), equal_nan=True)


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    x, weight = torch.randn(5, 300), NarrowWeight(torch.randn(1000, 300), "int8")
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(native.narrow_product(x, weight.values, weight.scale))
    torch.set_num_threads(1)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"begin": 5}, {"first": 3}, {"count": 9}, {"begin": -1}, {"count": -1}], ids=str)
def test_segments_that_lead_outside_are_refused(change):
    values = {"begin": 2, "first": 1, "count": 4} | change
    types = {"begin": torch.int64, "first": torch.int32, "count": torch.int32}
    segments = tuple(torch.tensor([values[name]], dtype=types[name]) for name in types)
    with pytest.raises(IndexError, match="leads outside"):
        native.narrow_product(torch.randn(1, 6), torch.zeros(8, dtype=torch.int8), segments=segments)


def test_what_the_kernel_does_not_take_is_refused():
    x, weight = torch.randn(2, 6), torch.zeros(3, 6, dtype=torch.int8)
    for arguments, words in (
        ((x.double(), weight), "x of torch.float32"),
        ((x, weight.float()), "bfloat16 or int8"),
        ((x, weight[:, :5]), "expected weight"),
        ((x, weight, torch.ones(2)), "expected scale"),
    ):
        with pytest.raises(ValueError, match=words):
            native.narrow_product(*arguments)


# weights


def test_a_weight_is_rounded_to_the_nearest():
    weight = torch.randn(30, 50)
    eight = NarrowWeight(weight, "int8")
    assert int(eight.values.abs().max()) == 127
    assert bool(((eight.wide() - weight).abs() <= eight.scale.unsqueeze(1) / 2 + 1e-6).all())
    assert torch.equal(NarrowWeight(weight, "bfloat16").wide(), weight.bfloat16().float())
    assert not NarrowWeight(torch.zeros(2, 3), "int8").wide().any()
    with pytest.raises(ValueError, match="expected finite weights"):
        NarrowWeight(torch.tensor([[torch.nan]]), "int8")
    with pytest.raises(ValueError, match="bfloat16, int8, int8x8, got 'int4'"):
        NarrowWeight(weight, "int4")


@pytest.mark.parametrize("each", [True, False], ids=["a unit for each row", "one unit"])
def test_multiples_of_one_number_are_kept_exactly(each):
    counts = torch.randint(-100, 101, (20, 30))
    counts[:, 0] = torch.arange(20) % 3 + 1 if not each else 1  # some rows have no 1
    unit = torch.rand(20, 1) + 0.1 if each else torch.tensor(0.037)
    narrow = NarrowWeight(counts * unit, "int8")
    assert torch.equal(narrow.values.long(), counts)
    large = NarrowWeight(torch.tensor([[1.0, 300.0]]), "int8")
    assert large.values.tolist() == [[0, 127]]


def test_a_quantized_network_keeps_its_integers():
    torch.manual_seed(0)
    net = prernn.traditional(prepare(FcNet()).float(), cell="gru", hidden_size=160, hidden="full").eval()
    quantized = prernn.quantize(net, samples_per_weight=2)
    small = low_precision(quantized)
    (layer,) = small.recurrent_layers
    assert isinstance(layer.hidden_to_hidden.weight, NarrowRecurrence)
    frames = torch.randn(1, 6, *net.frame_shape)
    with torch.no_grad():
        torch.testing.assert_close(small(frames)[0], quantized(frames)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["full", "grouped:4", "band:21", "band:40%"])
def test_the_neurons_of_regular_structures_hear_runs(spec):
    hidden = HiddenToHidden(40, 3, spec)
    begin, first, count = segments_of(matrix_places(hidden.weights()), 40)
    flat, matrix = hidden.weight.detach().flatten(), hidden.matrix().detach().flatten(0, 1)
    for row in range(120):
        own = torch.zeros(40)
        own[first[row] : first[row] + count[row]] = flat[begin[row] : begin[row] + count[row]]
        torch.testing.assert_close(own, matrix[row], rtol=0, atol=0)


def test_other_structures_have_no_runs():
    hidden = HiddenToHidden(40, 2, "paths:4")
    assert segments_of(matrix_places(hidden.weights()), 40) is None


# layers


def widened(layer, small):
    """The layer with the numbers that the small one stands for."""
    values = {name: value.clone() for name, value in layer.state_dict().items()}
    for name, module in small.named_modules():
        if isinstance(module, NarrowRecurrence):
            values[name] = module.compact().reshape(values[name].shape)
        elif isinstance(module, NarrowWeight) and name in values:
            values[name] = module.wide()
    layer.load_state_dict(values)
    return layer


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("kind", FLOAT_INPUTS)
@pytest.mark.parametrize("spec", ["full", "grouped:4", "band:35", "diagonal", "sparse:0.1", "paths:4", "paths:4+self"])
@pytest.mark.parametrize("kind_of_layer", ["VRNN", "LSTM", "GRU"])
def test_a_layer_computes_with_its_numbers(kind_of_layer, spec, kind, backend, monkeypatch):
    monkeypatch.setattr(lighter, "LEAST", 1)
    layer = getattr(prernn, kind_of_layer)(150, 120, 2, hidden=spec).eval()
    small = low_precision(layer, kind)
    assert isinstance(small.weight_ih_l0, NarrowWeight)
    assert isinstance(small.weight_hh_l1, NarrowRecurrence) == (spec != "diagonal")
    assert isinstance(small.weight_hh_l1, NarrowSegments) == (spec in ("full", "grouped:4", "band:35"))
    before = layer.state_dict()["weight_ih_l0"].clone()
    wide = widened(layer, small)
    assert not torch.equal(before, layer.weight_ih_l0)
    x = torch.randn(40, 3, 150)
    with torch.no_grad(), ops.using(backend):
        for part in (x, x[:2], x[:3, :0]):
            torch.testing.assert_close(small(part), wide(part), rtol=1e-4, atol=1e-5)
        state = None
        for step in x[:4]:
            out, following = small.step(step, state)
            expected, own = wide.step(step, state)
            torch.testing.assert_close((out, following), (expected, own), rtol=1e-4, atol=1e-5)
            state = following
    if spec != "diagonal":
        torch.testing.assert_close(small.hidden_matrix(1), wide.hidden_matrix(1))


def test_a_projection_and_both_directions():
    for options in ({"proj_size": 60}, {"bidirectional": True}, {"bias": False}):
        layer = prernn.LSTM(150, 120, **options).eval()
        small = low_precision(layer)
        wide, x = widened(layer, small), torch.randn(2, 3, 150)
        with torch.no_grad():
            torch.testing.assert_close(small(x), wide(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("input", ["gate", "single", "traditional"])
def test_a_network_keeps_nearly_its_outputs(input):
    torch.manual_seed(0)
    cnn = (
        prepare(FcNet(units=160)).float()
        if "units" in FcNet.__init__.__code__.co_varnames
        else prepare(FcNet()).float()
    )
    net = prernn.traditional(cnn, cell="gru", hidden_size=160, hidden="full").eval()
    small = low_precision(net, "int8")
    frames = torch.randn(6, *net.frame_shape)
    first, second = prernn.Stream(net), prernn.Stream(small)
    for frame in frames:
        expected, got = first(frame), second(frame)
        assert float((got - expected).abs().max()) < 0.02 * float(expected.abs().max()) + 0.01


def test_what_can_not_be_is_said():
    with pytest.raises(ValueError, match="bfloat16, int8, int8x8, got 'int4'"):
        low_precision(prernn.GRU(4, 4), "int4")
    with pytest.raises(NotImplementedError, match=r"expected weights of float32, got torch\.float64"):
        low_precision(prernn.GRU(4, 4).double())


def test_a_narrow_network_is_exported_and_not_saved(tmp_path):
    pytest.importorskip("onnxscript")
    cnn = prernn.backbone("small_vgg", width=2, units=160, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", input="single", hidden="full", outputs=3).eval()
    small = low_precision(net)
    prernn.export(small, tmp_path / "small.onnx")  # which compares
    with pytest.raises(NotImplementedError, match="save the network itself"):
        prernn.save(small, tmp_path)


def test_small_layers_and_watched_ones_stay():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(256, 256), torch.nn.Linear(256, 256))
    net[2].register_forward_hook(lambda *_: None)
    assert net[0].weight.numel() < LEAST
    small = low_precision(net)
    assert [type(part) for part in small] == [torch.nn.Linear, NarrowLinear, torch.nn.Linear]
    assert all(not parameter.requires_grad for parameter in small.parameters())
    many = torch.randn(FEW + 1, 256)
    torch.testing.assert_close(small[1](many)[:3], small[1](many[:3]), rtol=1e-4, atol=1e-4)


def test_what_has_few_bits_already_is_refused():
    small = low_precision(prernn.GRU(200, 200))
    for action in (low_precision, prernn.quantize, total_weights):
        with pytest.raises(NotImplementedError, match="some of few bits"):
            action(small)


@pytest.mark.parametrize("way", ["pruned", "weight norm", "parametrized"])
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0"])
def test_computed_weights_are_taken_as_they_are(name, way):
    layer, x = prernn.LSTM(200, 200).eval(), torch.randn(2, 200)
    if way == "pruned":
        prune.l1_unstructured(layer, name, 0.5)
    else:
        (parametrizations.weight_norm if way == "parametrized" else nn.utils.weight_norm)(layer, name)
    small = low_precision(layer)
    assert isinstance(getattr(small, name), NarrowRecurrence if "hh" in name else NarrowWeight)
    with torch.no_grad():
        assert float((small.step(x)[0] - layer.step(x)[0]).abs().max()) < 0.02


def test_other_types_and_places_leave_the_numbers():
    layer, x = nn.Linear(200, 200), torch.randn(2, 200)
    for kind in TYPES:
        small = low_precision(layer, kind)
        expected = small(x)
        for change in (lambda m: m.float(), lambda m: m.double().float(), lambda m: m.half().float(), copy.deepcopy):
            torch.testing.assert_close(change(low_precision(layer, kind))(x), expected, rtol=0, atol=1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = torch.float32 if kind == "int8x8" else torch.bfloat16
            assert small(x).dtype == small(torch.randn(40, 200)).dtype == narrow
    with pytest.raises(ValueError, match=r"input \(..., 200\), got shape \(2, 100\)"):
        small(x[:, :100])


def test_parents_may_look_at_a_weight_and_share_a_layer():
    encoder = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True).eval()
    x = torch.randn(1, 5, 128)
    with torch.no_grad():
        torch.testing.assert_close(low_precision(encoder)(x), encoder(x), rtol=0.05, atol=0.1)
    shared = nn.Linear(200, 200)
    small = low_precision(nn.ModuleDict({"first": shared, "second": nn.Sequential(shared)}))
    assert small["first"] is small["second"][0]
    integers = integer_network(prernn.quantize(nn.Sequential(nn.Linear(200, 200), nn.ReLU()), 2.0))
    given = torch.randn(1, 200)
    torch.testing.assert_close(low_precision(integers)(given), integers(given))


def test_a_quantized_weight_is_kept_once():
    quantized = prernn.quantize(prernn.LSTM(200, 200), 2.0)
    sizes = [
        sum(t.nbytes for t in low_precision(net).state_dict().values()) for net in (prernn.LSTM(200, 200), quantized)
    ]
    assert sizes[0] == sizes[1]


def test_rare_numbers():
    tiny = torch.full((1, 20), 2e-43)
    tiny[0, 0] = 1e-43
    assert bool((NarrowWeight(tiny, "int8").values > 0).all())
    assert NarrowWeight(torch.zeros(3, 0), "int8").values.shape == (3, 0)
    with pytest.raises(ValueError, match="expected finite"):
        NarrowWeight(torch.full((1, 2), 3.4e38), "bfloat16")
