"""What the drop-ins refuse, and in which words."""

import pytest
import torch

import prernn
from prernn.layers.cells import GRUCell, make_cell
from rnn_layers import OURS, draw_state


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_size": 0},
        {"hidden_size": 0},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"hidden": "banana"},
        {"hidden": "paths:5"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", list(OURS))
def test_arguments_out_of_range(cell, arguments):
    with pytest.raises(ValueError, match=r"expected|hidden="):
        OURS[cell](**{"input_size": 3, "hidden_size": 4, **arguments})


def test_unknown_words():
    with pytest.raises(ValueError, match=r"tanh, relu.*'gelu'"):
        prernn.VRNN(3, 4, activation="gelu")
    with pytest.raises(ValueError, match="'before' or 'after', got 'never'"):
        prernn.GRU(3, 4, reset="never")
    with pytest.raises(ValueError, match="'old', got 'x'"):
        GRUCell(update="x")
    with pytest.raises(ValueError, match=r"vrnn.*'rnn'"):
        make_cell("rnn")
    with pytest.raises(TypeError):
        prernn.GRU(3, 4, banana=1)


def test_unknown_backend(monkeypatch):
    monkeypatch.setenv("PRERNN_OPS", "banana")
    with pytest.raises(ValueError, match=r"PRERNN_OPS.*reference.*'banana'"):
        prernn.GRU(3, 4)(torch.randn(2, 1, 3))


@pytest.mark.parametrize("cell", list(OURS))
def test_shapes_that_do_not_fit(cell):
    layer = OURS[cell](3, 4, 2)
    good = draw_state(cell, 2, 5, 4)
    for x in (torch.randn(6, 5, 2), torch.randn(3), torch.randn(1, 6, 5, 3)):
        with pytest.raises(ValueError, match=r"expected input \(T, B, 3\)"):
            layer(x)
    bad_states = [draw_state(cell, *shape) for shape in ((1, 5, 4), (2, 6, 4), (2, 5, 3), (2, 4))]
    bad_states.append(good[0] if cell == "lstm" else (good, good))
    for state in bad_states:
        with pytest.raises(ValueError, match="state tensors"):
            layer(torch.randn(6, 5, 3), state)
    for lengths in ([1, 2], [1, 2, 3, 4, 7], [1, 2, 3, 4, -1], 3):
        with pytest.raises(ValueError, match="5 lengths between 0 and 6"):
            layer(torch.randn(6, 5, 3), lengths=lengths)
    for x in (torch.randn(5, 2), torch.randn(1, 5, 3), torch.randn(3)):
        with pytest.raises(ValueError, match=r"expected input \(B, 3\)"):
            layer.step(x)
    with pytest.raises(ValueError, match="state tensors"):
        layer.step(torch.randn(4, 3), good)


def test_a_bidirectional_layer_does_not_step():
    with pytest.raises(NotImplementedError, match="bidirectional"):
        prernn.LSTM(3, 4, bidirectional=True).step(torch.randn(2, 3))


def test_what_is_no_tensor_is_an_error_that_says_so():
    layer = prernn.LSTM(3, 4)
    with pytest.raises(ValueError, match=r"expected input \(T, B, 3\) as a tensor, got list"):
        layer([[0.0, 0, 0]])
    with pytest.raises(ValueError, match=r"expected 2 state tensors .*, got \[None, None\]"):
        layer(torch.zeros(5, 2, 3), (None, None))
