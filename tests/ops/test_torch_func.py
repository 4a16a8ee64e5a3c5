"""torch.func's transforms and forward-mode derivatives over the kernels, against plain autograd over the reference."""

import copy
import functools
import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import prernn
from prernn import ops
from prernn.ops import backends, fused, input_projection

pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")

STEPS, BATCH, INPUTS, SIZE, SAMPLES = 4, 2, 3, 5, 3
LAYERS = {
    "tanh": prernn.VRNN,
    "relu": functools.partial(prernn.VRNN, activation="relu"),
    "lstm": prernn.LSTM,
    "gru": prernn.GRU,
    "gru-before": functools.partial(prernn.GRU, reset="before"),
}
SPECS = ["full", "diagonal", "band:3", "paths:2"]
every_layer = pytest.mark.parametrize("spec", SPECS)
every_cell = pytest.mark.parametrize("name", list(LAYERS))
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def make(name, spec, **options):
    """A layer, its parameters, and samples of inputs ``(SAMPLES, T, B, INPUTS)``."""
    layer = LAYERS[name](INPUTS, SIZE, hidden=spec, **options)
    return layer, {k: v.detach() for k, v in layer.named_parameters()}, torch.randn(SAMPLES, STEPS, BATCH, INPUTS)


def outputs(layer, parameters, x):
    """Outputs and last states, flat."""
    out, state = functional_call(layer, parameters, (x,))
    return torch.cat([out.flatten(), *(t.flatten() for t in (state if isinstance(state, tuple) else (state,)))])


def loss(layer, parameters, x):
    values = outputs(layer, parameters, x)
    return (values * torch.linspace(-1, 2, len(values), dtype=values.dtype)).sum()


def truth(function, layer, parameters, *rest):
    """``function(layer, parameters, ...)`` with the reference, in float64."""
    layer = copy.deepcopy(layer).double()
    parameters = {k: v.double() for k, v in parameters.items()}
    with ops.using("reference"):
        return function(layer, parameters, *(x.double() for x in rest))


def plain_gradients(layer, parameters, x):
    """Gradients of `loss` by plain autograd: of the parameters, by name, and of the inputs."""
    parameters = {k: v.clone().requires_grad_() for k, v in parameters.items()}
    x = x.clone().requires_grad_()
    *own, d_x = torch.autograd.grad(loss(layer, parameters, x), [*parameters.values(), x])
    return dict(zip(parameters, own, strict=True)), d_x


def plain_jacobian(layer, parameters, x):
    return torch.autograd.functional.jacobian(lambda x: outputs(layer, parameters, x), x)


def close(actual, expected):
    actual, expected = (torch.utils._pytree.tree_leaves(tree) for tree in (actual, expected))
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.double(), wanted.double(), **CLOSE)


@every_layer
@every_cell
def test_grad_and_vjp(name, spec):
    layer, parameters, (x, *_) = make(name, spec, num_layers=2, bidirectional=True)
    expected = truth(plain_gradients, layer, parameters, x)
    close(grad(functools.partial(loss, layer), argnums=(0, 1))(parameters, x), expected)
    value, back = vjp(functools.partial(loss, layer), parameters, x)
    close(value, truth(loss, layer, parameters, x))
    close(back(torch.ones(())), expected)


@every_layer
@every_cell
def test_vmap_with_and_without_gradients_recorded(name, spec):
    layer, parameters, xs = make(name, spec)
    expected = torch.stack([truth(outputs, layer, parameters, x) for x in xs])
    run = functools.partial(outputs, layer)
    close(vmap(run, (None, 0))(parameters, xs), expected)
    with torch.no_grad():
        close(vmap(run, (None, 2), 1)(parameters, xs.movedim(0, 2)), expected.T)
        close(vmap(vmap(run, (None, 0)), (None, 0))(parameters, xs.unsqueeze(0)), expected.unsqueeze(0))


@every_layer
@every_cell
def test_gradients_of_each_sample(name, spec):
    layer, parameters, xs = make(name, spec)
    expected = [truth(plain_gradients, layer, parameters, x)[0] for x in xs]
    actual = vmap(grad(functools.partial(loss, layer)), (None, 0))(parameters, xs)
    close(actual, {k: torch.stack([sample[k] for sample in expected]) for k in parameters})


@every_layer
def test_gradient_through_vmap_and_an_ensemble_of_layers(spec):
    layer, _, xs = make("lstm", spec)
    layers = [make("lstm", spec)[0] for _ in range(SAMPLES)]
    stacked, _ = stack_module_state(layers)
    stacked = {k: v.detach() for k, v in stacked.items() if k != "index"}

    def total(parameters):
        return vmap(functools.partial(loss, layer), (0, 0))(parameters, xs).sum()

    each = [truth(plain_gradients, own, dict(own.named_parameters()), x)[0] for own, x in zip(layers, xs, strict=True)]
    expected = {k: torch.stack([gradients[k] for gradients in each]).detach() for k in stacked}
    close(grad(total)(stacked), expected)
    leaves = {k: v.clone().requires_grad_() for k, v in stacked.items()}
    close(dict(zip(leaves, torch.autograd.grad(total(leaves), list(leaves.values())), strict=True)), expected)


@every_layer
@every_cell
def test_jacobians_either_way(name, spec):
    layer, parameters, (x, *_) = make(name, spec)
    expected = truth(plain_jacobian, layer, parameters, x)
    run = functools.partial(outputs, layer, parameters)
    close(jacrev(run)(x), expected)
    close(jacfwd(run)(x), expected)
    close(torch.autograd.functional.jacobian(run, x, vectorize=True), expected)  # batched, without torch.func
    tangent = torch.randn_like(x)
    close(jvp(run, (x,), (tangent,))[1], torch.einsum("otbi,tbi->o", expected, tangent.double()))


@every_layer
@every_cell
def test_dual_numbers_keep_their_tangents(name, spec):
    """Without torch.func, and where no gradients are recorded."""
    layer, parameters, (x, *_) = make(name, spec)
    tangent = torch.randn_like(x)
    expected = torch.einsum("otbi,tbi->o", truth(plain_jacobian, layer, parameters, x), tangent.double())
    with torch.no_grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(outputs(layer, parameters, forward_ad.make_dual(x, tangent)))
        assert found.tangent is not None
        close(found.tangent, expected)


@every_layer
def test_second_derivatives(spec):
    layer, parameters, (x, *_) = make("gru", spec)

    def plain_hessian(layer, parameters, x):
        return torch.autograd.functional.hessian(lambda x: loss(layer, parameters, x), x)

    expected = truth(plain_hessian, layer, parameters, x)
    run = functools.partial(loss, layer, parameters)
    close(hessian(run)(x), expected)
    close(jacfwd(jacfwd(run))(x), expected)
    if spec in ("diagonal", "band:3"):  # reverse over reverse is refused, as without torch.func
        with pytest.raises(NotImplementedError, match="PRERNN_OPS=reference"):
            jacrev(jacrev(run))(x)
    with ops.using("reference"):
        close(jacrev(jacrev(run))(x), expected)


def test_states_and_lengths_under_transforms():
    layer, parameters, (x, *_) = make("lstm", "band:3")
    lengths, state = torch.tensor([STEPS, 2]), torch.randn(2, 1, BATCH, SIZE)

    def run(layer, parameters, x, state):
        out, (h, c) = functional_call(layer, parameters, (x, (state[0], state[1]), lengths))
        return (out.square().sum() + h.sum() * 3 - c.sum()) / 2

    def plain(layer, parameters, x, state):
        x, state = x.clone().requires_grad_(), state.clone().requires_grad_()
        return torch.autograd.grad(run(layer, parameters, x, state), (x, state))

    actual = grad(run, argnums=(2, 3))(layer, parameters, x, state)
    close(actual, truth(plain, layer, parameters, x, state))
    assert not actual[0][2:, 1].any()


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
def test_the_kernels_run_under_transforms_but_for_forward_mode(spec, monkeypatch):
    layer, parameters, (x, *_) = make("lstm", spec)
    native, calls = backends.kernels("native"), []
    for way in ("forward", "backward"):
        kernel = getattr(native, way)
        monkeypatch.setattr(native, way, lambda *a, way=way, kernel=kernel: calls.append(way) or kernel(*a))
    run = functools.partial(loss, layer)
    grad(run)(parameters, x)
    assert calls == ["forward", "backward"]
    vmap(run, (None, 0))(parameters, torch.stack([x] * 3))
    assert calls[2:] == ["forward"] * 3
    calls.clear()
    hessian(run, 1)(parameters, x)
    assert not calls
    with ops.using("native"):
        grad(run)(parameters, x)
        with pytest.raises(ValueError, match=r"PRERNN_OPS=native: expected PRERNN_OPS=reference for a forward-mode"):
            jacfwd(run, 1)(parameters, x)


@pytest.mark.parametrize("spec", SPECS)
def test_torch_func_inside_torch_compile(spec):
    if spec == "band:3" and torch.__version__ < (2, 12):
        pytest.skip("torch before 2.12 stops with an error of its own at the gradient of unfold")
    layer, parameters, xs = make("lstm", spec)
    assert ops.missing("native") is None  # looked for once, before torch.compile traces
    run = torch.compile(vmap(grad(functools.partial(loss, layer)), (None, 0)), backend="aot_eager", fullgraph=True)
    close(run(parameters, xs), vmap(grad(functools.partial(loss, layer)), (None, 0))(parameters, xs))


def test_the_projection_of_onednn_stays_out_of_transforms(monkeypatch):
    monkeypatch.setattr(input_projection, "LEAST", 1)
    x, weight = torch.randn(4, 6, 8), torch.randn(5, 8)
    with torch.no_grad():
        close(vmap(lambda x: input_projection.linear(x, weight))(x), x @ weight.T)
        close(jvp(lambda x: input_projection.linear(x, weight), (x[0],), (x[1],))[1], x[1] @ weight.T)


@pytest.mark.parametrize("spec", ["diagonal", "band:3"])
def test_vmap_has_a_rule_and_torch_no_reason_to_warn(spec):
    layer, parameters, xs = make("lstm", spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule for prernn.*")
        vmap(grad(functools.partial(loss, layer)), (None, 0))(parameters, xs)
    assert fused.Recurrence.generate_vmap_rule
