"""Recurrences whose whole sequence is one operator: ``torch.ops.prernn.recurrence`` and its gradient.

The operator is the interface between torch and the kernels: it has a shape function and a gradient, so torch.compile
and torch.export treat it as a unit. `prernn.ops.native` computes it on the CPU, `prernn.ops.triton` on a GPU; both have
functions ``forward`` and ``backward`` with the same signatures.

`torch.func` needs gradients in a different form, `Recurrence`, and a rule for ``vmap``, which runs the kernels on one
sample after the other. Forward-mode derivatives use the reference.

Supported structures are the diagonal and the band, with compact weights ``(G, D, C)`` (C columns, 1 for the diagonal):
entry ``[g, i, c]`` connects neuron ``i + c - C//2`` to neuron ``i``; entries outside the matrix are never used.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from prernn.ops.backends import common_type, forced, kernels, learns, transformed
from prernn.ops.scan import begun

Outputs = tuple[Tensor, Tensor, Tensor]
"""Outputs, last state, states after each step."""
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""Gradients of gate inputs, weight, bias and state."""

_library = torch.library.Library("prernn", "DEF")
_library.define(
    "recurrence(Tensor u, Tensor weight, Tensor? bias, Tensor state, Tensor? started, Tensor? lengths, str cell, "
    "bool keep) -> (Tensor out, Tensor last, Tensor kept)"
)
_library.define(
    "recurrence_backward(Tensor d_out, Tensor d_last, Tensor u, Tensor weight, Tensor? bias, Tensor state, "
    "Tensor? started, Tensor? lengths, Tensor kept, str cell) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _kernels_for(u: Tensor) -> Any:
    # Triton's interpreter computes on the CPU
    return kernels("triton" if u.is_cuda or forced() == "triton" else "native")


def _forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    keep: bool,
) -> Outputs:
    found: Outputs = _kernels_for(u).forward(cell, u, weight, bias, state, started, lengths, keep)
    return found


def _backward(
    d_out: Tensor,
    d_last: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    kept: Tensor,
    cell: str,
) -> Gradients:
    run = _kernels_for(u).backward
    d_u, d_weight, d_bias, d_state = run(cell, d_out, d_last, u, weight, bias, state, started, lengths, kept)
    return d_u, d_weight, weight.new_empty(0) if d_bias is None else d_bias, d_state


for _device in ("CPU", "CUDA"):
    _library.impl("recurrence", _forward, _device)
    _library.impl("recurrence_backward", _backward, _device)


@torch.library.register_fake("prernn::recurrence")
def _(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    keep: bool,
) -> Outputs:
    steps, rows, _, size = u.shape
    kept = state.new_empty((steps, rows, state.shape[0], size) if keep else 0)
    return u.new_empty(steps, rows, size), torch.empty_like(state), kept


@torch.library.register_fake("prernn::recurrence_backward")
def _(
    d_out: Tensor,
    d_last: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    started: Tensor | None,
    lengths: Tensor | None,
    kept: Tensor,
    cell: str,
) -> Gradients:
    d_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    return u.new_empty(u.shape), torch.empty_like(weight), d_bias, torch.empty_like(state)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    u, weight, bias, state, started, lengths, ctx.cell, keep = inputs
    if not keep:
        raise ValueError("expected keep=True when gradients are requested, got False")
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(u, weight, bias, state, started, lengths, output[2])


def _gradients(ctx: Any, d_out: Tensor | None, d_last: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    u, weight, bias, state, started, lengths, kept = ctx.saved_tensors
    d_out = torch.zeros_like(u[:, :, 0]) if d_out is None else d_out
    d_last = torch.zeros_like(state) if d_last is None else d_last
    run = RecurrenceGradient.apply if transformed() else torch.ops.prernn.recurrence_backward
    d_u, d_weight, d_bias, d_state = run(d_out, d_last, u, weight, bias, state, started, lengths, kept, ctx.cell)
    return d_u, d_weight, None if bias is None else d_bias, d_state, None, None, None, None


def _refuse(ctx: Any, *gradients: Tensor | None) -> NoReturn:
    raise NotImplementedError("the kernels can't be differentiated twice: use PRERNN_OPS=reference")


torch.library.register_autograd("prernn::recurrence", _gradients, setup_context=_save)
# without this torch would warn and continue with zeros
torch.library.register_autograd("prernn::recurrence_backward", _refuse)


class Recurrence(torch.autograd.Function):
    """``prernn::recurrence`` under the transforms of `torch.func`, which refuse the gradients of `torch.library`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Outputs:
        found: Outputs = torch.ops.prernn.recurrence(*arguments)
        return found

    setup_context = staticmethod(_save)
    backward = staticmethod(_gradients)


class RecurrenceGradient(torch.autograd.Function):
    """``prernn::recurrence_backward`` under the transforms of `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Gradients:
        found: Gradients = torch.ops.prernn.recurrence_backward(*arguments)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Saves nothing, because there is no second backward pass."""

    backward = staticmethod(_refuse)


def _one_by_one(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A rule for ``vmap`` that applies ``operator`` to each sample."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, ...]:
        columns = [
            [argument] * info.batch_size if dim is None else argument.unbind(dim)
            for argument, dim in zip(arguments, in_dims, strict=True)
        ]
        results = [operator(*sample) for sample in zip(*columns, strict=True)]
        stacked = tuple(torch.stack(tensors) for tensors in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


torch.library.register_vmap("prernn::recurrence", _one_by_one(torch.ops.prernn.recurrence))
torch.library.register_vmap("prernn::recurrence_backward", _one_by_one(torch.ops.prernn.recurrence_backward))


def sequence(
    name: str,
    kernel: str,
    band: Tensor,
    bias: Tensor | None,
    u: Tensor,
    state: tuple[Tensor, ...],
    lengths: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs the cell called ``kernel`` over ``u (T, N, G or 1, D)``; the rest is as in `prernn.ops.reference.sequence`.

    ``name`` is the backend that `prernn.ops.backends.choose` found for these tensors, ``band`` is the hidden-to-hidden
    weight ``(G, D, C)``. Internally the state is float32; outputs and state are returned in the common type of the
    arguments.
    """
    started: Tensor | None = None
    flags: tuple[Tensor, ...] = ()
    if kernel.startswith("linear"):
        started, flags, state = state[1].flatten() > 0, (begun(state[1], lengths),), state[:1]
    tensors = [tensor for tensor in (u, band, bias, *state) if tensor is not None]
    dtype = common_type(tensors)
    u = u.to(dtype)
    functional = transformed()
    keep = functional or learns(*tensors)
    rows = torch.stack([tensor.float() for tensor in state])  # (S, N, D)
    bias = None if bias is None else bias.float().contiguous()
    band = band.float().contiguous()
    if keep or torch.compiler.is_compiling():
        run = Recurrence.apply if functional else torch.ops.prernn.recurrence
        out, last, _ = run(u, band, bias, rows, started, lengths, kernel, keep)
    else:  # a stream does not need torch's dispatcher, which takes as long as a small step
        out, last, _ = kernels(name).forward(kernel, u, band, bias, rows, started, lengths, False)
    return out, (*(last[i].to(dtype) for i in range(last.shape[0])), *flags)
