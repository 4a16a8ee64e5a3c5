"""TensorFlow's padding in exported programs."""

import copy
import itertools

import pytest
import torch
from timm.layers import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import nn

import prernn
from equations import close
from prernn.conversion.graph.same_padding import same_padding
from prernn.engines.exported.padding import simplify_padding
from prernn.engines.exported.program import plain_copy, traced


def test_it_is_timms():
    for size, kernel, stride, dilation in itertools.product(range(1, 20), (1, 2, 3, 5), (1, 2, 3, 4), (1, 2)):
        assert same_padding(size, kernel, stride, dilation) == get_same_padding(size, kernel, stride, dilation)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), ((5, 3), (2, 1), 1), (1, 2, 1), (3, 2, 2)])
def test_convolutions_compute_what_they_did(kernel, stride, dilation):
    conv = Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation).double()
    simple = nn.Sequential(copy.deepcopy(conv))
    simplify_padding(simple)
    for height, width in itertools.product((7, 8, 9), (10, 11)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        close(simple(x), conv(x))


def test_height_and_width_stay_free_over_five_strides():
    layers = [layer for n in range(5) for layer in (Conv2dSame(3 if n == 0 else 4, 4, 3, stride=2), nn.ReLU())]
    cnn = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net = prernn.convert(cnn, cell="gru", outputs=3).eval()
    program = traced(plain_copy(net), "step")
    assert program.description.free_size
    frame, state = torch.rand(1, 3, 75, 90), net.init_state(1)
    close(
        program.program.module()(frame, tuple(tuple(leaf for leaf in part) for part in state))[0],
        net.step(frame, state)[0],
    )
