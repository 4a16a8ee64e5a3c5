"""Recurrences with drawn weights, solved by a kernel and by the reference."""

import pytest
import torch

from prernn.layers.cells import LinearCell, recurrent_gates
from prernn.layers.structures.parse import hidden_structure

native = pytest.importorskip("prernn.ops.native", exc_type=ImportError, reason="built without a C compiler")


def problem(cell, spec, steps=5, batch=3, size=21, *, shared=False, bias=True, lengths=None, dtype=torch.float32):
    """Values for one sequence, in ``dtype``'s precision but held in float64: weight, bias, u, state and lengths."""
    structure = hidden_structure(spec)
    gates, products = len(cell.gates), recurrent_gates(cell)
    fan_in = structure.fan_in(size)
    shapes = [(products, *structure.weight_shape(size)), (products, size), (steps, batch, 1 if shared else gates, size)]
    weight, offset, u = (torch.randn(shape).to(dtype).double() for shape in shapes)
    state = [torch.randn(batch, size).to(dtype).double() for _ in cell.states]
    if isinstance(cell, LinearCell):
        state[1] = (torch.arange(batch).unsqueeze(1) % 2).double()
    return structure, [weight / fan_in**0.5, offset if bias else None, u, *state], lengths
