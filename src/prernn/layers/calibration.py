"""Gate inputs brought to one scale, by an affine map of each unit that does not train."""

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
        """Makes inputs of these means and standard deviations ``(G, D)`` ones of mean 0 and deviation ``gain``."""
        self.scale.copy_(gain / deviation)
        self.shift.copy_(-mean * self.scale)
        self.measured.fill_(1)
