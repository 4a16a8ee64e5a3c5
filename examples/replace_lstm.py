"""Replaces `torch.nn.LSTM` by `prernn.LSTM`: first with the same weights and answers, then with a sparse recurrence.

    python examples/replace_lstm.py

The networks predict a noisy sum of sine waves step by step. First, a trained `torch.nn.LSTM` is replaced as it is. Then
networks with fewer recurrent weights are trained in the same way (docs/speed.md says how much time these save).
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prernn

UNITS, STEPS = 64, 80


class Forecast(nn.Module):
    """The next value of a series ``(T, B, 1)``, at each step."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.output = nn.Linear(UNITS, 1)

    def forward(self, series: Tensor) -> Tensor:
        return self.output(self.layer(series)[0])


def waves(count: int) -> Tensor:
    """Series ``(T + 1, B, 1)``, each a sum of two sines with its own rates and phases, and some noise."""
    time = torch.arange(STEPS + 1.0)[:, None, None]
    rate, phase = torch.rand(2, 1, count, 2) * torch.tensor([0.4, 6.28])[:, None, None, None]
    return (torch.sin((0.1 + rate) * time + phase)).sum(-1, keepdim=True) / 2 + 0.05 * torch.randn(STEPS + 1, count, 1)


def train(model: Forecast, steps: int) -> float:
    """Trains it, and returns its root mean square error on the second half of new series."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        series = waves(32)
        loss = F.mse_loss(model(series[:-1]), series[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return error_of(model, waves(256))


@torch.inference_mode()
def error_of(model: nn.Module, series: Tensor) -> float:
    return float((model(series[:-1]) - series[1:])[STEPS // 2 :].square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    theirs = Forecast(nn.LSTM(1, UNITS))
    print(f"torch.nn.LSTM              error {train(theirs, steps):.3f}, {4 * UNITS**2:,} recurrent weights")

    # A trained model is moved over with its state_dict: names, shapes and the order of the gates are torch's.
    ours = Forecast(prernn.LSTM(1, UNITS))
    ours.load_state_dict(theirs.state_dict())
    series = waves(8)
    apart = float((ours(series) - theirs(series)).abs().max())
    print(f"prernn.LSTM, same weights  outputs differ by {apart:.0g} at most")

    for hidden in ("band:9", "diagonal"):
        model = Forecast(prernn.LSTM(1, UNITS, hidden=hidden))
        error, weights = train(model, steps), 4 * prernn.hidden_structure(hidden).weight_count(UNITS)
        print(f"prernn.LSTM, {hidden:<13} error {error:.3f}, {weights:,} recurrent weights")
    print(f"as if nothing changed      error {error_of(nn.Identity(), waves(256)):.3f}")


if __name__ == "__main__":
    main()
