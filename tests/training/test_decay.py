"""Selective weight decay: what does not decay stays to the last bit, all else shrinks as it does without."""

import copy

import pytest
import torch
from torch import nn

import prernn
from equations import close
from prernn.sparsity.paths import PathLinear
from prernn.training.frozen_trunk.learner import learner, sgd
from prernn.training.learning import Learning, rate_factors, rate_groups
from prernn.training.learning.decay import decay_others, own_connections, selective, spared
from prernn.training.module import VideoModule
from small_cnns import ResidualNet, film, prepare, shake

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.05),
}


def network(hidden="full"):
    torch.manual_seed(1)
    return shake(prernn.convert(prepare(ResidualNet()), cell="gru", hidden=hidden))


def rcn(hidden="full"):
    torch.manual_seed(1)
    return prernn.convert_rcn(prepare(ResidualNet()), hidden=hidden, image_size=(8, 8))


def optimizer_of(net, kind, sparing):
    groups = rate_groups("all", net.parameters(), 0.1 if kind == "sgd" else 0.01, rate_factors(net))
    optimizer = OPTIMIZERS[kind](selective(groups, net, 0.05) if sparing else groups)
    if sparing:
        decay_others(optimizer, own_connections(net), 0.05)
    return optimizer


def steps(net, kind, sparing, gradient, closure=False):
    """Three steps with given gradients."""
    optimizer = optimizer_of(net, kind, sparing)

    def set_gradients():
        torch.manual_seed(3)
        for parameter in net.parameters():
            parameter.grad = gradient(parameter)
        return torch.tensor(7.0)

    for _ in range(3):
        if closure:
            assert optimizer.step(set_gradients) == 7
        else:
            set_gradients()
            optimizer.step()
    return dict(net.named_parameters())


@pytest.mark.parametrize("closure", [False, True], ids=["gradients before", "gradients in a closure"])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("make", [network, rcn])
@pytest.mark.parametrize("hidden", ["full", "diagonal", "band:3"])
def test_decay_leaves_out_just_what_it_says(hidden, make, kind, closure):
    start = make(hidden)
    before = dict(copy.deepcopy(start).named_parameters())
    plain = steps(copy.deepcopy(start), kind, False, torch.zeros_like)
    net = copy.deepcopy(start)
    after, free = steps(net, kind, True, torch.zeros_like, closure), spared(net)
    own = {name: own_connections(net).get(p) for name, p in after.items()}
    for name, parameter in after.items():
        if parameter in free:
            assert torch.equal(parameter, before[name]), name
        elif own[name] is None:
            assert torch.equal(parameter, plain[name]), name
        else:
            close(parameter, torch.where(own[name] > 0, before[name], plain[name]))
    norms = [n for n in after if ".bn" in n or n.endswith("bias")]
    assert norms
    assert all(after[n] in free for n in norms)
    decayed = [n for n, p in after.items() if n.endswith("weight") and p not in free and own[n] is None]
    assert decayed
    assert all((after[n] != before[n]).any() for n in decayed)


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_the_step_itself_is_the_optimizers_own(kind):
    """Where a diagonal is 0, its decay is none: both optimizers do the same, whatever the gradients."""
    start = network()
    weight = start.recurrent_layers[0].hidden_to_hidden.weight
    eye = torch.eye(12, dtype=torch.bool).expand(3, -1, -1)
    with torch.no_grad():
        weight[eye] = 0
        for p in spared(start):
            p.zero_()

    def gradient(parameter):
        drawn = torch.randn_like(parameter)
        return torch.where(eye, 0, drawn) if parameter.shape == eye.shape else drawn * (parameter != 0)

    expected = steps(copy.deepcopy(start), kind, False, gradient)
    close(
        {n: p.data for n, p in steps(start, kind, True, gradient, closure=True).items()},
        {n: p.data for n, p in expected.items()},
    )


def test_the_identity_of_an_rcn_decays_without_it_and_stays_with_it():
    (first, *_) = [layer.hidden_to_hidden for layer in rcn().recurrent_layers]
    eye = first.matrix().detach().clone()
    close(eye[0], torch.eye(len(eye[0]), dtype=eye.dtype))
    for sparing, stays in ((False, False), (True, True)):
        net = rcn()
        steps(net, "sgd", sparing, torch.zeros_like)
        assert torch.equal(net.recurrent_layers[0].hidden_to_hidden.matrix(), eye) is stays


def test_every_parameter_is_in_one_group_and_names_are_apart():
    net = network("diagonal")
    net.cnn.add_module("paths", PathLinear(4, 4, 16))
    groups = selective(rate_groups("all", net.parameters(), 0.1, rate_factors(net)), net, 0.05)
    held = [p for group in groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters()}
    assert len(held) == len(list(net.parameters()))
    assert [group["name"] for group in groups] == ["all", "all_spared", "all_x3.46_hidden"]
    assert [group["weight_decay"] for group in groups] == [0.05, 0, 0]
    assert net.cnn.paths.weight not in spared(net)  # a vector of weights
    assert net.cnn.paths.bias in spared(net)


def test_fit_trains_by_it_and_not_unless_it_is_asked_to():
    plain, asked = (
        VideoModule(None, Learning(selective_decay=choice), network=network()).configure_optimizers()["optimizer"]
        for choice in (False, True)
    )
    assert [group["name"] for group in plain.param_groups] == ["new", "pretrained"]
    assert all(group["weight_decay"] == 5e-4 for group in plain.param_groups)
    names = [group["name"] for group in asked.param_groups]
    assert names == ["new_spared", "new_hidden", "pretrained", "pretrained_spared"]
    assert asked._optimizer_step_pre_hooks
    assert not plain._optimizer_step_pre_hooks


def test_normalization_over_maps_is_spared_too():
    norm = nn.LayerNorm((2, 3, 3))
    assert spared(norm) == {norm.weight, norm.bias}


def test_a_comparison_decays_all_as_the_papers_do():
    net = network()
    net(film())[0].sum().backward()
    assert {group["weight_decay"] for group in sgd(learner(net, None), 0.1).param_groups} == {5e-4}


def test_what_has_no_gradient_does_not_decay():
    layer = prernn.convert(prepare(ResidualNet()), cell="gru").recurrent_layers[0].hidden_to_hidden
    before = layer.weight.detach().clone()
    module = nn.Sequential(layer)
    optimizer_of(module, "adamw", True).step()
    assert torch.equal(layer.weight, before)
