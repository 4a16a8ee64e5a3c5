"""Recurrences whose whole sequence is one operator: ``torch.ops.prernn.recurrence`` and its gradient.

The operator is the seam between torch and the kernels: it has a shape function and a gradient, so torch.compile and
torch.export pass over it. `prernn.ops.native` computes it on the CPU, `prernn.ops.triton` on a GPU; both have the
functions ``forward`` and ``backward`` of the same signature.

Its structures are the diagonal and the band, with compact weights ``(G, D, C)`` (C columns, 1 for the diagonal): entry
``[g, i, c]`` joins neuron ``i + c - C//2`` to neuron ``i``; entries outside the matrix are never used.
"""

import torch
from torch import Tensor

from prernn.ops.backends import common_type, forced, kernels

_library = torch.library.Library("prernn", "DEF")
_library.define(
    "recurrence(Tensor u, Tensor weight, Tensor? bias, Tensor state, Tensor? started, Tensor? lengths, str cell, "
    "bool keep) -> (Tensor out, Tensor last, Tensor kept)"
)
_library.define(
    "recurrence_backward(Tensor d_out, Tensor d_last, Tensor u, Tensor weight, Tensor? bias, Tensor state, "
    "Tensor? started, Tensor? lengths, Tensor kept, str cell) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _on_cpu(function: str):
    def run(*arguments):
        name = "triton" if forced() == "triton" else "native"  # in Triton's interpreter
        return getattr(kernels(name), function)(*arguments)

    return run


def _on_gpu(function: str):
    return lambda *arguments: getattr(kernels("triton"), function)(*arguments)


def _forward(run):
    def forward(u, weight, bias, state, started, lengths, cell, keep):
        return run(cell, u, weight, bias, state, started, lengths, keep)

    return forward


def _backward(run):
    def backward(d_out, d_last, u, weight, bias, state, started, lengths, kept, cell):
        d_u, d_weight, d_bias, d_state = run(cell, d_out, d_last, u, weight, bias, state, started, lengths, kept)
        return d_u, d_weight, weight.new_empty(0) if d_bias is None else d_bias, d_state

    return backward


for _device, _on in (("CPU", _on_cpu), ("CUDA", _on_gpu)):
    _library.impl("recurrence", _forward(_on("forward")), _device)
    _library.impl("recurrence_backward", _backward(_on("backward")), _device)


@torch.library.register_fake("prernn::recurrence")
def _(u, weight, bias, state, started, lengths, cell, keep):
    steps, rows, _, size = u.shape
    kept = state.new_empty((steps, rows, state.shape[0], size) if keep else 0)
    return u.new_empty(steps, rows, size), torch.empty_like(state), kept


@torch.library.register_fake("prernn::recurrence_backward")
def _(d_out, d_last, u, weight, bias, state, started, lengths, kept, cell):
    d_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    return u.new_empty(u.shape), torch.empty_like(weight), d_bias, torch.empty_like(state)


def _save(ctx, inputs, output):
    u, weight, bias, state, started, lengths, ctx.cell, keep = inputs
    if not keep:
        raise ValueError("expected keep=True where gradients are asked for, got False")
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(u, weight, bias, state, started, lengths, output[2])


def _gradients(ctx, d_out, d_last, _):
    u, weight, bias, state, started, lengths, kept = ctx.saved_tensors
    d_out = torch.zeros_like(u[:, :, 0]) if d_out is None else d_out
    d_last = torch.zeros_like(state) if d_last is None else d_last
    d_u, d_weight, d_bias, d_state = torch.ops.prernn.recurrence_backward(
        d_out, d_last, u, weight, bias, state, started, lengths, kept, ctx.cell
    )
    return d_u, d_weight, None if bias is None else d_bias, d_state, None, None, None, None


def _refuse(ctx, *gradients):
    raise NotImplementedError("the kernels' gradient has no gradient of its own: PRERNN_OPS=reference has")


torch.library.register_autograd("prernn::recurrence", _gradients, setup_context=_save)
# without this torch would warn and go on with zeros
torch.library.register_autograd("prernn::recurrence_backward", _refuse)


def sequence(kernel: str, band: Tensor, bias: Tensor | None, u: Tensor, state: tuple, lengths: Tensor | None) -> tuple:
    """Runs the cell called ``kernel`` over ``u (T, N, G or 1, D)``; the rest as `prernn.ops.reference.sequence`.

    ``band`` is the hidden-to-hidden weight ``(G, D, C)``. The state is float32 inside; outputs and state have the type
    that torch's arithmetic gives the arguments together.
    """
    started = None
    if kernel.startswith("linear"):
        state, started = state[:1], state[1].flatten() > 0
    tensors = [tensor for tensor in (u, band, bias, *state) if tensor is not None]
    dtype = common_type(tensors)
    u = u.to(dtype)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    rows = torch.stack([tensor.float() for tensor in state])  # (S, N, D)
    bias = None if bias is None else bias.float().contiguous()
    band = band.float().contiguous()
    if keep or torch.compiler.is_compiling():
        out, last, _ = torch.ops.prernn.recurrence(u, band, bias, rows, started, lengths, kernel, keep)
    else:  # a stream has no use for torch's dispatcher, which takes as long as a small step
        run = _on_cpu if u.device.type == "cpu" else _on_gpu
        out, last, _ = run("forward")(kernel, u, band, bias, rows, started, lengths, False)
    following = tuple(last[i].to(dtype) for i in range(last.shape[0]))
    if started is not None:
        following = (*following, _begun(started, lengths, u))
    return out, following


def _begun(started: Tensor, lengths: Tensor | None, u: Tensor) -> Tensor:
    """Which rows have started after the sequence, ``(N, 1)``: those that had and those with a step."""
    begun = torch.ones_like(started) if lengths is None else started | (lengths > 0)
    return begun.unsqueeze(1).to(u.dtype)
