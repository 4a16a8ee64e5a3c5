"""Modes of a network's modules: temporary evaluation mode or another forward, frozen statistics, memory format."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode within a block; modules that were in training mode return to it."""
    training = [module for module in net.modules() if module.training] if net.training else []
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def channels_last(module: nn.Module) -> nn.Module:
    """Gives the weights of convolutions the channels-last memory format, in place: faster, also on the CPU."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)
        elif isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)
    return module


def freeze_statistics(module: nn.Module) -> None:
    """Keeps batch normalization on its pre-computed statistics in training too (PreRNN, eqs. 6, 7 and 10), in place."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


@contextlib.contextmanager
def lent_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replaces modules' forward within a block."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward  # restores the class's own
