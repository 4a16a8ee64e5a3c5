"""Penalties on what the last recurrent layer gives: the equations, what they pull at, that nothing of them stays."""

import pytest
import torch
from torch import nn

import prernn
from prernn.layers.dropout import Dropout
from prernn.models.networks.words import Words
from prernn.training.learning import Learning
from prernn.training.learning.activity import Activity
from prernn.training.module import VideoModule


def network(sizes=(5, 6)):
    torch.manual_seed(0)
    return prernn.traditional(Words(9, 6), cell="lstm", hidden_size=list(sizes)).double()


def test_the_penalty_is_of_the_last_layers_outputs():
    net, text = network(), torch.randint(9, (3, 7, 1))
    given = {}
    net.recurrent_layers[-1].register_forward_hook(lambda layer, inputs, out: given.update(out=out[0]))
    activity = Activity(net, 2.0, 3.0)
    with activity.noted() as outputs:
        net(text)
    h = given["out"].unflatten(0, (7, 3))
    expected = 2 * (h**2).mean() + 3 * ((h[1:] - h[:-1]) ** 2).mean()
    torch.testing.assert_close(activity.penalty(outputs), expected)
    assert len(net.recurrent_layers[-1]._forward_hooks) == 1  # nothing stays
    net(text)
    assert len(outputs) == 1


def test_parts_count_by_their_size_and_a_single_step_does_not_change():
    net, activity = network(), Activity(network(), 1.0, 1.0)
    parts = [torch.ones(1, 2, 6), torch.arange(3.0).view(3, 1, 1).expand(3, 2, 6)]
    sizes, values = [12, 36], [1.0, 5 / 3 + 1.0]
    expected = sum(size / 48 * value for size, value in zip(sizes, values, strict=True))
    assert float(activity.penalty(parts)) == pytest.approx(expected)
    with activity.noted() as outputs:
        net(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert outputs == []  # of another network


def test_dropout_is_seen():
    net = network((5, 400))
    for layer in net.recurrent_layers:
        layer.dropout = Dropout(outputs=0.5)
    activity = Activity(net.train(), 1.0, 0.0)
    with activity.noted() as outputs:
        net(torch.zeros(2, 3, 1, dtype=torch.int64))
    assert 0.3 < float((outputs[0] == 0).double().mean()) < 0.7


def test_the_loss_of_training_has_it(monkeypatch):
    class Nothing:
        def loss(self, out, batch):
            return out.sum() * 0

    net = network()
    module = VideoModule(None, Learning(activity=1.0, slowness=1.0), None, net)
    module.task = Nothing()
    batch = {"input": torch.randint(9, (2, 5, 1)), "lengths": torch.tensor([5, 5]), "path": ["a", "b"]}
    loss = module._training_loss(batch)
    loss.backward()
    assert loss.item() > 0
    assert all(layer.hidden_to_hidden.weight.grad.abs().max() > 0 for layer in net.recurrent_layers)
    assert float(net.output_layer.weight.grad.abs().sum()) == 0  # behind the recurrence there is nothing to learn
    plain = VideoModule(None, Learning(), None, net)
    plain.task = Nothing()
    assert plain._training_loss(batch).item() == 0


def test_mistakes():
    bare = prernn.framewise(Words(9, 6))
    with pytest.raises(ValueError, match="activity, slowness: expected a network with a recurrent layer"):
        Activity(bare, 1.0, 0.0)
    with pytest.raises(ValueError, match="learning slowness: expected a number from 0 on, got -1"):
        Learning(slowness=-1)
    assert isinstance(bare.output_layer, nn.Linear)
