"""Weights that are computed from others, by pruning, weight norm or spectral norm, in torch's old and new forms.

The old form computes the weight in a hook before each forward pass and keeps it as a plain attribute, which torch
can't copy. The new form (`torch.nn.utils.parametrize`) computes it whenever it is accessed.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Module = TypeVar("Module", bound=nn.Module)

HOOKS: dict[type, tuple[str, Callable[..., nn.Module]]] = {
    prune.BasePruningMethod: ("_tensor_name", prune.remove),
    WeightNorm: ("name", remove_weight_norm),
    SpectralNorm: ("name", remove_spectral_norm),
}
"""The old form's hooks: the attribute with the weight's name, and the function that makes the weight a parameter."""


def copy_of(module: Module, memo: dict[int, Tensor] | None = None) -> Module:
    """`copy.deepcopy` that also works for modules with computed weights."""
    values = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    computed = {id(value): value.detach().clone() for value in values if not value.is_leaf}
    return copy.deepcopy(module, {**computed, **(memo or {})})


def refresh(module: nn.Module) -> None:
    """Recomputes the module's weights, as its forward pass would: for a module whose weights are read from outside."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, tuple(HOOKS)):
            hook(module, None)


@torch.no_grad()
def refresh_all(module: nn.Module) -> None:
    """`refresh` for a module and all its parts: after a forward pass on fake tensors, whose weights are left behind."""
    with unset_fake_temporarily():
        for part in module.modules():
            refresh(part)


def computed(module: nn.Module) -> list[str]:
    """Names of the module's weights that are computed from others."""
    names = list(getattr(module, "parametrizations", ())) if parametrize.is_parametrized(module) else []
    for hook in module._forward_pre_hooks.values():
        names += [getattr(hook, name) for kind, (name, _) in HOOKS.items() if isinstance(hook, kind)]
    return names


def settle(module: Module) -> Module:
    """Turns all computed weights into parameters with their current values, in place; returns the module."""
    for part in module.modules():
        if parametrize.is_parametrized(part):
            _settle_parametrized(part)
        for hook in list(part._forward_pre_hooks.values()):
            for kind, (name, remove) in HOOKS.items():
                if isinstance(hook, kind):
                    remove(part, getattr(hook, name))
    return module


def _settle_parametrized(part: nn.Module) -> None:
    """Like `torch.nn.utils.parametrize.remove_parametrizations`, which would also remove the weight of copies: they
    share a class, in which the weight is a property."""
    lists = part.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    values = {name: getattr(part, name).detach().clone() for name in lists}
    trains = {name: [p.requires_grad for p in lists[name].parameters(recurse=False)] for name in lists}
    del part.parametrizations
    part.__class__ = type(part).__bases__[0]
    for name, value in values.items():
        if trains[name]:
            part.register_parameter(name, nn.Parameter(value, requires_grad=any(trains[name])))
        else:
            part.register_buffer(name, value)
