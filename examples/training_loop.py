"""Makes the CNN in an existing training loop of plain torch recurrent: one line more, and one less in the loop.

    python examples/training_loop.py

Squares move to the left or to the right, in front of noise. No single frame says which way, so the CNN alone can only
guess. Once its first fully connected layer is a GRU layer, the same loop learns it.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prernn

FRAMES, SIDE = 8, 32


def moving_squares(count: int) -> TensorDataset:
    """Videos ``(N, T, 3, H, W)`` and which way they go ``(N,)``: 0 to the left, 1 to the right."""
    label = torch.randint(2, (count,))
    begin, down = torch.randint(SIDE, (count,)), torch.randint(SIDE - 8, (count,))
    video = 0.3 * torch.rand(count, FRAMES, 3, SIDE, SIDE)
    for n, t in itertools.product(range(count), range(FRAMES)):
        x = int(begin[n] + (2 * label[n] - 1) * 3 * t)
        across = torch.arange(x, x + 8) % SIDE  # squares reappear on the other side: no place tells the way
        video[n, t, :, down[n] : down[n] + 8, across] += 0.6
    return TensorDataset(video, label)


def small_cnn() -> nn.Sequential:
    """Any CNN that you have; here one with two convolutions and random weights."""
    convolutions = [nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1)]
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 2))


def train(outputs: Callable[[Tensor], Tensor], net: nn.Module, epochs: int) -> float:
    """The loop as it was: ``outputs`` turns videos into ``(B, T, K)``; returns the accuracy on new videos."""
    loader = DataLoader(moving_squares(512), batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for video, label in loader:
            late = outputs(video)[:, FRAMES // 2 :]  # the first frames can't tell: no loss there
            loss = F.cross_entropy(late.flatten(0, 1), label.repeat_interleave(late.shape[1]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    with torch.inference_mode():
        video, label = moving_squares(256).tensors
        return float((outputs(video)[:, -1].argmax(-1) == label).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.manual_seed(0)

    # before: time is folded into the batch, and every frame is judged by itself
    cnn = small_cnn()
    before = train(lambda video: cnn(video.flatten(0, 1)).unflatten(0, video.shape[:2]), cnn, options.epochs)

    # after: the first fc layer is a GRU layer, and the network takes videos
    net = prernn.convert(small_cnn(), "5", cell="gru", input="single", image_size=(SIDE, SIDE))
    after = train(lambda video: net(video)[0], net, options.epochs)

    print(f"frame by frame: {before:.0%} right")
    print(f"recurrent:      {after:.0%} right, with {prernn.recurrent_parameters(net).introduced:,} new weights")


if __name__ == "__main__":
    main()
