"""Networks of words: numbers through an embedding, recurrent layers of several sizes, tied weights, words dropped."""

import itertools

import pytest
import torch
from torch import nn

import prernn
from prernn.conversion.accounting import recurrent_parameters, total_weights
from prernn.models.describe import describe
from prernn.models.networks.words import WordEmbedding, Words

WORDS = 11


def network(sizes=(5, 7, 6), tied=False, **options):
    torch.manual_seed(0)
    words = Words(WORDS, 6, tied=tied)
    net = prernn.traditional(words, hidden_size=list(sizes), **{"cell": "lstm", **options})
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return net.double().eval()


@pytest.mark.parametrize(
    ("cell", "hidden"), [*itertools.product(["vrnn", "gru", "lstm"], ["full", "band:3", "diagonal", "sparse:0.5"])]
)
def test_word_by_word_is_the_whole_text(cell, hidden):
    net = network(cell=cell, hidden=hidden)
    text = torch.randint(WORDS, (3, 8, 1))
    whole, last = net(text)
    state, outs = None, []
    for begin, end in ((0, 1), (1, 5), (5, 8)):
        out, state = net(text[:, begin:end], state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, atol=1e-12, rtol=0)
    stream = prernn.Stream(net)
    for number, expected in zip(text[0, :, 0], whole[0], strict=True):
        torch.testing.assert_close(stream(number[None]), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-12, rtol=0)
    before = whole[:, :4].clone()
    text[:, 4:] = (text[:, 4:] + 1) % WORDS  # what comes later changes nothing
    torch.testing.assert_close(net(text)[0][:, :4], before, atol=0, rtol=0)


def test_layers_have_the_sizes_of_the_list(tmp_path):
    net = network()
    assert [layer.hidden_size for layer in net.recurrent_layers] == [5, 7, 6]
    assert [tuple(part[0].shape) for part in net.init_state(2)] == [(2, 5), (2, 7), (2, 6)]
    again = prernn.load(prernn.save(net.float(), tmp_path), Words(WORDS, 6))
    text = torch.randint(WORDS, (1, 4, 1))
    assert torch.equal(again(text)[0], net(text)[0])
    assert "traditional LSTM, 3 layers of 5 + 7 + 6" in describe(net.recipe)
    same = prernn.traditional(Words(WORDS, 6), hidden_size=[5, 5])
    assert same.recipe.steps[0].arguments["hidden_size"] == 5
    for sizes, count, message in (([], None, "one at least"), ([5, 5], 3, "3 of them"), ([0], None, "at least 1")):
        with pytest.raises(ValueError, match=message):
            prernn.traditional(Words(WORDS, 6), hidden_size=sizes, num_layers=count)


def test_tied_weights_are_one(tmp_path):
    net = network(tied=True)
    embedding, output = net.get_submodule("cnn.embedding"), net.output_layer
    assert output.weight is embedding.weight
    assert sum(parameter.shape == (WORDS, 6) for parameter in net.parameters()) == 1
    prernn.save(net.float(), tmp_path)
    again = prernn.load(tmp_path, Words(WORDS, 6, tied=True))
    assert again.output_layer.weight is again.get_submodule("cnn.embedding").weight
    text = torch.randint(WORDS, (1, 4, 1))
    assert torch.equal(again(text)[0], net(text)[0])
    net(text)[0].logsumexp(-1).sum().backward()
    assert (embedding.weight.grad != 0).all()  # of words that were not read, too: they were scored


def test_a_word_is_dropped_wherever_it_stands():
    torch.manual_seed(0)
    embedding = WordEmbedding(50, 8, dropout=0.4)
    nn.init.ones_(embedding.weight)
    tokens = torch.randint(50, (400, 1))
    values = embedding(tokens)
    kept = values[:, 0] != 0
    assert set(values.flatten().tolist()) == {0.0, float(torch.tensor(1.0) / 0.6)}
    assert (values == values[:, :1]).all()
    for number in tokens.unique():
        assert len(kept[tokens[:, 0] == number].unique()) == 1
    assert 0.4 < kept.float().mean() < 0.8
    assert torch.equal(embedding.eval()(tokens), torch.ones(400, 8))
    with pytest.raises(ValueError, match="words dropout: expected a share below 1, got 1"):
        Words(5, dropout=1)


@pytest.mark.parametrize(
    ("hidden", "recurrent"), [("full", 640_000), ("diagonal", 1_600), ("band:9", 14_320), ("grouped:4", 160_000)]
)
def test_one_layer_of_400_has_the_talks_weights(hidden, recurrent):
    """Structural sparsity, Results, Penn Treebank: 1.28e6 weights in all, 6.40e5, 1.60e3 and 1.43e4 of them recurrent.

    The talk prints 1.60e3 for grouped G=4, which is the diagonal's number: four blocks of 100 x 100 for each of four
    gates are 160,000.
    """
    with torch.device("meta"):
        words = Words(100, 400)
    net = prernn.traditional(words, cell="lstm", hidden=hidden)
    (layer,) = net.recurrent_layers
    assert layer.hidden_to_hidden.weight_count() == recurrent
    assert layer.input_to_hidden.introduced + 640_000 == 1_280_000
    assert total_weights(net) >= recurrent_parameters(net).introduced


@pytest.mark.parametrize(
    ("hidden", "recurrent", "talk"),
    [
        ("full", 11_220_000, 1.12e7),
        ("diagonal", 10_800, 1.08e4),
        ("band:23", 246_816, None),  # the talk: 2.43e5
        ("band:105", 1_100_928, None),  # the talk: 1.11e6
        ("band:461", 4_341_240, None),  # the talk: 4.05e6 for C=460
    ],
)
def test_three_layers_have_the_talks_weights_where_they_can(hidden, recurrent, talk):
    """400-1150-1150-400: 2.02e7 weights, of which 1.12e7, diagonal 1.08e4, are recurrent.

    A band of C has ``D C - (C**2 - 1) / 4`` weights a gate. With one C for all three layers these are 246,816 for 23,
    1,100,928 for 105 and 4,341,240 for 461; the talk prints 2.43e5, 1.11e6 and 4.05e6 (for an even 460), none of
    which any one C gives with or without the corners: without them they would be 248,400, 1,134,000 and 4,968,000.
    Grouped by 4 they would be 2,805,000, the talk's 2.80e6, but 1150 is no multiple of 4.
    """
    with torch.device("meta"):
        words = Words(100, 400)
    net = prernn.traditional(words, cell="lstm", hidden=hidden, hidden_size=[1150, 1150, 400])
    counts = [layer.hidden_to_hidden.weight_count() for layer in net.recurrent_layers]
    assert sum(counts) == recurrent
    if talk is not None:
        assert recurrent == pytest.approx(talk, rel=5e-3)
    inputs = sum(layer.input_to_hidden.introduced for layer in net.recurrent_layers)
    assert inputs + 11_220_000 == pytest.approx(2.02e7, rel=5e-3)
