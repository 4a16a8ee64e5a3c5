"""Gate inputs brought to one scale, and outputs back to the CNN's, by affine maps of each unit that do not train."""

import torch
from torch import Tensor, nn
from torch.types import Device


class Calibration(nn.Module):
    """``u' = scale u + shift`` for each gate and unit, in front of the recurrence: buffers, which nothing trains.

    Until it is measured it changes nothing.

    Args:
        gates: of the inputs, 1 where all gates share one.
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
        """Gate inputs ``(N, G, D)``."""
        return u * self.scale + self.shift

    def measure(self, mean: Tensor, deviation: Tensor, gain: float) -> None:
        """Makes inputs of means ``(G, D)`` and a standard deviation a gate ``(G, 1)`` ones of mean 0 and ``gain``."""
        self.scale.copy_(gain / deviation)
        self.shift.copy_(-mean * self.scale)
        self.measured.fill_(1)


class Restoration(nn.Module):
    """``y = scale h + shift`` behind a recurrence: outputs at the scale of the features that its layer gave in the CNN.

    What `Calibration` did to the gate that keeps the CNN's weights is undone, so that the layers behind, which were
    trained for those features, find them. Until it is measured it changes nothing.

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
        """Outputs ``(N, D)``."""
        return h * self.scale + self.shift

    def measure(self, mean: Tensor, deviation: Tensor, gain: float) -> None:
        """Makes outputs of mean 0 and deviation ``gain`` ones of means ``(D,)`` and a standard deviation ``(1,)``."""
        self.scale.copy_(deviation / gain)
        self.shift.copy_(mean)
