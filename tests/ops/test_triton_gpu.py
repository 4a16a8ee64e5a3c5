"""The GPU kernels compiled, and on a GPU."""

import pytest
import torch

from interpreted_kernels import INPUTS, SOME, STEPS, check, draw, kernels, started_for
from prernn.ops import triton as compiled
from prernn.ops import triton_kernels

triton = pytest.importorskip("triton")

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.bool: "*i1"}


class Compiles:
    """Stands in for a kernel: compiles it for a GPU that need not be there, and keeps the code."""

    def __init__(self, kernel, code):
        self.kernel, self.code = kernel, code

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *given, num_warps, num_stages, enable_fp_fusion, **constants):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = dict.fromkeys(self.kernel.arg_names, "constexpr")
        for name, value in zip(signature, given, strict=False):
            if value is None:
                constants[name] = None
            else:
                signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        places = {(self.kernel.arg_names.index(name),): value for name, value in constants.items()}
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": enable_fp_fusion}
        source = ASTSource(self.kernel, signature, places)
        code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        self.code.append((self.kernel.__name__, code.asm["ptx"]))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("cell", STEPS)
def test_they_compile_for_a_gpu(cell, columns, monkeypatch):
    code = []
    for name in ("forward_kernel", "backward_kernel", "band_weight_kernel"):
        monkeypatch.setattr(triton_kernels, name, Compiles(getattr(triton_kernels, name), code))
    u, weight, bias, state = draw(cell, columns, size=96, dtype=torch.bfloat16)
    lengths, started = torch.ones(2, dtype=torch.int64), started_for(cell, 2)
    out, last, kept = compiled.forward(cell, u, weight, bias, state, started, lengths, True)
    compiled.forward(cell, u, weight, bias, state, None, None, False)
    compiled.backward(cell, out, last, u, weight, bias, state, started, lengths, kept)
    exchanges = {"forward_kernel": 2, "backward_kernel": 3} if "before" in cell else {}
    exchanges = {"forward_kernel": 1, "backward_kernel": 1, "band_weight_kernel": 0, **exchanges}
    for name, ptx in code:
        assert ptx.count("bar.sync") >= (exchanges[name] if columns > 1 else 0)  # neighbors wait for each other
        assert "ld.global.nc" not in ptx  # nothing is read past the coherent cache


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu(test):
    for mark in gpu:
        test = mark(test)
    return test


WIDE = [(torch.float32, columns) for columns in (1, 3, 21, 599)]


@on_gpu
@pytest.mark.parametrize(("dtype", "columns"), [*WIDE, (torch.bfloat16, 1), (torch.bfloat16, 21), (torch.float16, 3)])
@pytest.mark.parametrize(("cell", "shared"), INPUTS)
def test_gpu_equals_the_equations(cell, shared, columns, dtype):
    drawn = draw(cell, columns, steps=7, rows=9, size=300, shared=shared, dtype=dtype, device="cuda")
    lengths = torch.tensor([7, 0, 1, 5, 7, 7, 2, 6, 7], device="cuda")
    # wide sums of random terms round more
    check(compiled, cell, *drawn, started_for(cell, 9, "cuda"), lengths, close=1e-4)


@on_gpu
@pytest.mark.parametrize("size", [1, 33, 1500, 2048, 16384])
@pytest.mark.parametrize("columns", [1, 21])
@pytest.mark.parametrize("cell", SOME)
def test_gpu_gives_equal_bits_and_neighbors_wait_for_each_other(cell, columns, size):
    """Against the interpreter on the same numbers, which has no threads to race."""
    columns = min(columns, 2 * size - 1)
    u, weight, bias, state = draw(cell, columns, steps=4, rows=2, size=size)
    started = started_for(cell, 2)
    d_out, d_last = torch.randn(4, 2, size), torch.randn_like(state)

    def run(module, device):
        x, w, b, s, begun, d_o, d_l = (
            None if y is None else y.to(device) for y in (u, weight, bias, state, started, d_out, d_last)
        )
        out, last, kept = module.forward(cell, x, w, b, s, begun, None, True)
        again = module.forward(cell, x, w, b, s, begun, None, False)
        assert torch.equal(again[0], out)
        assert torch.equal(again[1], last)
        return (out, last, *module.backward(cell, d_o, d_l, x, w, b, s, begun, None, kept))

    wanted, first = run(kernels, "cpu"), run(compiled, "cuda")
    for got, want in zip(first, wanted, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=2e-4, atol=2e-4)
    for _ in range(10):
        for got, want in zip(run(compiled, "cuda"), first, strict=True):
            assert torch.equal(got, want)


@on_gpu
@pytest.mark.parametrize("columns", [1, 3])
def test_gpu_many_rows_share_programs(columns):
    drawn = draw("gru:before:old", columns, steps=3, rows=20000, size=40, device="cuda")
    u, weight, bias, state = drawn
    out, last, kept = compiled.forward("gru:before:old", *drawn, None, None, True)
    d_u, d_weight, d_bias, d_state = compiled.backward("gru:before:old", out, last, *drawn, None, None, kept)
    sums = 0, 0
    for part in range(0, 20000, 2000):
        cut = slice(part, part + 2000)
        some = (u[:, cut], weight, bias, state[:, cut].contiguous())
        of, ol, ok = compiled.forward("gru:before:old", *some, None, None, True)
        du, dw, db, ds = compiled.backward("gru:before:old", of, ol, *some, None, None, ok)
        assert torch.equal(of, out[:, cut])
        assert torch.equal(du, d_u[:, cut])
        assert torch.equal(ds, d_state[:, cut])
        sums = sums[0] + dw.double(), sums[1] + db.double()
    torch.testing.assert_close(d_weight.double(), sums[0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(d_bias.double(), sums[1], rtol=1e-4, atol=1e-2)


@on_gpu
@pytest.mark.parametrize("columns", [1, 3])
def test_gpu_more_elements_than_32_bits_count(columns):
    if torch.cuda.mem_get_info()[0] < 80e9:
        pytest.skip("needs 80 GB of free memory")
    rows, size = 1_100_000, 2048
    u = torch.empty(2, rows, 1, size, device="cuda", dtype=torch.bfloat16).normal_()  # 4.5e9 elements
    weight, state = torch.randn(1, size, columns, device="cuda"), torch.zeros(1, rows, size, device="cuda")
    out = compiled.forward("vrnn:tanh", u, weight, None, state, None, None, False)[0]
    few = compiled.forward("vrnn:tanh", u[:, -5:], weight, None, state[:, -5:].contiguous(), None, None, False)[0]
    assert torch.equal(out[:, -5:], few)


@on_gpu
def test_gpu_autograd_layouts_and_streams():
    """Expanded gradients, as a sum's, and a stream of its own."""
    drawn = draw("lstm", 3, steps=4, rows=5, size=64, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out, last, kept = compiled.forward("lstm", *drawn, None, None, True)
        ones = torch.ones((), device="cuda").expand_as(out)
        got = compiled.backward("lstm", ones, last, *drawn, None, None, kept)
        want = compiled.backward("lstm", ones.contiguous(), last, *drawn, None, None, kept)
    stream.synchronize()
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
