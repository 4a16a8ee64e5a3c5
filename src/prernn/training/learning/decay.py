"""Weight decay that spares parameters for which it makes no sense: biases, normalization, self-connections of neurons.

Decay pulls toward 0. A bias or a normalization scale of 0 is no simpler than another value, and the diagonal of
``W_hh`` determines how long a neuron remembers: in an RCN it starts as the identity, which decay alone pulls to 0.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.optimizer import Optimizer

from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.input_to_hidden import StructuredLinear
from prernn.layers.recurrent_stack import RecurrentStack
from prernn.sparsity.path_convolution import PathConv2d
from prernn.sparsity.paths import PathLinear

NORMALIZATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
CONNECTIONS = (HiddenToHidden, StructuredLinear, RecurrentStack, PathLinear, PathConv2d)
"""Our modules whose weights may be vectors, but are weights nevertheless."""

Own = dict[nn.Parameter, Tensor]
"""For each ``W_hh``, a mask of which of its compact weights join a neuron to itself, as 1 and 0."""


def spared(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that selective decay leaves alone: biases, all of normalization, and vectors such as a scale.

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.PReLU())
        >>> {name for name, value in layers.named_parameters() if value not in spared(layers)}
        {'0.weight'}
    """
    return set(_spared(module))


def _spared(module: nn.Module) -> Iterator[nn.Parameter]:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            vector = parameter.ndim <= 1 and not isinstance(part, CONNECTIONS)
            if name.startswith("bias") or vector or isinstance(part, NORMALIZATION):
                yield parameter


def own_connections(module: nn.Module) -> Own:
    """The diagonals of all ``W_hh`` of a module."""
    hidden = [part for part in module.modules() if isinstance(part, HiddenToHidden)]
    parameters = [
        (part, part.weight) for part in hidden if isinstance(part.weight, nn.Parameter)
    ]  # excludes computed ones
    return {weight: part.own_connections().to(weight) for part, weight in parameters}


def selective(groups: list[dict[str, Any]], module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose weights decay, and beside each a group of the same rate that the optimizer does not decay.

    The suffix ``_spared`` of a group's name marks parameters that do not decay, ``_hidden`` marks ``W_hh``, which
    decays by `decay_others`.
    """
    free, hidden = spared(module), own_connections(module)
    split: list[dict[str, Any]] = []
    for group in groups:
        parts: dict[str, list[nn.Parameter]] = {"": [], "_spared": [], "_hidden": []}
        for parameter in group["params"]:
            parts["_hidden" if parameter in hidden else "_spared" if parameter in free else ""].append(parameter)
        split += [
            {**group, "params": part, "name": group["name"] + end, "weight_decay": 0.0 if end else decay}
            for end, part in parts.items()
            if part
        ]
    return split


def decay_others(optimizer: Optimizer, own: Own, decay: float) -> None:
    """Makes an optimizer decay every ``W_hh`` except its diagonal, in each step, just as it decays other weights.

    SGD adds ``decay * W`` to the gradient, after any clipping; AdamW multiplies W by ``1 - rate * decay`` before the
    step. Here W is ``W_hh`` with a zero diagonal. This is exact: a parameter group has one decay for a whole tensor.
    """
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    others = {weight: 1 - mask for weight, mask in own.items()}

    @torch.no_grad()
    def decay_now() -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight not in others or weight.grad is None:
                    continue
                if decoupled:
                    weight.mul_(1 - group["lr"] * decay * others[weight])
                else:
                    weight.grad.add_(weight * others[weight], alpha=decay)

    def before_step(_: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        closure = options.get("closure") or next(iter(arguments[1:]), None)
        if closure is None:
            decay_now()
            return None

        def gradients_then_decay() -> Any:  # Lightning computes gradients within the step
            loss = closure()
            decay_now()
            return loss

        return arguments[:1], {**options, "closure": gradients_then_decay}

    optimizer.register_step_pre_hook(before_step)
