"""Costs of a stream besides the time of a frame: its recurrence, its memory, and both after very many frames."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prernn.conversion.network import gate_inputs, of_a_cnn
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines.opening import ENGINES, opened
from prernn.reports.progress import bars

PARTS = 10
"""Number of parts into which a long run is divided; the first, for warm-up, is excluded."""


def stepper(net: Any, frame: torch.Tensor) -> Callable[[], None]:
    """A step of a continuing stream."""
    state: list[Any] = [None]

    def step() -> None:
        _, state[0] = net.step(frame, state[0])

    return step


def recurrence(net: SequenceNetwork) -> Callable[[], Any]:
    """One step of a network's recurrent layer alone, from gate inputs on."""
    layer, (u,) = net.recurrent_layers[0], gate_inputs(of_a_cnn(net), tuple(net.frame_shape[1:]))
    given, state = torch.randn(1, *u.shape), layer.init_state(1)
    return lambda: layer.run(given, state)


def flatness(net: SequenceNetwork, engine: str, frames: int, size: int) -> list[dict[str, Any]]:
    """Time of a frame and memory of the process after the second tenth of very many frames, and after the last."""
    try:
        made = opened(net, engine)
        state: Any = None
        frame = torch.randn(1, 3, size, size)
        medians, memory = [], []
        with bars(transient=True) as progress:
            task = progress.add_task(f"{engine}, {frames} frames", total=PARTS, note="")
            for _ in range(PARTS):
                times = []
                for _ in range(max(1, frames // PARTS)):
                    begin = time.perf_counter()
                    _, state = made.step(frame, state)
                    times.append(time.perf_counter() - begin)
                medians.append(1000 * statistics.median(times))
                memory.append(resident())
                progress.advance(task)
    except ImportError:
        return []
    ends = {"second tenth, ms": f"{medians[1]:.3g}", "last tenth, ms": f"{medians[-1]:.3g}"}
    return [{"engine": engine, **ends, "MB then": f"{memory[1]:.1f}", "MB at the end": f"{memory[-1]:.1f}"}]


def resident() -> float:
    """Memory of this process, in MB; 0 if the system does not report it."""
    return _status("VmRSS") / 1e6


def most_memory() -> int:
    """The peak memory of this process in bytes."""
    if found := _status("VmHWM"):  # getrusage would include the peak inherited from the parent process
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(name: str) -> int:
    """A size in bytes that Linux reports for this process; 0 on other systems."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


CHILD = """
import sys, torch
from prernn.benchmarks.measuring.stream_costs import most_memory
from prernn.benchmarks.streaming import _network
from prernn.engines.opening import opened
name, size, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)  # the same network again
net = opened(_network(name), engine)
state, frame = None, torch.randn(1, 3, size, size)
with torch.inference_mode():
    for _ in range(20):
        _, state = net.step(frame, state)
print(most_memory())
"""


def peaks(name: str, size: int) -> list[dict[str, Any]]:
    """Peak memory of a process that creates a network and runs one engine; each process loads torch for the network.

    Each runs twice: the first time it must export the network, the second time it finds it in the cache.
    """
    lines = []
    for engine in ENGINES:
        command = [sys.executable, "-c", CHILD, name, str(size), engine]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            lines.append({"network": name, "engine": engine, "peak, MB": f"{int(done.stdout) / 1e6:.0f}"})
    return lines
