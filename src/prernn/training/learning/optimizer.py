"""The optimizer for a way of learning."""

from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from prernn.training.learning.decay import decay_others, own_connections, selective
from prernn.training.learning.learning import Learning


def make_optimizer(groups: list[dict[str, Any]], module: nn.Module, learning: Learning) -> Optimizer:
    """SGD with momentum, or AdamW, with the requested weight decay.

    Args:
        groups: parameters with their rates, as made by `rate_groups`.
        module: the module with these parameters.
        learning: which optimizer, and what decays.
    """
    decay = learning.weight_decay
    if learning.selective_decay:
        groups = selective(groups, module, decay)
    optimizer: Optimizer
    if learning.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=learning.lr, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(groups, lr=learning.lr, momentum=learning.momentum, weight_decay=decay)
    if learning.selective_decay:
        decay_others(optimizer, own_connections(module), decay)
    return optimizer
