"""The same laws on a CUDA device (pytest -m gpu)."""

import pytest
import torch

import prernn
from prernn.layers.cells import CELLS
from prernn.layers.input_to_hidden import INPUTS
from small_cnns import CNNS, film, prepare
from strategies import SPECS

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


@pytest.mark.parametrize("paths", [12, 300])  # path by path, and as a dense product
def test_path_networks(paths):
    net = prernn.PathNetwork([20, 16, 5], paths).double()
    x = torch.randn(7, 20, dtype=torch.float64)
    expected = net(x)
    torch.testing.assert_close(net.cuda()(x.cuda()).cpu(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(net.merged()(x.cuda()).cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", SPECS)
def test_quantized_and_sampled_networks(hidden):
    net = prernn.convert(prepare(CNNS["conv"]()), cell="gru", input="gate", hidden=hidden).eval()
    there = prernn.quantize(net.cuda(), 3.0)
    here = prernn.quantize(net.cpu(), 3.0)
    video = film()
    torch.testing.assert_close(there(video.cuda())[0].cpu(), here(video)[0], rtol=0, atol=1e-10)
    sampled = prernn.online_sparsity(there, conv=0.5, linear=0.5)
    assert sampled(video.cuda())[0].isfinite().all()
