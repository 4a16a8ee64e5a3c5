"""In training a CNN's fc layers take the faster matrix product, and are themselves again afterwards."""

import pytest
import torch

import prernn
from prernn.ops import input_projection
from small_cnns import CNNS, film, prepare

pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")


def test_training_computes_the_same_with_it(monkeypatch):
    cnn, video = prepare(CNNS["fc"]()).float(), film().float()
    found, used, operator = [], [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: used.append(1) or operator(*a))
    for least in (2**40, 1):
        monkeypatch.setattr(input_projection, "LEAST", least)
        torch.manual_seed(0)
        net = prernn.convert(cnn, cell="gru", outputs=3, image_size=(8, 8)).train()
        out, _ = net(video)
        out.square().sum().backward()
        found.append([out, *(p.grad for p in net.parameters())])
        assert not any("forward" in vars(part) for part in net.modules())
        assert bool(used) == (least == 1)
    for plain, faster in zip(*found, strict=True):
        torch.testing.assert_close(faster, plain, rtol=1e-4, atol=1e-5)
