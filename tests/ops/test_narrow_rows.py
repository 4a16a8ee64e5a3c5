"""Compressed rows with weights of few bits against those of the numbers that they stand for."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prernn
from kernel_problems import native
from prernn.conversion.lighter.low_precision import low_precision
from prernn.layers.structures.narrow_recurrence import NarrowRecurrence, NarrowRows

KINDS = {"bfloat16": torch.bfloat16, "int8": torch.int8}


def random_rows(receivers, senders, gates, kind, generator):
    """Rows of random length, none among them, and their weights ``(E, G)``."""
    counts = torch.randint(0, 9, (receivers,), generator=generator)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    entries = int(start[-1])
    column = torch.randint(0, senders, (entries,), generator=generator)
    weight = torch.randint(-128, 128, (entries, gates), generator=generator).to(KINDS[kind])
    return start, column, weight


def dense(start, column, weight, senders):
    """The matrix ``(G, D, I)`` in float64; two entries at one place add up."""
    rows = torch.arange(len(start) - 1).repeat_interleave(start.diff())
    matrix = torch.zeros(weight.shape[1], len(start) - 1, senders, dtype=torch.float64)
    for gate in range(weight.shape[1]):
        matrix[gate].index_put_((rows, column), weight[:, gate].double(), accumulate=True)
    return matrix


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it sets the instructions for all examples
@given(
    batch=st.integers(0, 35),
    receivers=st.integers(1, 300),
    senders=st.integers(1, 90),
    gates=st.integers(1, 6),
    more=st.booleans(),
)
def test_the_kernel_gives_the_product_of_the_numbers(kind, instructions, batch, receivers, senders, gates, more):
    generator = torch.Generator().manual_seed(batch + 40 * receivers + 1000 * senders + gates)
    start, column, weight = random_rows(receivers, senders, gates, kind, generator)
    h = torch.randn(batch, senders, generator=generator)
    scale, bias = (torch.rand(gates * receivers, generator=generator) if more else None for _ in range(2))
    y = native.narrow_rows(h, weight, scale, start, column.to(torch.uint16), bias)
    expected = torch.einsum("gdi,ni->ngd", dense(start, column, weight, senders), h.double())
    expected = expected if scale is None else expected * scale.view(gates, -1) + bias.view(gates, -1)
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 20])
def test_some_of_the_gates(kind, batch, instructions):
    start, column, weight = random_rows(70, 50, 4, kind, torch.Generator().manual_seed(0))
    h, places = torch.randn(batch, 50), column.to(torch.uint16)
    whole = native.narrow_rows(h, weight, None, start, places)
    for first, last in ((0, 1), (1, 3), (2, 4), (3, 4)):
        part = native.narrow_rows(h, weight[:, first:last], None, start, places)
        torch.testing.assert_close(part, whole[:, first:last], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_only_who_hears_a_number_that_is_not_finite_is_not_finite(batch, instructions):
    start, column, weight = random_rows(70, 50, 3, "int8", torch.Generator().manual_seed(0))
    weight[weight == 0] = 1
    h = torch.randn(batch, 50)
    h[-1, 7] = torch.nan
    y = native.narrow_rows(h, weight, None, start, column.to(torch.uint16))
    hears = dense(start, column, (weight * 0 + 1).to(torch.int8), 50) > 0
    assert torch.equal(y[-1].isnan(), hears[:, :, 7])
    assert not y[:-1].isnan().any()


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    start, column, weight = random_rows(2000, 300, 4, "int8", torch.Generator().manual_seed(0))
    for batch in (1, 20):
        h, results = torch.randn(batch, 300), []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(native.narrow_rows(h, weight, None, start, column.to(torch.uint16)))
        torch.set_num_threads(1)
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_what_the_kernel_does_not_take_is_refused():
    start, column, weight = random_rows(7, 5, 4, "int8", torch.Generator().manual_seed(0))
    h, places = torch.randn(2, 5), column.to(torch.uint16)
    for arguments, words in (
        ((h.double(), weight, None, start, places), "h of torch.float32"),
        ((h, weight.float(), None, start, places), "bfloat16 or int8"),
        ((h, weight.t().contiguous().t(), None, start, places), "adjacent gates"),
        ((h, weight, torch.ones(7), start, places), "expected scale"),
        ((h, weight, None, start, column.int()), "column of torch.uint16"),
    ):
        with pytest.raises(ValueError, match=words):
            native.narrow_rows(*arguments)
    small = low_precision(prernn.GRU(200, 150, hidden="sparse:0.3", inputs="paths:40"))
    assert isinstance(small.weight_hh_l0, NarrowRows)
    with pytest.raises(ValueError, match=r"expected"):
        small.step(torch.randn(1, 100))


@pytest.mark.parametrize("spec", ["sparse:0.3", "paths:40", "sparse:0.3+self"])
@pytest.mark.parametrize("by", ["layer", "neuron"])
def test_a_quantized_layer_keeps_its_integers(spec, by):
    torch.manual_seed(0)
    quantized = prernn.quantize(prernn.GRU(160, 160, hidden=spec), samples_per_weight=2.0, scale=by)
    small = low_precision(quantized)
    assert isinstance(small.weight_hh_l0, NarrowRecurrence)
    assert torch.equal(small.weight_hh_l0.compact().flatten(), quantized.weight_hh_l0.flatten())
    assert torch.equal(small.weight_hh_l0.values.flatten().long(), quantized.weight_hh_l0_counts.flatten().long())
    assert torch.equal(small.weight_ih_l0.wide(), quantized.weight_ih_l0)
