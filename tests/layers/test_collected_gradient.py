"""The gradient of a dense recurrent matrix that is computed at once is that of plain autograd, in all its uses."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import prernn
from equations import close
from prernn.layers.structures import collected_gradient


def plain(matrix):
    return lambda h: F.linear(h, matrix)


def sequence(make, matrix, x):
    """``h_t = tanh(W h_{t-1} + x_t)``: outputs ``(T, N, D)``."""
    multiply, h, outputs = make(matrix), torch.zeros_like(x[0]), []
    for x_t in x:
        h = torch.tanh(multiply(h) + x_t)
        outputs.append(h)
    return torch.stack(outputs)


def leaves(rows=2, size=5, steps=4):
    matrix = torch.randn(size, size, dtype=torch.float64) / 2
    return matrix.requires_grad_(), torch.randn(steps, rows, size, dtype=torch.float64, requires_grad=True)


def both(use, rows=2):
    """What ``use`` gives with plain autograd and with the collected gradient, on the same numbers."""
    matrix, x = leaves(rows)
    return [
        use(lambda m, x, make=make: sequence(make, m, x), matrix, x) for make in (plain, collected_gradient.product)
    ]


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_gradients_are_those_of_plain_autograd(rows):
    expected, found = both(lambda run, m, x: torch.autograd.grad(run(m, x).square().sum(), (m, x)), rows)
    close(found, expected)


def test_twice_differentiable():
    matrix, x = leaves()
    assert torch.autograd.gradcheck(lambda m, x: sequence(collected_gradient.product, m, x), (matrix, x))
    assert torch.autograd.gradgradcheck(lambda m, x: sequence(collected_gradient.product, m, x), (matrix, x))


def several_passes(run, m, x):
    """Parts of the inputs, parts of the outputs, and the whole, over one graph."""
    out = run(m, x)
    first = torch.autograd.grad(out.sum(), x, retain_graph=True)
    second = torch.autograd.grad(out[1].sum(), (m, x), retain_graph=True)
    third = torch.autograd.grad(out.square().sum(), (m, x), retain_graph=True)
    return first, second, third, torch.autograd.grad(out.square().sum(), (m, x))


def computed_again(run, m, x):
    return torch.autograd.grad(checkpoint(run, m, x, use_reentrant=False).square().sum(), (m, x))


def frozen(run, m, x):
    out = run(m.detach(), x)
    return torch.autograd.grad(out.square().sum(), x)


def shared(run, m, x):
    """One matrix in two sequences, and by itself."""
    return torch.autograd.grad((run(m, x) * run(m, 2 * x)).sum() + m.square().sum(), (m, x))


def accumulated(run, m, x):
    for part in (x[:2], x[1:]):
        run(m, part).square().sum().backward()
    return m.grad.clone(), x.grad.clone(), m.grad.zero_(), x.grad.zero_()


@pytest.mark.parametrize("use", [several_passes, computed_again, frozen, shared, accumulated])
def test_every_use_of_a_graph(use):
    expected, found = both(use)
    close(found, expected)


def test_a_full_layer_keeps_its_gradients_when_it_is_cut_in_time():
    layer = prernn.GRU(3, 6).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    reference = torch.nn.GRU(3, 6).double()
    reference.load_state_dict(layer.torch_state_dict() if hasattr(layer, "torch_state_dict") else layer.state_dict())
    for net in (layer, reference):
        out, h = net(x[:3])
        net(x[3:], h.detach())[0].square().sum().backward()
        out.sum().backward()
    for (name, own), (_, other) in zip(layer.named_parameters(), reference.named_parameters(), strict=True):
        close(own.grad.flatten(), other.grad.flatten(), msg=name)
