"""Learning rates of sparse recurrences."""

import math

import lightning as L
import pytest
import torch

import prernn
from prernn.models.from_config import NetworkSpec
from prernn.training.learning import Learning, Schedule, rate_factors, rate_groups
from prernn.training.module import VideoModule
from small_cnns import ResidualNet, prepare


@pytest.mark.parametrize(
    ("hidden", "fan_in"),
    [("full", 12), ("diagonal", 1), ("band:3", 3), ("grouped:4", 3), ("sparse:0.25", 3), ("paths:2", 2)],
)
def test_a_sparse_recurrence_learns_faster_by_the_root_of_its_sparsity(hidden, fan_in):
    net = prernn.convert(prepare(ResidualNet()), cell="gru", hidden=hidden)
    (layer,) = net.recurrent_layers
    assert layer.hidden_size == 12
    found = list(rate_factors(net).items())
    if hidden == "full":
        assert found == []
        return
    ((weight, factor),) = found
    assert weight is layer.hidden_to_hidden.weight
    assert factor == pytest.approx((12 / fan_in) ** 0.5)
    assert rate_factors(net, 0)[weight] == 1


def test_units_of_an_rcn_start_as_the_identity_and_learn_at_one_rate():
    assert rate_factors(prernn.convert_rcn(prepare(ResidualNet()), hidden="diagonal", image_size=(8, 8))) == {}


def test_groups_hold_every_parameter_once():
    net = prernn.convert(prepare(ResidualNet()), cell="gru", hidden="diagonal")
    groups = rate_groups("all", net.parameters(), 0.1, rate_factors(net))
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.1 * 12**0.5])
    assert groups[1]["params"] == [net.recurrent_layers[0].hidden_to_hidden.weight]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())
    assert len(rate_groups("all", net.parameters(), 0.1, rate_factors(net, 0))) == 1


@pytest.mark.parametrize(("power", "rates"), [(0.5, {0.1, 0.1 * 16**0.5, 0.01}), (0.0, {0.1, 0.01})])
def test_fit_trains_by_them(power, rates):
    spec = NetworkSpec(
        "small_vgg", backbone_options={"width": 2, "units": 16, "size": 16}, layer="fc6", hidden="diagonal"
    )
    module = VideoModule(spec, Learning(lr=0.1, pretrained_lr=0.01, sparse_power=power))
    optimizer = module.configure_optimizers()["optimizer"]
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {round(rate, 6) for rate in rates}
    assert optimizer.param_groups[0]["lr"] == 0.1  # by which a schedule says that it has come down
    assert torch.is_tensor(optimizer.param_groups[0]["params"][0])


@pytest.mark.parametrize("apart", [False, True])
def test_a_gradient_is_limited_together_or_in_each_group(apart):
    net = prernn.convert(prepare(ResidualNet()), cell="gru", hidden="diagonal")
    module = VideoModule(None, Learning(clip_groups=apart), network=net)
    optimizer = module.configure_optimizers()["optimizer"]
    module.trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    lengths = dict(zip(("new_x3.46", "new", "pretrained"), (30.0, 0.5, 4.0), strict=True))

    def norms_behind(limits):
        for group in optimizer.param_groups:
            count = sum(p.numel() for p in group["params"])
            for p in group["params"]:
                p.grad = torch.full_like(p, lengths[group["name"]] / count**0.5)
        limits()
        return {g["name"]: torch.cat([p.grad.flatten() for p in g["params"]]).norm() for g in optimizer.param_groups}

    share = 2 / sum(length**2 for length in lengths.values()) ** 0.5
    expected = {name: min(length, 2.0) if apart else length * share for name, length in lengths.items()}
    expected = {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    assert norms_behind(lambda: module.configure_gradient_clipping(optimizer, 2.0, "norm")) == expected
    assert norms_behind(lambda: module.clipping(2.0, "norm")(optimizer)) == expected  # of a first phase
    norms_behind(lambda: module.clipping(0.01, "value")(optimizer))
    largest = max(float(p.grad.abs().max()) for group in optimizer.param_groups for p in group["params"])
    assert largest == pytest.approx(0.01)
    assert norms_behind(lambda: module.clipping(None, None)(optimizer)) == {
        name: pytest.approx(length, abs=1e-3) for name, length in lengths.items()
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Learning(optimizer="adam"), "optimizer: expected one of sgd, adamw, got 'adam'"),
        (lambda: Learning(lr=-1.0), "lr: expected a number from 0 on, got -1.0"),
        (lambda: Learning(weight_decay=math.nan), "weight_decay: expected a number from 0 on, got nan"),
        (lambda: Learning(momentum=1.0), "momentum: expected a number from 0, below 1, got 1"),
        (lambda: Schedule(kind="linear"), "kind: expected one of constant, step, plateau, cosine, one_cycle, got"),
    ],
)
def test_ways_to_learn_that_there_are_not(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def plateau(every, rate=3e-3):
    """The optimizer of a module and its schedule, the paper's for gestures but for ``every``."""
    spec = NetworkSpec("small_vgg", backbone_options={"width": 2, "units": 16, "size": 16}, layer="fc6")
    schedule = Schedule(kind="plateau", every=every, factor=0.1, stop_at=3e-7)
    found = VideoModule(spec, Learning(lr=rate, pretrained_lr=rate, schedule=schedule)).configure_optimizers()
    return found["optimizer"], found["lr_scheduler"]["scheduler"]


def rates_over(losses, every, rate=3e-3):
    """The learning rate after each of some epochs with these training losses."""
    optimizer, schedule = plateau(every, rate)
    found = []
    for loss in losses:
        schedule.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_comes_down_after_forty_epochs_that_are_no_better():
    rates = rates_over([1.0] + 80 * [1.0], every=40)
    assert rates[:40] == 40 * [3e-3]  # the first epoch is better than none; 39 were not
    assert rates[40:80] == pytest.approx(40 * [3e-4])
    assert rates[80] == pytest.approx(3e-5)


@pytest.mark.parametrize("fall", [1e-3, 1e-5, 1e-7])
def test_any_fall_of_the_loss_is_one(fall):
    assert rates_over([1 - epoch * fall for epoch in range(9)], every=2) == 9 * [3e-3]
    rises = [1 + epoch * fall for epoch in range(3)]
    assert rates_over(rises, every=2)[-1] == pytest.approx(3e-4)
    assert rates_over([1.0, 1.0, 1.0], every=2)[-1] == pytest.approx(3e-4)


def test_a_rate_comes_down_however_low_it_is():
    assert rates_over([1.0, 1.0], every=1, rate=1e-9)[-1] == pytest.approx(1e-10)
