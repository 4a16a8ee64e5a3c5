"""Learning rates of sparse recurrences."""

import lightning as L
import pytest
import torch

import prernn
from prernn.models.from_config import NetworkSpec
from prernn.training.learning import Learning, rate_factors, rate_groups
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
    for group in optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        for p in group["params"]:
            p.grad = torch.full_like(p, lengths[group["name"]] / count**0.5)
    module.configure_gradient_clipping(optimizer, 2.0, "norm")
    norms = {g["name"]: torch.cat([p.grad.flatten() for p in g["params"]]).norm() for g in optimizer.param_groups}
    share = 2 / sum(length**2 for length in lengths.values()) ** 0.5
    expected = {name: min(length, 2.0) if apart else length * share for name, length in lengths.items()}
    assert norms == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
