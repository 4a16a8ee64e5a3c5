"""Products of weights and inputs in 8 bits: the integers are exact, by every instruction set and by torch."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prernn
from kernel_problems import native
from prernn import ops
from prernn.conversion.lighter import low_precision as lighter
from prernn.conversion.lighter.low_precision import low_precision, segments_of
from prernn.layers.hidden_to_hidden import HiddenToHidden, matrix_places
from prernn.layers.structures.narrow_recurrence import NarrowSegments
from prernn.ops.narrow import MOST_INPUTS, NarrowWeight, in_8_bits

SAME = {"rtol": 0, "atol": 0, "equal_nan": True}


def drawn(rows, inputs, shape, generator):
    """Inputs as they come: of both signs, of one, nearly nothing, zeros, far from 0."""
    x = torch.randn(rows, inputs, generator=generator)
    return {"both": x, "one": x.relu(), "tiny": x * 1e-39, "zeros": x * 0, "far": x / 10 + 1000, "large": x * 1e37}[
        shape
    ]


def exactly(x, values, scale=None, bias=None):
    """The product by the int64 sums of the integers, rounded as the kernels say."""
    whole, step = in_8_bits(x)
    y = (whole.long() @ values.long().T).float() * step
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it sets the instructions for all examples
@given(
    rows=st.integers(0, 17),
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 200),
    more=st.booleans(),
    shape=st.sampled_from(["both", "one", "tiny", "zeros", "far", "large"]),
)
def test_the_kernel_gives_the_integers(instructions, rows, outputs, inputs, more, shape):
    generator = torch.Generator().manual_seed(rows + 10 * outputs + 1000 * inputs)
    x = drawn(rows, inputs, shape, generator)
    values = torch.randint(-128, 128, (outputs, inputs), generator=generator).to(torch.int8)
    scale, bias = (torch.rand(outputs, generator=generator) if more else None for _ in range(2))
    y = native.integer_product(x, values, values.sum(1, dtype=torch.int32), scale, bias)
    torch.testing.assert_close(y, exactly(x, values, scale, bias), **SAME)


def test_the_largest_sums_fit(instructions):
    x = torch.ones(2, MOST_INPUTS)
    x[1] = -1
    for number in (-128, 127):
        values = torch.full((5, MOST_INPUTS), number, dtype=torch.int8)
        y = native.integer_product(x, values, values.sum(1, dtype=torch.int32))
        torch.testing.assert_close(y, exactly(x, values), **SAME)


@pytest.mark.parametrize("spec", ["full", "grouped:4", "band:35", "band:101"])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_runs_of_neighbors(spec, rows, instructions):
    hidden = HiddenToHidden(160, 3, spec)
    small = NarrowSegments(hidden.weight.detach(), hidden.structure, "int8x8", None)
    segments = segments_of(matrix_places(hidden.weights()), 160)
    place = matrix_places(hidden.weights()).flatten()
    matrix = torch.zeros(3 * 160 * 160, dtype=torch.int8)
    matrix[place[place >= 0]] = small.values.flatten()[place >= 0]
    x, narrow = torch.randn(rows, 160), small.narrow
    sums = torch.where(place >= 0, small.values.flatten(), 0).view(480, -1).sum(1, dtype=torch.int32)
    y = native.integer_product(x, narrow.values, sums, narrow.scale, None, segments)
    torch.testing.assert_close(y, exactly(x, matrix.view(480, 160), narrow.scale), **SAME)


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    x, weight = torch.randn(5, 300), NarrowWeight(torch.randn(1001, 300), "int8x8")
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(native.integer_product(x, weight.values, weight.sums, weight.scale))
    torch.set_num_threads(1)
    torch.testing.assert_close(results[1], results[0], **SAME)


def test_a_row_that_is_not_finite_is_not_a_number(instructions):
    x = torch.randn(4, 50)
    x[0, 3], x[1, 49], x[2, 0] = torch.nan, torch.inf, -torch.inf
    weight = NarrowWeight(torch.randn(9, 50), "int8x8")
    y = weight.product(x)
    assert bool(y[:3].isnan().all())
    assert bool(y[3].isfinite().all())
    with ops.using("reference"):
        torch.testing.assert_close(weight.product(x), y, **SAME)


def test_what_the_kernel_does_not_take_is_refused():
    x, weight, sums = torch.randn(2, 6), torch.zeros(3, 6, dtype=torch.int8), torch.zeros(3, dtype=torch.int32)
    for arguments, words in (
        ((x, weight.bfloat16(), sums), "weights of int8"),
        ((x, weight, sums.long()), "sums of torch.int32"),
        ((x, weight, sums[:2]), "expected sums"),
        ((torch.zeros(1, MOST_INPUTS + 1), weight, sums), "at most 65536 inputs"),
    ):
        with pytest.raises(ValueError, match=words):
            native.integer_product(*arguments)
    segments = (torch.tensor([0]), torch.tensor([3], dtype=torch.int32), torch.tensor([4], dtype=torch.int32))
    with pytest.raises(IndexError, match="leads outside"):
        native.integer_product(x, weight, sums[:1], segments=segments)


# the rule


@given(
    rows=st.integers(1, 5), inputs=st.integers(1, 60), shape=st.sampled_from(["both", "one", "zeros", "far", "large"])
)
def test_the_rule_and_its_error(rows, inputs, shape):
    x = drawn(rows, inputs, shape, torch.Generator().manual_seed(rows + 10 * inputs))
    whole, step = in_8_bits(x)
    reach = x.clamp(min=0).amax(1, keepdim=True) - x.clamp(max=0).amin(1, keepdim=True)
    assert torch.equal(whole, whole.round())
    assert bool((whole.amax(1) - whole.amin(1) <= 255).all())
    assert bool(((whole * step - x).abs() <= reach / 255 / 2 * (1 + 1e-4)).all())
    assert not whole[x == 0].any()
    assert bool((whole[x > 0] >= 0).all())


@pytest.mark.parametrize("inputs", [0, 1, 7, 150])
@pytest.mark.parametrize("kind", ["int8", "int8x8", "bfloat16"])
def test_rows_of_zeros_and_without_a_number_give_the_bias(kind, inputs, instructions):
    whole, step = in_8_bits(torch.zeros(2, inputs))
    assert (whole.shape, step.tolist()) == ((2, inputs), [[1.0], [1.0]])
    assert not whole.any()
    weight, bias = NarrowWeight(torch.randn(9, inputs), kind), torch.randn(9)
    for backend in ("native", "reference"):
        for x in (torch.zeros(2, 3, inputs), -torch.zeros(2, 3, inputs), torch.zeros(0, inputs)):
            with ops.using(backend):
                assert torch.equal(weight.product(x, bias), bias.expand(*x.shape[:-1], 9))
                assert not weight.product(x).any()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_error_of_a_product_is_bounded(backend):
    x, weight = torch.randn(6, 300), NarrowWeight(torch.randn(40, 300), "int8x8")
    _, step = in_8_bits(x)
    exact = x.double() @ weight.wide().double().T
    with ops.using(backend):
        y = weight.product(x)
    bound = step.double() / 2 * weight.wide().double().abs().sum(1)
    assert bool(((y - exact).abs() <= bound * (1 + 1e-5)).all())
    assert float((y - exact).abs().max()) > 0


# layers


@pytest.fixture
def small_counts(monkeypatch):
    monkeypatch.setattr(lighter, "LEAST", 1)


@pytest.mark.parametrize("spec", ["full", "grouped:4", "band:35", "diagonal", "sparse:0.1", "paths:4"])
@pytest.mark.parametrize("kind", ["VRNN", "LSTM", "GRU"])
def test_1_steps_are_the_sequence_and_torch_gives_what_the_kernels_do(kind, spec, small_counts, instructions):
    small = low_precision(getattr(prernn, kind)(150, 120, 2, hidden=spec).eval(), "int8x8")
    x, state, outs = torch.randn(20, 3, 150), None, []
    exact = (
        {"rtol": 0, "atol": 0} if spec not in ("sparse:0.1", "paths:4", "diagonal") else {"rtol": 1e-4, "atol": 0.02}
    )
    with torch.no_grad():
        whole, last = small(x)
        for part in x:
            out, state = small.step(part, state)
            outs.append(out)
        torch.testing.assert_close((torch.stack(outs), state), (whole, last), **exact)
        with ops.using("reference"):
            torch.testing.assert_close(small(x), (whole, last), **exact)


def test_a_layer_stays_near(small_counts):
    layer, x = prernn.LSTM(150, 120, hidden="full").eval(), torch.randn(20, 3, 150)
    with torch.no_grad():
        expected, got = layer(x)[0], low_precision(layer, "int8x8")(x)[0]
    assert 0 < float((got - expected).abs().max()) < 0.03


def test_gradients_go_straight_through():
    small = low_precision(torch.nn.Linear(200, 100), "int8x8")
    x = torch.randn(3, 200, requires_grad=True)
    y = small(x)
    torch.testing.assert_close(y, small(x.detach()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], small.weight.sum(0).expand(3, -1))


def test_a_network_in_8_bits_is_exported(tmp_path):
    pytest.importorskip("onnxscript")
    cnn = prernn.backbone("small_vgg", width=2, units=160, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", input="single", hidden="full", outputs=3).eval()
    prernn.export(low_precision(net, "int8x8"), tmp_path / "small.onnx")  # which compares
