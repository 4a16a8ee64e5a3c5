"""Two convolutions over a spectrogram: the first layers of Deep Speech 2."""

from typing import cast

import torch
from torch import Tensor, nn

from prernn.layers.arguments import whole
from prernn.models.networks.time_convolution import TimeConvolution

WINDOWS = 2
"""Number of windows of sound in a step."""

CLAMP = 20.0
"""Upper limit of activations; the lower one is 0 (Hannun et al., "Deep Speech", 2014, section 2)."""


class Spectrogram(nn.Module):
    """Features of each step of a spectrogram, over time and frequency, to which `deep_speech` adds recurrent layers.

    Two convolutions of 11 x 41 and 11 x 21 windows and frequencies; the first takes every second window, both take
    every second frequency. Each has batch normalization and is clamped to [0, 20] (Amodei et al., "Deep Speech 2", ICML
    2016, section 3.4; sizes and channels are those of its successors).

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("spectrogram", features=81, filters=4, causal=True)
        >>> cnn(torch.rand(1, 10, 2, 81))[0].shape  # (B, T, C * F')
        torch.Size([1, 10, 84])

    Args:
        features: number of frequencies F in a window.
        filters: number of filters of both convolutions.
        causal: whether a step depends on nothing after its two windows; otherwise the convolutions, and the layers
            above them, see later windows too.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(self, features: int, filters: int = 32, causal: bool = False) -> None:
        super().__init__()
        whole("filters", filters)
        self.frame_shape = (WINDOWS, whole("features", features))
        self.causal = causal
        first = TimeConvolution(1, filters, (11, 41), (WINDOWS, 2), causal=causal)
        second = TimeConvolution(filters, filters, (11, 21), (1, 2), causal=causal)
        self.convolutions = nn.ModuleList([first, second])
        self.norms = nn.ModuleList([nn.BatchNorm1d(filters), nn.BatchNorm1d(filters)])
        self.size = filters * halved(halved(features))

    def no_past(self, batch: int) -> list[Tensor]:
        """The past of both convolutions at the start of a recording: zeros."""
        features = self.frame_shape[1]
        layers = [cast(TimeConvolution, layer) for layer in self.convolutions]
        return [layer.no_past(batch, size) for layer, size in zip(layers, (features, halved(features)), strict=True)]

    def forward(
        self, windows: Tensor, past: list[Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Maps ``(B, T, 2, F)`` to features ``(B, T, C * F')`` and the past for the next call.

        Args:
            windows: the spectrogram, T steps of two windows.
            past: as returned before; None at the start of a recording.
            lengths: steps of each sequence ``(B,)``, after which windows are ignored; None means all steps.
        """
        past = self.no_past(len(windows)) if past is None else past
        if lengths is not None:
            windows = windows.masked_fill(~valid(lengths, windows.shape[1])[:, :, None, None], 0)
        x, following = windows.flatten(1, 2).unsqueeze(1), []  # (B, 1, 2T, F)
        for layer, norm, before in zip(self.convolutions, self.norms, past, strict=True):
            x, after = layer(x, before, lengths)
            steps = normalized(norm, x.transpose(1, 2), lengths)  # (B, T, C, F)
            x = steps.clamp(0.0, CLAMP).transpose(1, 2)
            if lengths is not None:
                x = x.masked_fill(~valid(lengths, x.shape[2])[:, None, :, None], 0)
            following.append(after)
        return x.transpose(1, 2).flatten(2), following


def halved(frequencies: int) -> int:
    """The number of frequencies after a convolution that takes every second one."""
    return (frequencies + 1) // 2


def valid(lengths: Tensor, steps: int) -> Tensor:
    """A mask ``(B, T)`` that is True up to each sequence's end."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def normalized(norm: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Batch normalization of steps ``(B, T, C...)`` that ignores those after ``lengths``."""
    if lengths is None or not norm.training:
        out: Tensor = norm(x.flatten(0, 1))
        return out.unflatten(0, x.shape[:2])
    here = valid(lengths, x.shape[1])
    steps = norm(x[here])
    return torch.zeros(x.shape, dtype=steps.dtype, device=x.device).masked_scatter(
        here.view(*here.shape, *[1] * (x.ndim - 2)), steps
    )
