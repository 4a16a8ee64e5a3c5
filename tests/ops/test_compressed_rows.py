"""Products of compressed rows against those of the matrix."""

import pytest
import torch

import prernn
from kernel_problems import native
from prernn import ops
from prernn.layers.structures.parse import hidden_structure
from prernn.ops import compressed_rows


@pytest.mark.parametrize("spec", ["sparse:0.05", "sparse:0.19", "paths:3", "paths:40"])
@pytest.mark.parametrize("batch", [0, 1, 2, 19])
def test_2_and_6_the_compressed_product_is_that_of_the_matrix(spec, batch, instructions):
    structure, size, gates = hidden_structure(spec), 40, 3
    h = torch.randn(batch, size, requires_grad=True)
    weight = torch.randn(gates, *structure.weight_shape(size), requires_grad=True)
    index, factors = structure.index(size), torch.randn(batch, gates, size)
    y = structure.product(weight, index, size)(h)
    assert "RowsProduct" in type(y.grad_fn).__name__ or "rows_product" in type(y.grad_fn).__name__
    expected = torch.einsum("gij,nj->ngi", structure.matrix(weight, index, size), h)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    actual = torch.autograd.grad((y * factors).sum(), (h, weight))
    wanted = torch.autograd.grad((expected * factors).sum(), (h, weight))
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_compressed_rows_on_several_threads(monkeypatch):
    monkeypatch.setattr(native.library, "WORTH_THREADS", 0)
    structure, size = hidden_structure("paths:4"), 700
    h, weight = torch.randn(35, size, requires_grad=True), torch.randn(2, size, 4, requires_grad=True)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y = structure.product(weight, structure.index(size), size)(h)
        results.append([y, *torch.autograd.grad(y.square().sum(), (h, weight))])
    torch.set_num_threads(1)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_compressed_rows_refuse_other_types():
    with pytest.raises(ValueError, match=r"h of torch.float32.*float64"):
        compressed_rows.product(torch.randn(2, 8).double(), torch.randn(1, 16), "paths", 2)


@pytest.mark.parametrize("spec", ["sparse:0.1", "paths:3"])
def test_a_whole_layer_over_compressed_rows_equals_the_dense_one(spec):
    layer, x = prernn.LSTM(5, 40, hidden=spec), torch.randn(4, 3, 5)
    results = []
    for backend in ("native", "reference"):
        with ops.using(backend):
            out, _ = layer(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
