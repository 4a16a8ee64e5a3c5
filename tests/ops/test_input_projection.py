"""The input projection against torch's."""

import pytest
import torch
import torch.nn.functional as F

from equations import lstm_step, run_equations
from prernn.layers.cells import LSTMCell
from prernn.layers.input_to_hidden import SingleInput
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops import input_projection

pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")


def test_the_projection_equals_torchs_and_follows_its_weight(monkeypatch):
    used, operator = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: used.append(1) or operator(*a))
    monkeypatch.setattr(input_projection, "LEAST", 1)
    input_projection._works.cache_clear()
    x, layer = torch.randn(6, 3, 33), torch.nn.Linear(33, 50)
    with torch.no_grad():
        for change in (lambda: None, lambda: layer.weight.mul_(2), lambda: layer.weight.data.zero_()):
            change()
            expected = F.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(
                input_projection.linear(x, layer.weight, layer.bias), expected, rtol=0, atol=1e-5
            )
            torch.testing.assert_close(
                input_projection.linear(x, layer.weight), expected - layer.bias, rtol=0, atol=1e-5
            )
    assert len(used) == 1 + 2 * 3  # tried once
    assert input_projection.linear(x, layer.weight, layer.bias).grad_fn is not None
    assert len(used) == 8
    assert input_projection.linear(x[:0], layer.weight).shape == (0, 3, 50)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(7, 33), (5, 3, 33)])
def test_its_gradients_are_torchs_also_the_second(shape, biased, monkeypatch):
    used, operator = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: used.append(1) or operator(*a))
    monkeypatch.setattr(input_projection, "LEAST", 1)
    x, weight, bias = torch.randn(shape), torch.randn(50, 33), torch.randn(50) if biased else None
    leaves = [value.requires_grad_() for value in (x, weight, bias) if value is not None]
    found = []
    for product in (input_projection.linear, F.linear):
        out = product(x, weight, bias)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), leaves, allow_unused=True)
        plain = torch.autograd.grad(product(x, weight, bias).sum(), leaves)  # of one number, spread
        found.append([out, *first, *second, *plain])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))
    assert len(used) >= 6
    used.clear()
    torch.autograd.grad(input_projection.linear(x.detach(), weight, bias).sum(), [weight])
    assert len(used) == 2  # no gradient that nobody asks for


def test_the_projection_stays_torchs_where_onednn_fails(monkeypatch):
    x, weight = torch.randn(4, 8), torch.randn(6, 8)

    def broken(x, weight, bias, *rest):
        return F.linear(x, weight, bias) + 1

    monkeypatch.setattr(input_projection, "LEAST", 1)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken)
    input_projection._works.cache_clear()
    try:
        assert not input_projection._works()
        with torch.no_grad():
            torch.testing.assert_close(input_projection.linear(x, weight), F.linear(x, weight))
    finally:
        input_projection._works.cache_clear()


def test_one_input_for_all_gates_is_not_copied():
    layer = RecurrentLayer(SingleInput(torch.nn.Linear(4, 8)), LSTMCell(), 8, "diagonal")
    x = torch.randn(6, 4)
    out, _ = layer((x,), layer.init_state(2))
    u = layer.input_to_hidden(x).double().view(3, 2, 1, 8).expand(-1, -1, 4, -1)
    matrix, bias = layer.hidden_to_hidden.matrix().double(), layer.bias.double()
    expected, _ = run_equations(lstm_step, u, tuple(torch.zeros(2, 8).double() for _ in "hc"), matrix, bias)
    torch.testing.assert_close(out.view(3, 2, 8).double(), expected, rtol=0, atol=1e-6)
