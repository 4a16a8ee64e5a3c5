"""Online sparsity: counts and estimates against plain numpy, rows on their own, networks that stay what they were."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prernn
from equations import close
from prernn import ops
from prernn.sparsity.activity import activation_report
from prernn.sparsity.online import (
    VALUES,
    ActivationSampling,
    online_sparsity,
    sample,
    sample_counts,
    sample_parts,
    sampling_layers,
)
from sampled_layers import DOUBLE, Layers, pictures
from small_cnns import FcNet, ResidualNet, film, prepare

OFFSETS = (0.0, 0.25, 0.7)


def activations(rows=3, size=40, seed=0):
    """Rows with negative values, and with a third of zeros."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, size, generator=generator, **DOUBLE)
    return a * (torch.rand(rows, size, generator=generator) > 1 / 3)


def drawn(row: np.ndarray, samples: int, offset: float) -> list[int]:
    """The definition: positions (k + u) / N in the partition of the unit interval by |a| / ||a||_1."""
    ends = np.cumsum(np.abs(row)) / np.abs(row).sum()
    counts = [0] * len(row)
    for k in range(samples):
        counts[int(np.searchsorted(ends, (k + offset) / samples, side="right"))] += 1
    return counts


@pytest.mark.parametrize("offset", [0.1, 0.25, 0.7])
def test_counts_are_those_of_the_definition(offset):
    a = activations()
    counts, norm = sample_counts(a, 11, offset)
    close(norm[:, 0], a.abs().sum(1))
    assert counts.int().tolist() == [drawn(row, 11, offset) for row in a.numpy()]


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=16), min_size=1, max_size=60),
    samples=st.integers(1, 80),
    offset=st.floats(0, 1, exclude_max=True),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_counts_sum_to_the_samples_and_are_rounded_shares(values, samples, offset, dtype):
    a = torch.tensor([values], dtype=dtype)
    counts, norm = sample_counts(a, samples, offset)
    assert counts.sum() == (samples if norm > 0 else 0)
    assert ((counts == 0) | (a != 0)).all()  # what is zero is never drawn
    shares = samples * a.abs().double() / norm.clamp(min=1e-30)
    assert ((counts - shares).abs() < 1 + 1e-9 * samples).all()
    kept = sample(a, samples, offset)
    close(kept, torch.where(counts > 0, a, 0), atol=0)
    out = sample(a, samples, offset, "estimate")
    assert (out.dtype, out.shape) == (dtype, a.shape)
    assert ((out == 0) | (out.sign() == a.sign())).all()
    assert int((out != 0).sum()) <= min(samples, int((a != 0).sum()))
    least = norm / samples  # an activation above it is drawn for certain, and so its own estimate
    expected = torch.where(counts > 0, a.sign() * torch.maximum(a.abs().double(), least).to(dtype), 0)
    close(out, expected, atol=0)
    assert bool(((out == a) | (a.abs().double() < least * (1 + 1e-9))).all())


def test_the_mean_over_all_offsets_is_the_activation():
    a, samples, many = activations(), 11, 2000
    mean = torch.stack([sample(a, samples, (k + 0.5) / many, "estimate") for k in range(many)]).mean(0)
    # a count is a step function of u with two steps at most, each cut by half a distance between offsets
    bound = a.abs().sum(1, keepdim=True) / samples / many
    assert ((mean - a).abs() <= bound * (1 + 1e-9)).all()
    single = sample(a, samples, 0.5, "estimate")
    assert ((single - a).abs() > 20 * bound).any(1).all()


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_rows_of_zeros_stay_zero_among_others(offset, values):
    a = torch.cat([activations(), torch.zeros(1, 40, **DOUBLE)])
    out = sample(a, 7, offset, values)
    assert (out[3] == 0).all()
    close(out[:3], sample(activations(), 7, offset, values))


def test_an_offset_too_small_to_subtract():
    counts, _ = sample_counts(torch.ones(1, 3, **DOUBLE), 3, 1e-300)
    assert counts.sum() == 3


def counted(a, samples, offset):
    """The plain estimator of the definition."""
    counts = torch.tensor([drawn(row, samples, offset) for row in a.numpy()])
    return a.sign() * counts * a.abs().sum(1, keepdim=True) / samples


def test_the_plain_estimator_is_count_times_norm_over_samples():
    a = activations()
    close(sample(a, 11, 0.7, "count"), counted(a, 11, 0.7))
    mean = torch.stack([sample(a, 11, (k + 0.5) / 2000, "count") for k in range(2000)]).mean(0)
    assert ((mean - a).abs() <= 2 * a.abs().sum(1, keepdim=True) / 11 / 2000).all()


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("per", ["channel", "place"])
def test_channels_and_places_are_drawn_as_a_whole(per, values):
    maps = torch.rand(3, 6, 20, **DOUBLE) * (torch.rand(3, 6, 1, **DOUBLE) > 0.3) - 0.1
    dim, samples = (2, 3) if per == "channel" else (1, 7)
    sizes = maps.abs().sum(dim)
    factor = sample(sizes, samples, 0.3, values) / sizes
    close(sample_parts(maps, samples, 0.3, values, per), maps * factor.unsqueeze(dim))
    zeros = sample_parts(torch.zeros(1, 2, 3), 2, 0.3, values, per)
    assert not zeros.any()
    maps[1, 2, 5] = torch.nan
    assert sample_parts(maps, samples, 0.3, values, per)[1, 2, 5].isnan()


@pytest.mark.parametrize(("per", "parts"), [("activation", 36), ("channel", 4), ("place", 9)])
def test_what_is_drawn_of_a_convolution_s_input(per, parts):
    conv = nn.Sequential(nn.Conv2d(4, 3, 2)).double()
    sampled, x = online_sparsity(conv, 0.5, 0.5, per=per, start=0), torch.rand(2, 4, 3, 3, **DOUBLE)
    hook = _hook(sampled[0])
    (given,) = hook(sampled[0], (x,))
    assert hook.samples(hook.parts(sampled[0], x)) == parts // 2
    dims = {"activation": (), "channel": (2, 3), "place": (1,)}[per]
    kept = (given != 0).double()
    if dims:
        assert set(kept.mean(dims).unique().tolist()) == {0.0, 1.0}
    close(given, x * kept)
    close(sampled(x), conv(given))
    close(sampled[0](x[0]), sampled(x)[0])
    (layer,) = activation_report(sampled, x).layers
    assert (layer.samples, layer.inputs) == (parts // 2, 36)
    vectors = nn.Sequential(nn.Linear(8, 2)).double()
    row = torch.rand(1, 8, **DOUBLE)
    close(online_sparsity(vectors, 1, 0.5, per=per)(row), online_sparsity(vectors, 1, 0.5)(row))


@pytest.mark.parametrize("values", VALUES)
@torch.no_grad()
def test_networks_without_kernels_give_the_same_numbers(values):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 40, 3, padding=1), nn.ReLU())
    net.append(nn.Sequential(nn.Flatten(), nn.Linear(40 * 36, 30)))
    sampled, x = online_sparsity(net, 0.3, 0.1, values=values), torch.randn(3, 2, 6, 6)
    with ops.using("reference"):
        expected = sampled(x)
    torch.testing.assert_close(sampled(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([sampled(row[None]) for row in x]), expected, rtol=1e-5, atol=1e-5)
    double = online_sparsity(net, 0.3, 0.1, values=values).double()(x.double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)
    again = prernn.quantize(sampled, 4.0)
    torch.testing.assert_close(again(x), online_sparsity(prernn.quantize(net, 4.0), 0.3, 0.1, values=values)(x))


@pytest.mark.parametrize("values", VALUES)
def test_what_is_not_finite_does_not_vanish(values):
    for wrong in (torch.nan, torch.inf):
        a = activations()
        a[1, 5] = wrong
        out = sample(a, 7, 0.3, values)
        assert not out[1, 5].isfinite()
        close(out[[0, 2]], sample(activations(), 7, 0.3, values)[[0, 2]])


def test_gradients_reach_what_is_drawn():
    a = activations().requires_grad_()
    out = sample(a, 7, 0.3)
    out.sum().backward()
    close(a.grad, (out != 0).double())


def test_one_large_activation_takes_all_samples():
    a = torch.tensor([[0.0, -3.0, 0.0, 1e-12]], **DOUBLE)
    close(sample(a, 5, 0.5, "estimate"), torch.tensor([[0.0, -3.0, 0.0, 0.0]], **DOUBLE), atol=1e-9)


@pytest.mark.parametrize("values", VALUES)
def test_inputs_of_a_convolution_are_sampled_as_pictures_and_of_a_linear_layer_as_vectors(values):
    net = Layers().double()
    sampled = online_sparsity(net, 0.2, 0.1, values=values, seed=3)
    hooks = {name: _hook(layer) for name, layer in sampling_layers(sampled)}
    assert [hook and hook.rate for hook in hooks.values()] == [None, 0.2, 0.1, 0.1]
    x = pictures()
    expected = net[1](net[0](x))
    expected = sample(expected.flatten(1), round(0.2 * 4 * 36), hooks["2"].offset, values).view_as(expected)
    expected = net[4](net[3](net[2](expected)))
    expected = net[6](net[5](sample(expected, 1, hooks["5"].offset, values)))
    expected = net[7](sample(expected, 3, hooks["7"].offset, values))
    close(sampled(x), expected)
    assert (sampled(x) - net(x)).abs().max() > 1e-3
    one = pictures(1)[0]
    close(sampled[2](net[0](one)), sampled[2](net[0](one)[None])[0])  # without a batch
    words = torch.randn(2, 3, 30, **DOUBLE)
    close(sampled[7](words)[1, 2], sampled[7](words[1, 2]))


def _hook(layer):
    hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, ActivationSampling)]
    return hooks[0] if hooks else None


def test_seed_decides():
    net, x = Layers().double(), pictures()
    close(online_sparsity(net, 0.3, 0.3, seed=1)(x), online_sparsity(net, 0.3, 0.3, seed=1)(x), atol=0)
    assert (online_sparsity(net, 0.3, 0.3, seed=1)(x) - online_sparsity(net, 0.3, 0.3, seed=2)(x)).abs().max() > 1e-3
    # a layer's offset does not depend on where sampling starts
    early, late = (dict(sampling_layers(online_sparsity(net, start=start))) for start in (0, 3))
    assert _hook(early["7"]) == _hook(late["7"]) != None  # noqa: E711
    assert len({_hook(layer).offset for layer in early.values()}) == 4


def test_rows_do_not_depend_on_their_batch():
    sampled, x = online_sparsity(Layers().double(), 0.3, 0.3, start=0), pictures(5)
    together = sampled(x)
    close(torch.cat([sampled(row[None]) for row in x]), together)
    close(sampled(x.flip(0)).flip(0), together)
    close(sampled(x.to(memory_format=torch.channels_last)), together)


def test_rates_of_none_and_one_leave_alone():
    net, x = Layers().double(), pictures()
    for rates in ((None, None), (1, 1.0), (None, 1)):
        close(online_sparsity(net, *rates)(x), net(x), atol=0)
    half = online_sparsity(net, None, 0.2)
    assert [_hook(layer) is not None for _, layer in sampling_layers(half)] == [False, False, True, True]


@pytest.mark.parametrize(("start", "chosen"), [(0, "0257"), (1, "257"), (3, "7"), ("0", "0257"), ("5", "57")])
def test_start(start, chosen):
    sampled = online_sparsity(Layers(), start=start)
    assert "".join(name for name, layer in sampling_layers(sampled) if _hook(layer)) == chosen


def test_the_source_stays_as_it_was_and_the_copy_keeps_its_names():
    net, x = Layers().double(), pictures()
    before, outputs = copy.deepcopy(net.state_dict()), net(x)
    sampled = online_sparsity(net)
    assert list(sampled.state_dict()) == list(before)
    with torch.no_grad():
        sampled[0].weight.zero_()
    close(net.state_dict(), before, atol=0)
    close(net(x), outputs, atol=0)
    assert not any(layer._forward_pre_hooks for layer in net)


def test_copies_and_pickles_sample_alike():
    sampled, x = online_sparsity(Layers().double()), pictures()
    for again in (copy.deepcopy(sampled), pickle.loads(pickle.dumps(sampled))):
        close(again(x), sampled(x), atol=0)
        assert [_hook(layer) for _, layer in sampling_layers(again)] == [
            _hook(layer) for _, layer in sampling_layers(sampled)
        ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    layer = nn.Sequential(nn.Linear(200, 4))
    sampled = online_sparsity(layer, linear=0.5, start=0).to(dtype)
    x = torch.rand(3, 200).to(dtype)
    out = sampled(x)
    assert out.dtype == dtype
    hook = _hook(sampled[0])
    # what is drawn is decided in float64
    close(out, layer.to(dtype)(sample(x.double(), 100, hook.offset).to(dtype)), atol=0)


def test_wrong_arguments():
    for rates in ((0, 0.5), (0.5, 1.5), (-0.1, None), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="expected a number above 0, up to 1, got"):
            online_sparsity(Layers(), *rates)
    for start in (-1, 4):
        with pytest.raises(ValueError, match=rf"start: .* of at (least 0|most 3), got {start}"):
            online_sparsity(Layers(), start=start)
    with pytest.raises(ValueError, match="one of the layers 0, 2, 5, 7, got 'conv9'"):
        online_sparsity(Layers(), start="conv9")
    with pytest.raises(ValueError, match="one of keep, estimate, count, got 'mean'"):
        online_sparsity(Layers(), values="mean")
    with pytest.raises(ValueError, match="one of activation, channel, place, got 'row'"):
        online_sparsity(Layers(), per="row")
    with pytest.raises(ValueError, match="not sampled yet"):
        online_sparsity(online_sparsity(Layers()))


def test_attention_is_left_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1), nn.Linear(4, 4))
    assert [name for name, _ in sampling_layers(net)] == ["0", "2"]


def test_a_layer_that_is_used_twice_is_sampled_once():
    twice = nn.Linear(6, 6).double()
    sampled = online_sparsity(nn.Sequential(twice, nn.Sequential(twice, nn.Tanh())), linear=0.5, start=0)
    assert [name for name, _ in sampling_layers(sampled)] == ["0"]
    assert len(sampled[0]._forward_pre_hooks) == 1
    (layer,) = activation_report(sampled, torch.randn(2, 6, **DOUBLE)).layers
    assert (layer.multiply_adds, layer.used) == (36, pytest.approx(layer.remaining / 36))


NETWORKS = {
    "gates": lambda: prernn.convert(prepare(ResidualNet()), cell="gru", image_size=(8, 8)),
    "single": lambda: prernn.convert(prepare(FcNet()), ["fc6", "fc7"], cell="lstm", input="single", image_size=(8, 8)),
    "traditional": lambda: prernn.traditional(prepare(FcNet()), cell="gru", hidden_size=6, image_size=(8, 8)),
    "rcn": lambda: prernn.convert_rcn(prepare(ResidualNet()), image_size=(8, 8)),
    "framewise": lambda: prernn.framewise(prepare(ResidualNet()), image_size=(8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_step_by_step_is_the_whole_sequence(name):
    net, video = NETWORKS[name]().eval(), film(batch=2, steps=4)
    before = copy.deepcopy(net.state_dict())
    sampled = online_sparsity(net, 0.4, 0.4, values="estimate" if name == "gates" else "keep")
    whole, state = sampled(video)
    steps, carried = [], None
    for frame in video.unbind(1):
        out, carried = sampled.step(frame, carried)
        steps.append(out)
    close(torch.stack(steps, 1), whole)
    close(carried, state)
    assert (whole - net(video)[0]).abs().max() > 1e-6
    close(sampled.state_dict(), before, atol=0)
    close(pickle.loads(pickle.dumps(sampled))(video)[0], whole)
    stream = prernn.Stream(sampled)
    close(torch.stack([stream(frame) for frame in video[1]]), whole[1])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("gates", ["stem", "conv1", "conv2", "conv3", "fc"]),
        ("single", ["conv", "fc6", "fc7", "fc8"]),
        ("rcn", ["stem", "conv1", "conv2", "conv3", "fc"]),
    ],
)
def test_layers_of_a_network_keep_their_names_and_order(name, layers):
    net = NETWORKS[name]()
    assert [layer for layer, _ in sampling_layers(net)] == layers
    sampled = online_sparsity(net, start=layers[2])
    assert [layer for layer, module in sampling_layers(sampled) if _hook(module)] == layers[2:]


class Backwards(nn.Module):
    """Its layers stand in another order than they run in."""

    def __init__(self):
        super().__init__()
        self.fc, self.conv = nn.Linear(4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_order_is_that_of_execution_where_it_is_known():
    assert [name for name, _ in sampling_layers(Backwards())] == ["fc", "conv"]
    net = online_sparsity(prernn.framewise(Backwards(), image_size=(8, 8)), 0.3, 0.5)
    assert [(name, _hook(layer) is not None) for name, layer in sampling_layers(net)] == [("conv", False), ("fc", True)]


@torch.no_grad()
def test_all_gates_see_the_same_samples():
    sampled = online_sparsity(NETWORKS["gates"](), 0.4, 0.4).eval()
    part = dict(sampling_layers(sampled))["conv3"]
    part.copies.copy_(part.layer.weight.expand_as(part.copies))
    gates = part(torch.rand(2, 6, 4, 4, **DOUBLE), torch.rand(2, 12, 4, 4, **DOUBLE))
    close(gates[:, 1], gates[:, 0])
    close(gates[:, 2], gates[:, 0])


@pytest.mark.parametrize("values", ["keep", pytest.param("estimate", marks=pytest.mark.slow)])
@torch.no_grad()
def test_exported_network_samples_alike(values, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    rcn = prernn.convert_rcn(Backwards(), image_size=(8, 8)).eval()
    net = online_sparsity(rcn, 0.4, 0.5, values=values, start=0)
    prernn.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    frame = torch.randn(3, 3, 8, 8)
    expected, _ = net.step(frame)
    leaves = [leaf for part in net.init_state(3) for leaf in part]
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), [frame, *leaves], strict=True)}
    close(torch.from_numpy(session.run(None, feeds)[0]), expected, rtol=1e-4, atol=1e-5)
    assert (expected - rcn.step(frame)[0]).abs().max() > 1e-2
