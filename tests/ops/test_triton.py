"""The Triton kernels against the equations in float64, in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from interpreted_kernels import INPUTS, SOME, STEPS, check, draw, in_interpreter, kernels, started_for

pytestmark = in_interpreter


@pytest.mark.parametrize("columns", [1, 3, 5, 9])
@pytest.mark.parametrize(("cell", "shared"), INPUTS)
def test_they_equal_the_equations(cell, shared, columns):
    rows = 2 if columns < 5 else 1
    check(kernels, cell, *draw(cell, columns, rows=rows, size=5, shared=shared), started_for(cell, rows))


@pytest.mark.parametrize(("cell", "columns"), [(cell, 1) for cell in STEPS] + [(cell, 3) for cell in SOME])
def test_rows_end_at_their_lengths(cell, columns):
    lengths = torch.tensor([2, 9, 0, 9, 3])[::2]
    u, weight, bias, state = draw(cell, columns, rows=3)
    started = started_for(cell, 3)
    check(kernels, cell, u, weight, bias, state, started, lengths)
    # what lies past a row's length is never read
    ended = torch.arange(3)[:, None] >= lengths
    noise = u.masked_fill(ended[:, :, None, None], torch.nan)
    results = []
    for x in (u, noise):
        out, last, kept = kernels.forward(cell, x, weight, bias, state, started, lengths, True)
        kept[ended] = torch.nan
        d_out = torch.ones_like(out).masked_fill_(ended[:, :, None], torch.nan if x is noise else 1)
        results.append(
            (out, last, *kernels.backward(cell, d_out, last, x, weight, bias, state, started, lengths, kept))
        )
    for plain, noisy in zip(*results, strict=True):
        assert torch.equal(plain, noisy)
    assert torch.all(results[0][2][ended] == 0)


@pytest.mark.slow
def test_the_whole_way_runs_through_them(tmp_path):
    """PRERNN_OPS=triton in the interpreter: a layer forward and backward as by the reference."""
    script = tmp_path / "whole.py"
    script.write_text(
        "import torch, prernn\n"
        "from prernn import ops\n"
        "layer, x = prernn.GRU(3, 10, hidden='band:3'), torch.randn(3, 2, 3)\n"
        "results = []\n"
        "for name in ('triton', 'reference'):\n"
        "    with ops.using(name):\n"
        "        out, state = layer(x)\n"
        "        results.append([out, state, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])\n"
        "torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)\n"
        "assert 'prernn.ops.triton' in __import__('sys').modules\n"
    )
    subprocess.run([sys.executable, str(script)], env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
