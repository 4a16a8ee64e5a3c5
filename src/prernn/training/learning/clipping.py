"""Limits gradients before a step."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Clipping:
    """Limits the gradient of everything that an optimizer trains.

    Attributes:
        limit: maximum norm of the gradient, or maximum magnitude of each of its numbers.
        by_value: the limit is for the numbers (Lightning's ``gradient_clip_algorithm: value``).
        each_group: the limit is for the norm in each parameter group separately.
    """

    limit: float = math.inf
    by_value: bool = False
    each_group: bool = False

    def __call__(self, optimizer: torch.optim.Optimizer) -> None:
        """Applies the limit; call it between backward and step."""
        groups = [group["params"] for group in optimizer.param_groups]
        together = list(itertools.chain(*groups))
        if self.by_value:
            nn.utils.clip_grad_value_(together, self.limit)
            return
        for parameters in groups if self.each_group else [together]:
            nn.utils.clip_grad_norm_(parameters, self.limit)
