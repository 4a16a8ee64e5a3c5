"""Inputs made from a network alone, samples by what they do to the outputs, and corrected statistics."""

import pytest
import torch
from torch import nn

import prernn
from prernn.sparsity.quantization.correction import layer_statistics
from prernn.sparsity.quantization.packing import packed_state
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.sparsity.quantization.sensitivity import samples_by_noise


class Net(nn.Module):
    """Convolutions with batch normalization, a shortcut, and one convolution and a linear layer with biases."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third = nn.Conv2d(16, 12, 3)
        self.norms = nn.ModuleList(norm(16) for _ in range(2))
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norms[0](self.first(x)))
        x = x + torch.relu(self.norms[1](self.second(x)))
        return self.out(torch.relu(self.third(x)).mean((2, 3)))


def trained(seed=0, dtype=torch.float64):
    """A network whose batch normalization has seen pictures of three uneven channels; and such pictures."""
    torch.manual_seed(seed)
    net = Net().to(dtype)
    pictures = 1 + torch.randn(96, 3, 10, 10, dtype=dtype) * torch.tensor([0.3, 1.0, 2.0]).view(3, 1, 1)
    for norm in net.norms:
        norm.momentum = None  # averages
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias, 0, 0.5)
    net.train()
    for batch in pictures.split(32):
        net(batch)
    return net.eval(), pictures


def distance(net, inputs):
    """How far what normalization sees is from what it saw in training, over its spread."""
    seen = layer_statistics(net, inputs)
    far = 0.0
    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = seen[name]
            far += float(((mean - norm.running_mean).square() / norm.running_var).mean())
            far += float(((variance / norm.running_var).sqrt() - 1).square().mean())
    return far


def test_synthetic_inputs_look_like_training():
    net, _ = trained(dtype=torch.float32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    noise, made = (prernn.synthetic_inputs(net, (3, 10, 10), count=32, steps=steps) for steps in (0, 80))
    assert made.shape == (32, 3, 10, 10)
    assert distance(net, made) < 0.05 * distance(net, noise)
    assert torch.equal(made, prernn.synthetic_inputs(net, (3, 10, 10), count=32, steps=80))
    assert not torch.equal(noise, prernn.synthetic_inputs(net, (3, 10, 10), count=32, steps=0, seed=1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(value.requires_grad for value in net.parameters())
    with torch.inference_mode():  # in which a stream runs
        assert torch.equal(made, prernn.synthetic_inputs(net, (3, 10, 10), count=32, steps=80))


def test_clips_for_a_recurrent_network():
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", outputs=3).eval()
    clips = prernn.synthetic_inputs(net, count=20)
    assert clips.shape[:2] == (2, 16)
    assert net(clips)[0].shape == (2, 16, 3)


def test_noise_where_nothing_is_remembered():
    x = prernn.synthetic_inputs(nn.Linear(6, 2), (6,), count=500)
    assert x.shape == (500, 6)
    assert abs(float(x.mean())) < 0.1


@pytest.mark.parametrize("samples", [0.5, 2.0])
def test_a_corrected_network_has_the_statistics_that_it_had(samples):
    net, pictures = trained()
    wanted = layer_statistics(net, pictures)
    plain, corrected = (quantize(net, samples, correct=c, inputs=pictures) for c in (False, True))
    found = layer_statistics(corrected, pictures)
    # behind normalization, channel by channel: the mean and the spread that its weight and bias make of them
    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            own = corrected.get_submodule(name)
            for (mean, variance), each in ((wanted[name], norm), (found[name], own)):
                each.means = (mean - each.running_mean) / (each.running_var + each.eps).sqrt()
                each.spreads = variance / (each.running_var + each.eps)
            torch.testing.assert_close(own.means, norm.means, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(own.spreads, norm.spreads, rtol=1e-9, atol=1e-9)
    for name in ("third", "out"):
        torch.testing.assert_close(found[name][0], wanted[name][0], rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        errors = [(each(pictures) - net(pictures)).square().mean() for each in (plain, corrected)]
    assert errors[1] < errors[0]
    for a, b in zip(packed_state(plain)[1].values(), packed_state(corrected)[1].values(), strict=True):
        assert a == b  # the same counts


def test_a_correction_changes_nothing_where_nothing_was_lost():
    net, pictures = trained()
    fine = quantize(net, 1e6, correct=True, inputs=pictures)
    torch.testing.assert_close(fine(pictures), net(pictures), rtol=1e-4, atol=1e-4)
    for name, value in net.named_buffers():
        if "running" in name:
            torch.testing.assert_close(fine.get_buffer(name), value, rtol=1e-3, atol=1e-4)


def test_the_layer_that_matters_gets_more():
    net, pictures = trained()
    with torch.no_grad():
        net.norms[1].weight.mul_(1e-3)  # what the second convolution says hardly counts
    rows = {row.name: row for row in quantization_report(quantize(net, 2.0, allocation="outputs", inputs=pictures))}
    each = {name: row.samples / row.weights for name, row in rows.items()}
    assert each["second.weight"] < 0.2 * each["third.weight"]
    assert sum(row.samples for row in rows.values()) == pytest.approx(
        2 * sum(row.weights for row in rows.values()), abs=9
    )


def test_the_rule_is_the_minimum():
    """No other shares of the same bits have less noise: ``sum_l a_l / s_l**2`` for ``sum_l n_l log2 s_l``."""
    a, n = torch.tensor([3.0, 1.0, 20.0], dtype=torch.float64), torch.tensor([10.0, 400.0, 50.0], dtype=torch.float64)
    best = samples_by_noise(a, n).log()
    best -= (n * best).sum() / n.sum()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = 0.1 * torch.randn(3, dtype=torch.float64, generator=generator)
        other = best + step - (n * step).sum() / n.sum()
        assert (a / other.exp() ** 2).sum() >= (a / best.exp() ** 2).sum()


@pytest.mark.parametrize("input", ["single", "gate"])
def test_a_recurrent_network(input, tmp_path):
    torch.manual_seed(0)
    cnn = prernn.backbone("timm/test_resnet")
    net = prernn.convert(cnn, cell="gru", input=input, hidden="band:9", outputs=3).eval()
    clips = torch.randn(1, 2, 3, 64, 64)
    small = quantize(net, 1.0, allocation="outputs", correct=True, inputs=clips)
    norms = [name for name, _ in net.named_buffers() if "running_mean" in name]
    assert norms
    assert any(not torch.equal(net.get_buffer(name), small.get_buffer(name)) for name in norms)
    with torch.inference_mode():
        loaded = prernn.load(prernn.save(small, tmp_path / "q"))
        assert torch.equal(loaded(clips)[0], small(clips)[0])
    assert not any("_hooks" in name and value for part in small.modules() for name, value in vars(part).items())


def test_a_recurrent_network_needs_no_inputs():
    torch.manual_seed(0)
    net = prernn.convert(prernn.backbone("small_vgg", width=2, units=16, size=16), "fc6", cell="gru", outputs=3)
    small, again = (quantize(net, 1.0, allocation="outputs", correct=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    other = quantize(net, 1.0)
    assert any(not torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


def test_mistakes():
    net, pictures = trained()
    with pytest.raises(ValueError, match="expected the shape of an input of Net"):
        quantize(net, 1.0, correct=True)
    with pytest.raises(ValueError, match="allocation: expected a number"):
        quantize(net, 1.0, allocation="output", inputs=pictures)
    with pytest.raises(ValueError, match="count"):
        prernn.synthetic_inputs(net, (3, 10, 10), count=0)
