"""The reference implementation: a plain torch loop over time, for any dtype, twice differentiable, exportable."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""A cell's state tensors ``(N, D)``, the first of which is its output."""
Product = Callable[[Tensor], Tensor]
"""A recurrent product, ``h (N, D) -> W_hh h (N, G, D)``."""


class Step(Protocol):
    """What the loop needs from a cell."""

    def step(self, u: Tensor, state: State, products: list[Product]) -> State:
        """The next state."""


def sequence(
    cell: Step, products: list[Product], u: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """Steps ``cell`` through ``s_t = cell(u_t, s_{t-1})``.

    Args:
        cell: gate equations (`prernn.layers.cells.Cell`).
        products: recurrent products of the cell's groups of gates.
        u: gate inputs ``(T, N, G, D)``; ``G`` may be 1 if all gates share one input.
        state: tensors ``(N, D)``.
        lengths: ``(N,)`` valid steps of each row. A row that has ended keeps its state and outputs zeros; the padding
            affects no result and no gradient.

    Returns:
        Outputs ``(T, N, D)`` and the state after each row's last valid step.

    In an export with variable T the loop becomes torch's scan operator, which ONNX and OpenVINO have too.

    Raises:
        NotImplementedError: an export with variable T and rows of different lengths.
    """
    u = without_padding(u, lengths)
    if torch.compiler.is_exporting() and isinstance(u.shape[0], torch.SymInt):
        return _as_one_operator(cell, products, u, state, lengths)
    if len(u) == 1 and lengths is None:  # a stream: one step, without a sequence's overhead
        state = cell.step(u[0], state, products)
        return state[0].clone().unsqueeze(0), state  # a copy, because the caller may modify it in place
    outputs = []
    for time, u_t in enumerate(u.unbind(0)):
        following = cell.step(u_t, state, products)
        if lengths is None:
            outputs.append(following[0])
        else:
            active = (time < lengths).unsqueeze(1)  # (N, 1)
            outputs.append(torch.where(active, following[0], 0))
            following = tuple(torch.where(active, new, old) for new, old in zip(following, state, strict=True))
        state = following
    return torch.stack(outputs), state


def _as_one_operator(
    cell: Step, products: list[Product], u: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    import torch._dynamo  # takes seconds, but an export has already imported it
    from torch._higher_order_ops import scan

    if lengths is not None:
        raise NotImplementedError("expected rows of equal length in an export with variable T, got different lengths")

    def combine(state: State, u_t: Tensor) -> tuple[State, Tensor]:
        # the operator's outputs must be neither its inputs nor the same tensor twice
        following = tuple(leaf.clone() for leaf in cell.step(u_t, state, products))
        return following, following[0].clone()

    if not torch.compiler.is_dynamo_compiling():
        torch._dynamo.reset()  # a scan traced earlier with the same batch size would fix the size of this one
    last, out = scan(combine, tuple(state), u, dim=0)
    return out, tuple(last)


def without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x (T, N, ...)`` with zeros from step ``lengths (N,)`` on in each row: a masked step that was computed from NaN
    would still give NaN gradients."""
    if lengths is None:
        return x
    valid = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths  # (T, N)
    return torch.where(valid.view(*valid.shape, *[1] * (x.ndim - 2)), x, 0)


def flipped(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses ``x (T, B, F)`` in time, each row within its length."""
    if lengths is None:
        return x.flip(0)
    time = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
    source = torch.where(time < lengths, lengths - 1 - time, time)  # (T, B)
    return x.gather(0, source.unsqueeze(2).expand_as(x))
