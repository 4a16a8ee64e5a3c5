"""Deep Speech 2 with any cell and structure: the laws of networks, and the weights that the talk counts."""

import pytest
import torch
from torch import nn

import prernn
from prernn.layers.cells import CELLS
from prernn.models.networks.deep_speech import DeepSpeech, deep_speech
from prernn.models.networks.spectrogram import normalized

F = 9


def network(causal=True, **options):
    torch.manual_seed(0)
    cnn = prernn.backbone("spectrogram", features=F, filters=3, causal=causal)
    made = {"hidden_size": 6, "num_layers": 3, "outputs": 5} | options
    net = deep_speech(cnn, **made).double()
    if net.ahead is not None:
        nn.init.normal_(net.ahead.conv.weight)
    for part in net.modules():  # statistics and factors as after training
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, 0.5, 0.3)
    return net.eval()


def spectrograms(batch=2, steps=9):
    return torch.randn(batch, steps, 2, F, dtype=torch.double)


WAYS = [("gru", "diagonal"), ("gru", "full"), ("lstm", "band:3"), ("vrnn", "grouped:2")]


@pytest.mark.parametrize("lookahead", [0, 3])
@pytest.mark.parametrize(("cell", "hidden"), [*WAYS, *((cell, "diagonal") for cell in CELLS)])
def test_steps_are_the_sequence_and_any_chunks(cell, hidden, lookahead):
    net, x = network(cell=cell, hidden=hidden, lookahead=lookahead), spectrograms()
    whole, end = net(x)
    state, outs = None, []
    for part in (x[:, :1], x[:, 1:4], x[:, 4:]):
        out, state = net(part, state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=0, atol=1e-12)
    stepped, outs = None, []
    for frame in x.unbind(1):
        out, stepped = net.step(frame, stepped)
        outs.append(out)
    torch.testing.assert_close(torch.stack(outs, 1), whole, rtol=0, atol=1e-12)
    for one, other, last in zip(*(torch.utils._pytree.tree_leaves(s) for s in (state, stepped, end)), strict=True):
        torch.testing.assert_close(one, last, rtol=0, atol=1e-12)
        torch.testing.assert_close(other, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("cell", "hidden"), WAYS)
def test_what_stands_behind_an_end_is_not_heard(cell, hidden, causal):
    net, x = network(causal, cell=cell, hidden=hidden, lookahead=2 if causal else 0), spectrograms(3)
    lengths = [9, 1, 6]
    padded = x.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = float("nan")
    out, ends = net(padded, lengths=lengths)
    for row, length in enumerate(lengths):
        alone, end = net(x[row : row + 1, :length])
        torch.testing.assert_close(out[row : row + 1, :length], alone, rtol=0, atol=1e-12)
        leaves = zip(*(torch.utils._pytree.tree_leaves(state) for state in (ends, end)), strict=True)
        for both, own in leaves:
            torch.testing.assert_close(both[row : row + 1], own, rtol=0, atol=1e-12)


def test_a_causal_network_hears_no_future_and_the_other_does():
    x = spectrograms(1)
    later = x.clone()
    later[:, 6:] += 1
    net = network(lookahead=2)
    torch.testing.assert_close(net(x)[0][:, :6], net(later)[0][:, :6], rtol=0, atol=0)
    both = network(causal=False)
    assert not torch.allclose(both(x)[0][:, :1], both(later)[0][:, :1])
    with pytest.raises(NotImplementedError, match="step by step"):
        both.step(x[:, 0])
    with pytest.raises(NotImplementedError, match="whole recording"):
        both(x, net.init_state(1))


def test_the_look_ahead_is_that_of_the_paper_some_steps_later():
    net, x = network(lookahead=2), spectrograms(1)
    kernel = net.ahead.conv.weight[:, 0, :, 0].detach()  # (D, 3)
    h = torch.randn(1, 6, 5, 1, dtype=torch.double)
    ours, _ = net.ahead(h, net.ahead.no_past(1, 1))
    row = [sum(kernel[:, j] * h[0, :, t + j, 0] for j in range(3)) for t in range(3)]  # r_t, section 3.5
    torch.testing.assert_close(ours[0, :, 2:, 0], torch.stack(row, 1))
    assert net(x)[0].shape == (1, 9, 5)


def test_the_look_ahead_begins_as_if_it_were_not_there():
    x, outs = spectrograms(1).float(), []
    for lookahead in (0, 5):
        torch.manual_seed(0)
        cnn = prernn.backbone("spectrogram", features=F, filters=3, causal=True)
        net = deep_speech(cnn, hidden_size=6, num_layers=2, lookahead=lookahead).eval()
        net.output.weight.data.fill_(0.1)  # drawn after the look-ahead
        outs.append(net(x)[0])
        assert net.delay == lookahead
    torch.testing.assert_close(*outs)


@pytest.mark.parametrize("causal", [True, False])
def test_batch_statistics_are_of_steps_that_are_there(causal):
    net, x = network(causal).train(), spectrograms(3)
    lengths, other = [9, 4, 6], x.clone()
    for row, length in enumerate(lengths):
        other[row, length:] = 100.0
    valid = torch.arange(9) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(net(x, lengths=lengths)[0][valid], net(other, lengths=lengths)[0][valid])
    norm = nn.BatchNorm1d(3).double()
    values = torch.randn(2, 4, 3, dtype=torch.double)
    out = normalized(norm, values, torch.tensor([4, 2]))
    steps = torch.cat([values[0], values[1, :2]])
    expected = (steps - steps.mean(0)) / (steps.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(torch.cat([out[0], out[1, :2]]), expected)
    assert not bool(out[1, 2:].any())


def test_gradients_reach_every_weight():
    for causal in (True, False):
        net = network(causal, lookahead=2 if causal else 0).train()
        out, _ = net(spectrograms(3), lengths=[9, 4, 6])
        out.square().sum().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in net.parameters())


def test_a_stream_and_a_checkpoint_give_the_same(tmp_path):
    net = network(lookahead=2, hidden="band:3").float()
    again = prernn.load(prernn.save(net, tmp_path))
    assert isinstance(again, DeepSpeech)
    assert again.recipe.steps == net.recipe.steps
    x = spectrograms(1).float()
    whole = net(x)[0][0]
    stream, second = prernn.Stream(net), prernn.Stream(again)
    for number, frame in enumerate(x[0]):
        if number == 4:
            second.load_state_dict(stream.state_dict())
        out = stream(frame)
        torch.testing.assert_close(out, whole[number], rtol=1e-5, atol=1e-5)
        if number >= 4:
            torch.testing.assert_close(second(frame), out, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lookahead": -1}, "lookahead"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"cell": "gruu"}, "gruu"),
        ({"hidden": "bnd"}, "bnd"),
        ({"causal": False, "lookahead": 2}, "lookahead"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        network(**options)


@pytest.mark.parametrize("shape", [(2, 0, 2, F), (2, 3, 1, F), (2, 3, 2, F + 1), (2, 2, F)])
def test_spectrograms_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="expected spectrograms"):
        network()(torch.zeros(shape, dtype=torch.double))


@pytest.mark.parametrize(
    ("hidden", "size", "layers", "recurrent", "talk"),
    [
        ("full", 768, 5, 17_717_760, "1.77e7"),
        ("diagonal", 768, 5, 46_080, "4.61e4"),
        ("diagonal", 1100, 5, 66_000, "6.60e4"),
        ("band:201", 1000, 5, 5_757_000, "5.76e6"),
        ("band:103", 768, 5, 2_316_600, None),  # the talk: 3.41e6
        ("band:155", 768, 5, 3_414_060, "3.41e6"),
    ],
)
def test_recurrent_weights_are_those_of_the_talk(hidden, size, layers, recurrent, talk):
    with torch.device("meta"):
        cnn = prernn.models.networks.spectrogram.Spectrogram(161)
        net = deep_speech_on_meta(cnn, hidden, size, layers)
    assert len(net.layers) == 2 * layers
    assert sum(recurrent_weights(layer) for layer in net.layers) == recurrent
    assert talk is None or f"{recurrent:.2e}" == f"{float(talk):.2e}"


def recurrent_weights(layer):
    """With biases, as the talk's numbers have them."""
    return 3 * layer.hidden_to_hidden.structure.weight_count(layer.hidden_size) + layer.bias.numel()


def deep_speech_on_meta(cnn, hidden, size, layers):
    return DeepSpeech(cnn, hidden=hidden, hidden_size=size, num_layers=layers)


@pytest.mark.parametrize(
    ("hidden", "size", "talk"),
    [
        ("full", 768, "3.82e7"),
        ("diagonal", 768, "2.06e7"),
        ("band:155", 768, "2.39e7"),
        ("diagonal", 1100, "3.81e7"),
        ("band:201", 1000, "3.79e7"),  # the talk: 3.80e7, 900 weights more at least
    ],
)
def test_all_weights_are_those_of_the_talk(hidden, size, talk):
    with torch.device("meta"):
        net = deep_speech_on_meta(prernn.models.networks.spectrogram.Spectrogram(161), hidden, size, 5)
    total = sum(p.numel() for p in net.parameters())  # a band is kept with room for its missing corners
    total += sum(
        recurrent_weights(layer) - layer.bias.numel() - layer.hidden_to_hidden.weight.numel() for layer in net.layers
    )
    assert f"{total:.2e}" == f"{float(talk):.2e}", total
