"""Inputs need not be videos: a network over feature vectors becomes recurrent and streams as a CNN does."""

import pytest
import torch
from torch import nn

import prernn
from equations import close
from small_cnns import shake

FEATURES = 7


def network(cell="gru", **options):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    return layers.double().eval(), prernn.convert(layers.double().eval(), "2", cell=cell, **options)


@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
def test_a_sequence_is_its_steps(cell):
    _, net = network(cell, hidden="band:3")
    shake(net)
    signal = torch.randn(2, 5, FEATURES, dtype=torch.float64)  # (B, T, F)
    assert net.frame_shape == (FEATURES,)
    whole, last = net(signal)
    assert whole.shape == (2, 5, 3)
    state, outputs = None, []
    for step in signal.unbind(1):
        out, state = net.step(step, state)
        outputs.append(out)
    close(torch.stack(outputs, 1), whole)
    close(state, last)


def test_without_recurrence_it_is_the_network_step_by_step():
    layers, net = network("vrnn")
    net.recurrent_layers[0].hidden_to_hidden.zero_()
    signal = torch.randn(2, 4, FEATURES, dtype=torch.float64)
    close(net(signal)[0], layers(signal))


def test_a_stream_takes_one_vector_a_step():
    _, net = network()
    stream = prernn.Stream(net)
    signal = torch.randn(1, 4, FEATURES, dtype=torch.float64)
    outputs = [stream(step) for step in signal[0]]
    close(torch.stack(outputs), net(signal)[0][0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"expected a frame float \(7\), got"):
        stream(torch.randn(FEATURES + 1))


def test_wrong_shapes_are_named():
    _, net = network()
    with pytest.raises(ValueError, match=r"expected video \(B, T, F\)"):
        net(torch.randn(2, FEATURES))
    with pytest.raises(ValueError, match=r"expected frame \(B, F\)"):
        net.step(torch.randn(2, 5, FEATURES))
    with pytest.raises(ValueError, match="7 channels"):
        net(torch.randn(2, 5, FEATURES + 1, dtype=torch.float64))
