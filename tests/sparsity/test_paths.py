"""Sobol' paths and the networks made of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.quasirandom import SobolEngine

import prernn
from prernn.ops.sobol import network_paths, unit_points
from prernn.sparsity import paths as module
from prernn.sparsity.path_convolution import PathConv2d
from prernn.sparsity.path_network import PathNetwork
from prernn.sparsity.paths import PathLinear


def counts(neurons: torch.Tensor, width: int) -> torch.Tensor:
    return torch.bincount(neurons, minlength=width)


@given(power=st.integers(1, 9), block=st.integers(0, 5), skip=st.integers(0, 6), scramble=st.booleans())
@settings(max_examples=60, deadline=None)
def test_aligned_blocks_of_powers_of_two_are_permutations(power, block, skip, scramble):
    size = 2**power
    drawn = unit_points(size, 3, first=block * size, skip=skip, scramble=scramble, seed=3)
    for neurons in (drawn * size).long().T:
        assert torch.equal(neurons.sort().values, torch.arange(size))


@given(width=st.integers(1, 500), power=st.integers(0, 10), block=st.integers(0, 3), skip=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_other_widths_get_connections_that_differ_by_one_a_block(width, power, block, skip):
    size = 2**power
    neurons = (unit_points(size, 1, first=block * size, skip=skip)[:, 0] * width).long()
    found = counts(neurons, width)
    assert found.min() == size // width
    assert found.max() == -(-size // width)


@pytest.mark.parametrize("paths", [768, 1000, 1023])
def test_numbers_of_paths_that_are_no_power_of_two_are_off_by_less_than_their_binary_ones(paths):
    for width in (300, 784, 10):
        for column, size in zip(network_paths([width, width], paths).T, (width, width), strict=True):
            found = counts(column, size)
            assert (found - paths / size).abs().max() < bin(paths).count("1")


@pytest.mark.parametrize("options", [{}, {"skip": 3}, {"scramble": True, "seed": 4}])
def test_points_come_in_the_talks_order(options):
    """``x ^= C[k]`` for each digit k of i; torch's point i is the talk's point ``i ^ (i >> 1)``."""
    skip, count = options.get("skip", 0), 300
    engine = SobolEngine(skip + 4, scramble="scramble" in options, seed=options.get("seed"))
    drawn = engine.draw(count, dtype=torch.float64)[:, skip:]
    natural, gray = (unit_points(512, 4, order=order, **options) for order in ("natural", "gray"))
    assert torch.equal(gray[1:count], drawn[1:])
    torch.testing.assert_close(gray[0], drawn[0], rtol=1e-6, atol=0)  # torch rounds its first point to float32
    index = torch.arange(512)
    assert torch.equal(gray, natural[index ^ (index >> 1)])
    columns = engine.sobolstate[skip:]  # (4, bits)
    for i in (1, 2, 3, 77, 500):
        x = engine.shift[skip:].clone()
        for k in range(9):
            if i >> k & 1:
                x ^= columns[:, k]
        assert torch.equal(natural[i], x.double() / 2**engine.MAXBIT)


def test_the_first_component_is_the_radical_inverse():
    """Digits of i behind the point, mirrored."""
    expected = [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert unit_points(8, 1)[:, 0].tolist() == expected


def test_orders_differ_where_the_number_is_no_power_of_two():
    for paths, alike in ((16384, True), (15000, False)):
        natural, gray = (
            network_paths([784, 300, 300, 10], paths, order=order).unique(dim=0) for order in ("natural", "gray")
        )
        assert (natural.shape == gray.shape and torch.equal(natural, gray)) == alike


def test_random_paths_leave_neurons_out_where_sobol_paths_do_not():
    sobol, random = (network_paths([256, 256], 256, sampler=name) for name in ("sobol", "random"))
    assert counts(sobol[:, 1], 256).min() == 1
    assert counts(random[:, 1], 256).min() == 0


@pytest.mark.parametrize("options", [{}, {"scramble": True, "seed": 4}, {"skip": 3}, {"sampler": "random", "seed": 5}])
def test_more_paths_begin_with_the_fewer_ones(options):
    widths = [784, 300, 10]
    assert torch.equal(network_paths(widths, 5000, **options)[:77], network_paths(widths, 77, **options))
    assert torch.equal(unit_points(9, 2, first=20, **options), unit_points(29, 2, **options)[20:])


def test_options_change_the_paths():
    widths = [64, 64]
    plain = network_paths(widths, 64)
    for options in ({"scramble": True}, {"skip": 1}, {"sampler": "random"}):
        assert not torch.equal(plain, network_paths(widths, 64, **options))
    assert not torch.equal(*(network_paths(widths, 64, sampler="random", seed=seed) for seed in (0, 1)))
    assert torch.equal(*(network_paths(widths, 64, seed=seed) for seed in (0, 1)))  # takes no chance


@pytest.mark.parametrize(
    ("widths", "paths", "options", "message"),
    [
        ([4], 3, {}, "at least two layers"),
        ([4, 0], 3, {}, "at least one neuron"),
        ([4, 4], -1, {}, "paths"),
        ([4, 4], 3, {"sampler": "halton"}, "sobol, random"),
        ([4, 4], 3, {"order": "random"}, "natural, gray"),
        ([4, 4], 3, {"skip": -1}, "skip"),
        ([4, 4], 3, {"skip": 10**6}, "skip"),
    ],
)
def test_wrong_arguments_are_named(widths, paths, options, message):
    with pytest.raises(ValueError, match=message):
        network_paths(widths, paths, **options)


def talk(network: PathNetwork, x: torch.Tensor) -> torch.Tensor:
    """The talk's algorithm, weight by weight, for one input without negative values."""
    values = x.tolist()
    for layer in network.layers:
        after = layer.bias.tolist()
        for source, destination, weight in zip(*layer.indices.tolist(), layer.weight.tolist(), strict=True):
            if values[source] > 0:
                after[destination] += weight * values[source]
        values = after
    return torch.tensor(values, dtype=x.dtype)


@pytest.mark.parametrize("paths", [1, 40, 3000])  # streamed, and as a dense product
def test_a_network_computes_what_the_talk_does(paths):
    network = PathNetwork([20, 16, 12, 5], paths).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(20, dtype=torch.float64)
    torch.testing.assert_close(network(x), talk(network, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("relu", [False, True])
def test_streamed_and_dense_agree_forward_and_backward(relu, monkeypatch):
    results = []
    for dense in (-1.0, 2.0):  # always and never dense
        monkeypatch.setattr(module, "DENSE", dense)
        layer = PathLinear(13, 9, 50, relu=relu).double()
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 2, 50))
        x = torch.linspace(-1, 1, 7 * 13, dtype=torch.float64).view(7, 13).requires_grad_()
        y = layer(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_layer_is_its_matrix():
    layer = PathLinear(6, 4, 30).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.matrix(), layer.bias), rtol=1e-12, atol=1e-12)
    assert layer.indices.shape == (2, 30)
    assert layer.indices.dtype == torch.int64
    assert layer.indices[0].max() < 6
    assert layer.indices[1].max() < 4


def test_builds_are_bit_identical_and_balanced():
    torch.manual_seed(0)
    one = PathNetwork([64, 32, 8], 256)
    torch.manual_seed(1)
    two = PathNetwork([64, 32, 8], 256)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for layer in one.layers:
        assert len(layer.weight.detach().abs().unique()) == 1  # constant magnitude
        sums = torch.zeros(layer.outputs).index_add(0, layer.indices[1], layer.signs().float())
        assert not sums.any()  # every neuron has an even number of paths here


@pytest.mark.parametrize("paths", [40, 512, 700])
def test_mixed_signs_are_balanced_and_bit_identical(paths):
    one, two = (PathLinear(32, 16, paths, init="mixed") for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    sums = torch.zeros(16).index_add(0, one.indices[1], one.signs(mixed=True).float())
    assert set(sums.tolist()) <= {0, 1}
    assert torch.equal(one.weight.sign(), one.signs(mixed=True))


def test_mixed_signs_tell_neurons_apart_that_are_joined_to_all_inputs():
    """Where every connection is there, in the sequence's order, signs in turns make neurons that compute the same."""
    for init, apart in (("alternating", False), ("mixed", True)):
        layer = PathNetwork([784, 256, 64, 256, 784], 16384, init=init).layers[1]
        assert layer.coincident == 0  # 256 x 64, all of them
        rank = int(torch.linalg.matrix_rank(layer.matrix()))
        assert (rank > 50) == apart, rank


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 64), (64, 128), (128, 256)])
@pytest.mark.parametrize("paths", [1024, 4096])
def test_channels_of_a_convolution_start_apart(inputs, outputs, paths):
    """By signs in turns 4,096 paths from 32 to 64 channels would make one kernel and its negative."""
    new = PathConv2d(inputs, outputs, 3, paths)
    in_turns = PathConv2d(inputs, outputs, 3, paths, init="alternating")
    rank, of_turns = (int(torch.linalg.matrix_rank(layer.matrix()[:, :, 0, 0])) for layer in (new, in_turns))
    assert of_turns <= inputs // 4
    assert rank >= inputs * 0.7


def test_a_neuron_of_one_path_starts_positive():
    layer = PathLinear(16, 16, 16)
    assert (layer.weight > 0).all()


def test_weights_start_alike_or_in_turns():
    for build in (
        lambda **options: PathLinear(16, 8, 64, **options),
        lambda **options: PathConv2d(16, 8, 1, 64, **options),
    ):
        for init, expected in (("constant", 0.5), (0.25, 0.25), (-1, -1), ("alternating", None)):
            weight = build(init=init).weight.detach()
            if expected is None:
                assert sorted(weight.unique().tolist()) == [-0.5, 0.5]  # sqrt(2 / 8)
            else:
                assert weight.unique().tolist() == [expected]
    network = PathNetwork([8, 8, 4], 40, init=0.25)
    assert all((layer.weight == 0.25).all() for layer in network.layers)


def test_residual_layers_are_steps_of_eulers_method():
    network = PathNetwork([12, 6, 9, 6, 7, 6, 4], 60, step=0.3).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, 12, dtype=torch.float64)
    first, one, two, three, four, last = (
        lambda a, layer=layer: a @ layer.matrix().T + layer.bias for layer in network.layers
    )
    a = first(x)
    a = a + 0.3 * two(one(a).relu())
    a = a + 0.3 * four(three(a).relu())
    torch.testing.assert_close(network(x), last(a), rtol=1e-12, atol=1e-12)
    for other in (network.grown(100), network.merged()):
        torch.testing.assert_close(other(x), network(x), rtol=1e-12, atol=1e-12)


def test_a_step_of_size_0_leaves_the_first_and_the_last_layer():
    network = PathNetwork([12, 6, 9, 6, 4], 60, step=0.0).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(network(x), network.layers[-1](network.layers[0](x)), rtol=1e-12, atol=1e-12)


def test_residual_layers_come_close_to_a_differential_equation():
    """``a' = W2 max{0, W1 a}`` over the time 1: half the step size, half the error, for the same weights in each."""

    def after(steps: int) -> torch.Tensor:
        network = PathNetwork([4, 4, *[4, 4] * steps, 4], 30, step=1 / steps, bias=False).double()
        for number, layer in enumerate(network.layers):
            kind = number % 2 if 0 < number <= 2 * steps else 2  # W1, W2, and the first and last
            torch.manual_seed(kind)
            nn.init.normal_(layer.weight, std=0.2)
            layer.lead(network.layers[kind].indices.T)
        return network(torch.ones(4, dtype=torch.float64))

    exact, coarse, fine = after(256), after(8), after(16)
    ratio = (coarse - exact).norm() / (fine - exact).norm()
    assert 1.7 < ratio < 2.4


def test_a_grown_network_contains_the_smaller_one():
    small = PathNetwork([30, 20, 6], 64).double()
    for parameter in small.parameters():
        nn.init.normal_(parameter)
    large = small.grown(200)
    x = torch.randn(5, 30, dtype=torch.float64)
    assert large.paths == 200
    for before, after in zip(small.layers, large.layers, strict=True):
        assert torch.equal(before.indices, after.indices[:, :64])
        assert torch.equal(before.weight, after.weight[:64])
        assert after.weight.requires_grad
    torch.testing.assert_close(large(x), small(x), rtol=1e-12, atol=1e-12)
    large(x).sum().backward()
    assert large.layers[0].weight.grad[64:].abs().sum() > 0  # the new ones learn
    with pytest.raises(ValueError, match="at least 64, got 63"):
        small.grown(63)
    with pytest.raises(NotImplementedError, match="merged"):
        small.merged().grown(100)


def test_coincident_paths_are_counted_and_merged():
    drawn = torch.tensor([[0, 1], [2, 1], [0, 1], [1, 0], [2, 1]])
    layer = PathLinear(3, 2, 5, drawn=drawn).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2, 4, 8, 16]))
    assert layer.coincident == 2
    merged = layer.merged()
    assert merged.coincident == 0
    assert merged.indices.T.tolist() == [[0, 1], [2, 1], [1, 0]]  # in the order of the first
    assert merged.weight.tolist() == [5, 18, 8]
    assert merged.weight.dtype == torch.float64


@pytest.mark.parametrize("sampler", ["sobol", "random"])
def test_a_merged_network_computes_the_same(sampler):
    network = PathNetwork([12, 10, 8], 300, sampler=sampler).double()
    merged = network.merged()
    x = torch.randn(4, 12, dtype=torch.float64)
    torch.testing.assert_close(merged(x), network(x), rtol=1e-12, atol=1e-12)
    for layer, own in zip(merged.layers, network.layers, strict=True):
        assert layer.paths == own.paths - own.coincident == len(own.indices.T.unique(dim=0))
    assert "coincident" in network.report()


def test_a_path_convolution_is_a_convolution_with_few_kernels():
    layer = PathConv2d(8, 6, (3, 2), 10, stride=2, padding=1).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    expected = torch.zeros(2, 6, *layer(x).shape[2:], dtype=torch.float64)
    for path, (source, destination) in enumerate(layer.indices.T.tolist()):
        kernel = layer.weight[path][None, None]
        expected[:, destination] += nn.functional.conv2d(x[:, source : source + 1], kernel, None, 2, 1)[:, 0]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    merged = PathConv2d(4, 4, 3, 40).double().merged()
    assert merged.coincident == 0
    assert merged.weight.shape[1:] == (3, 3)


def test_a_network_learns_without_random_numbers():
    torch.manual_seed(0)
    x = torch.rand(256, 16)
    y = (x[:, :8].sum(1) > x[:, 8:].sum(1)).long()
    accuracies = []
    for _ in range(2):
        network = PathNetwork([16, 32, 2], 256)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
        accuracies.append(float((network(x).argmax(1) == y).float().mean()))
    assert accuracies[0] > 0.9
    assert accuracies[0] == accuracies[1]


def test_a_state_dict_holds_weights_alone_and_fits_another_build():
    network = PathNetwork([8, 8, 4], 40)
    nn.init.normal_(network.layers[0].weight)
    other = PathNetwork([8, 8, 4], 40)
    other.load_state_dict(network.state_dict())
    assert sum(value.numel() for value in network.state_dict().values()) == 2 * (40 + 1) + 12
    for options in ({"sampler": "random"}, {"skip": 1}, {"scramble": True}):
        with pytest.raises(RuntimeError, match="other paths"):
            PathNetwork([8, 8, 4], 40, **options).load_state_dict(network.state_dict())
    with torch.device("meta"):
        shapes = PathNetwork([8, 8, 4], 40)
    assert shapes.layers[0].weight.is_meta
    x = torch.rand(3, 8)
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("sampling", [{}, {"skip": 2}, {"scramble": True, "seed": 5}])
def test_checkpoints_of_another_order_bring_their_connections(sampling, merged):
    """Until 2026-11-29 the points came in torch's order."""
    old, new = (PathNetwork([16, 12, 10], 75, order=order, **sampling).double() for order in ("gray", "natural"))
    for parameter in old.parameters():
        nn.init.normal_(parameter)
    old, new = (network.merged() if merged else network for network in (old, new))
    x = torch.randn(5, 16, dtype=torch.float64)
    assert not torch.equal(new.layers[0].indices, old.layers[0].indices)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new(x), old(x))
    for one, other in zip(new.layers, old.layers, strict=True):
        assert torch.equal(one.indices, other.indices)
    if not merged:
        torch.testing.assert_close(new.grown(90)(x), old.grown(90)(x), rtol=1e-12, atol=1e-12)
        assert torch.equal(new.grown(90).layers[0].indices, old.grown(90).layers[0].indices)
    own = PathNetwork([16, 12, 10], 75, **sampling).double()
    (own.merged() if merged else own).load_state_dict((own.merged() if merged else own).state_dict())


@pytest.mark.parametrize(
    "build", [PathLinear, lambda *widths, **options: PathConv2d(*widths[:2], 3, widths[2], **options)]
)
def test_layers_take_the_order_of_what_they_load(build):
    old, new = (build(16, 12, 75, order=order) for order in ("gray", "natural"))
    nn.init.normal_(old.weight)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new.indices, old.indices)
    assert torch.equal(new.matrix(), old.matrix())
    given = build(16, 12, 75, drawn=build(16, 12, 75).indices.T)
    with pytest.raises(RuntimeError, match="other paths"):
        given.load_state_dict(old.state_dict())


@given(paths=st.integers(0, 300), least=st.integers(1, 9), scramble=st.booleans())
@settings(max_examples=30, deadline=None)
def test_so_many_paths_at_least_pass_a_neuron_that_is_used(paths, least, scramble):
    net = PathNetwork([16, 12, 20, 5], paths, least=least, scramble=scramble)
    for layer, width in zip(net.layers[:-1], (12, 20), strict=True):
        passed = counts(layer.destination, width)
        used = min(width, max(1, paths // least))
        assert not passed[used:].any()
        if paths >= used and not scramble:
            # of the blocks of a power of two that the number is made of, each adds its own share
            assert passed[:used].min() >= paths // used - paths.bit_count()
    assert net.layers[0].inputs == 16
    if paths >= 20 * least:  # all neurons are used
        for own, plain in zip(net.layers, PathNetwork([16, 12, 20, 5], paths, scramble=scramble).layers, strict=True):
            assert torch.equal(own.indices, plain.indices)


def test_few_paths_meet_where_they_share_neurons():
    def reached(**options):
        layers = PathNetwork([64, 32, 32, 8], 32, **options).layers
        through = torch.eye(64)
        for layer in layers:
            through = (through @ (layer.matrix() != 0).T.float() > 0).float()
        return through.sum(1)[through.sum(1) > 0].mean()

    assert reached() == 1  # chains that never meet
    assert reached(least=4) > 4
    with pytest.raises(NotImplementedError, match="different neurons"):
        PathNetwork([8, 4, 3], 8, least=2).grown(16)
    with pytest.raises(ValueError, match="least"):
        PathNetwork([8, 4, 3], 8, least=-1)
    old = PathNetwork([16, 12, 5], 75, least=4, order="gray")
    new = PathNetwork([16, 12, 5], 75, least=4)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new(torch.ones(2, 16)), old(torch.ones(2, 16)))


@pytest.mark.parametrize("widths", [[8, 4, 3], [8, 4, 4, 3], [8, 4, 4, 5, 3], [8, 4, 6, 4, 6, 5, 3]])
def test_widths_without_residual_layers_are_refused(widths):
    with pytest.raises(ValueError, match="step size"):
        PathNetwork(widths, 20, step=0.5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: PathLinear(0, 4, 3),
        lambda: PathLinear(4, 4, -3),
        lambda: PathLinear(4, 4, 3, drawn=torch.tensor([[0, 4]])),
        lambda: PathLinear(4, 4, 3, drawn=torch.tensor([[-1, 0]])),
        lambda: PathLinear(4, 4, 3, drawn=torch.rand(3, 2)),
        lambda: PathLinear(4, 4, 2.5),
        lambda: PathLinear(4, 4, 3, init="random"),
        lambda: PathLinear(4, 4, 3, init=float("nan")),
        lambda: PathNetwork([8, 4, 4, 4, 3], 20, step=float("inf")),
        lambda: PathLinear(4, 4, 3)(torch.rand(2, 8)),
        lambda: PathConv2d(4, 4, 0, 3),
        lambda: PathNetwork([4], 3),
    ],
)
def test_wrong_layers_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


def test_no_path_leaves_the_bias():
    layer = PathLinear(4, 3, 0)
    nn.init.ones_(layer.bias)
    assert layer(torch.rand(2, 4)).tolist() == [[1, 1, 1]] * 2
    assert layer.merged().paths == 0


@pytest.mark.parametrize("hidden", ["paths:2", "paths:3"])
def test_a_path_structured_recurrence_trains(hidden):
    torch.manual_seed(0)
    layer = prernn.GRU(4, 8, hidden=hidden, batch_first=True)
    head = nn.Linear(8, 2)
    x = torch.randn(64, 6, 4)
    y = (x[:, 0, 0] > 0).long()  # to be remembered over the sequence
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(layer(x)[0][:, -1]), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
