"""Convolutions over time, causal and centered."""

import torch
from torch import Tensor, nn


class TimeConvolution(nn.Module):
    """A convolution over time and frequency; if it is causal, its past input is a state.

    ``stride[0]`` input moments give one output step. If causal, step t depends on the ``kernel[0]`` moments up to its
    own last one; if centered, half of the kernel is ahead.

    Example:
        >>> import torch
        >>> from prernn.models.networks.time_convolution import TimeConvolution
        >>> layer = TimeConvolution(1, 4, (5, 3), (2, 2), causal=True)
        >>> out, past = layer(torch.zeros(2, 1, 12, 9), layer.no_past(2, 9))
        >>> out.shape, past.shape
        (torch.Size([2, 4, 6, 5]), torch.Size([2, 1, 3, 9]))

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: moments and frequencies, odd numbers; the number of moments may be even if causal.
        stride: moments and frequencies, any numbers.
        causal: whether outputs don't depend on later moments.
        groups: as in torch.nn.Conv2d.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        *,
        causal: bool,
        groups: int = 1,
    ):
        super().__init__()
        padding = (0 if causal else kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.causal, self.stride = causal, stride[0]
        self.kept = kernel[0] - stride[0] if causal else 0

    def no_past(self, batch: int, frequencies: int) -> Tensor:
        """Zeros ``(B, C, kept, F)``, the past before the first moment."""
        return self.conv.weight.new_zeros(batch, self.conv.in_channels, self.kept, frequencies)

    def forward(self, x: Tensor, past: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps ``(B, C, stride*T, F)`` to ``(B, C', T, F')`` and the next past; ``lengths (B,)`` are in steps."""
        if not self.causal:
            out: Tensor = self.conv(x)
            return out, past
        x = torch.cat([past.to(x.dtype), x], 2)
        out = self.conv(x)
        if lengths is None:
            return out, x[:, :, x.shape[2] - self.kept :].clone()  # a view would keep all of x in memory
        moments = self.stride * lengths[:, None] + torch.arange(self.kept, device=x.device)  # (B, kept)
        return out, x[torch.arange(len(x), device=x.device)[:, None], :, moments].transpose(1, 2)
