"""The same laws on a CUDA device (pytest -m gpu)."""

import pytest
import torch
from conftest import CNNS, SPECS, film, prepare

import prernn
from prernn.cells import CELLS
from prernn.input_to_hidden import INPUTS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("hidden", SPECS)
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", CNNS)
def test_the_gpu_computes_what_the_cpu_does(kind, cell, input, hidden):
    net = prernn.convert(prepare(CNNS[kind]()), cell=cell, input=input, hidden=hidden).eval()
    video = film()
    expected = net(video)[0]
    net, video, state = net.cuda(), video.cuda(), None
    torch.testing.assert_close(net(video)[0].cpu(), expected, rtol=0, atol=1e-10)
    for time in range(video.shape[1]):
        out, state = net.step(video[:, time], state)
        torch.testing.assert_close(out.cpu(), expected[:, time], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains(dtype):
    net = prernn.convert(CNNS["conv"](), cell="gru", input="gate", outputs=4).cuda()
    with torch.autocast("cuda", dtype=dtype):
        out, state = net(film().float().cuda())
    assert all(tensor.dtype == torch.float32 for layer in state for tensor in layer)
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
