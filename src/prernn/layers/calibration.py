"""Brings gate inputs to a common scale, and outputs back to the CNN's, by fixed affine maps for each unit."""

import torch
from torch import Tensor, nn
from torch.types import Device


class Calibration(nn.Module):
    """``u' = scale u + shift`` for each gate and unit, before the recurrence; the two are buffers and not trained.

    Until `measure` is called it is the identity.

    Args:
        gates: number of gate inputs, 1 if all gates share one.
        size: hidden size ``D``.
    """

    scale: Tensor
    shift: Tensor
    measured: Tensor

    def __init__(self, gates: int, size: int, *, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.register_buffer("scale", torch.ones(gates, size, device=device, dtype=dtype))
        self.register_buffer("shift", torch.zeros(gates, size, device=device, dtype=dtype))
        self.register_buffer("measured", torch.zeros((), dtype=torch.uint8, device=device))

    def forward(self, u: Tensor) -> Tensor:
        """Calibrated gate inputs ``(N, G, D)``."""
        return u * self.scale + self.shift

    def measure(self, mean: Tensor, deviation: Tensor, gain: float) -> None:
        """Sets the map from inputs of ``mean (G, D)`` and ``deviation (G, 1)`` to mean 0 and deviation ``gain``."""
        self.scale.copy_(gain / deviation)
        self.shift.copy_(-mean * self.scale)
        self.measured.fill_(1)


class Restoration(nn.Module):
    """``y = scale h + shift`` after a recurrence: outputs at the scale of the features that the layer had in the CNN.

    It undoes what `Calibration` did to the gate that keeps the CNN's weights, so that the following layers, which were
    trained on those features, see them again. Until `measure` is called it is the identity.

    Args:
        size: hidden size ``D``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, size: int, *, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.register_buffer("scale", torch.ones(size, device=device, dtype=dtype))
        self.register_buffer("shift", torch.zeros(size, device=device, dtype=dtype))

    def forward(self, h: Tensor) -> Tensor:
        """Restored outputs ``(N, D)``."""
        return h * self.scale + self.shift

    def measure(self, mean: Tensor, deviation: Tensor, gain: float) -> None:
        """Sets the map from outputs of mean 0 and deviation ``gain`` to ``mean (D,)`` and ``deviation (1,)``."""
        self.scale.copy_(deviation / gain)
        self.shift.copy_(mean)
