"""What has to work wherever prernn is installed: import, conversion, a stream, a drop-in, the command line.

python smoke.py          the wheel: with kernels
python smoke.py --pure   installed without a compiler: the same without them
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import prernn
from prernn import ops


def a_converted_cnn() -> None:
    """Frame by frame it gives what the whole video gives."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    cnn = nn.Sequential(*layers, nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    for cell, hidden in (("gru", "full"), ("lstm", "band:3"), ("vrnn", "diagonal")):
        net = prernn.convert(cnn, "4", cell=cell, hidden=hidden, image_size=(32, 32)).eval()
        video = torch.rand(2, 5, 3, 32, 32)
        whole, _ = net(video)
        state = None
        for time in range(5):
            out, state = net.step(video[:, time], state)
            torch.testing.assert_close(out, whole[:, time])


def a_drop_in() -> None:
    """A full LSTM is torch.nn's; a diagonal one learns."""
    theirs, ours = nn.LSTM(5, 7), prernn.LSTM(5, 7)
    ours.load_state_dict(theirs.state_dict())
    inputs = torch.rand(4, 2, 5)
    torch.testing.assert_close(ours(inputs)[0], theirs(inputs)[0])
    diagonal = prernn.LSTM(5, 7, hidden="diagonal")
    diagonal(inputs)[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in diagonal.parameters())


def the_command(pure: bool) -> None:
    """``prernn`` says its version, and which kernels there are."""
    command = str(Path(sys.executable).with_name("prernn"))
    said = [
        subprocess.run([command, word], capture_output=True, text=True, check=True).stdout
        for word in ("--version", "info")
    ]
    assert said[0].strip() == f"prernn {prernn.__version__}", said[0]
    assert prernn.__version__ in said[1], said[1]
    (line,) = [line for line in said[1].splitlines() if "kernels: native" in line]
    assert ("instructions" in line) != pure, line
    assert (ops.missing("native") is None) != pure
    print(said[0].strip(), line.strip(" │"), sep="; ")


if __name__ == "__main__":
    a_converted_cnn()
    a_drop_in()
    the_command("--pure" in sys.argv)
    print("smoke test passed")
