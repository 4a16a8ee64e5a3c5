"""The engine "auto": the fastest that is installed and agrees with the network."""

import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines import kept
from prernn.engines.agreement import TOLERANCES, difference, noise
from prernn.engines.engine_network import EngineNetwork, in_steps
from prernn.engines.together import SharedNetwork
from prernn.engines.torch_engine import TorchNetwork

FRAMES = 4
"""Number of steps over which each engine is compared."""

SECONDS = 0.15
"""Seconds for which each engine is timed, at least three steps."""


Opened = EngineNetwork | TorchNetwork | SharedNetwork
"""A network that names the engine that computes its steps."""

Opener = Callable[[str], Opened]
"""The network in the named engine; raises NotImplementedError or ImportError if that can't run it."""


def fastest(
    net: SequenceNetwork, open_in: Opener, engines: Sequence[str], precision: str, threads: int | None
) -> Opened:
    """The network in the engine that is fastest for a frame, measured once per network and machine, then remembered.

    An engine that can't run the network, or whose results differ, is skipped with a warning.

    Raises:
        NotImplementedError: all are skipped.
    """
    asked = (precision, threads, torch.get_num_threads(), kept.processor(), *_versions())
    key = kept.fingerprint(net, *asked)
    known = kept.choices().get(key)
    if isinstance(known, dict) and known.get("engine") in engines:
        return open_in(known["engine"])
    video = noise(net, 1, FRAMES)
    expected = _outputs(net, video)
    found: dict[str, tuple[float, Opened]] = {}
    for engine in engines:
        try:
            candidate = open_in(engine)
            apart = difference(_outputs(candidate, video), expected)
        except (NotImplementedError, ImportError, ValueError, RuntimeError) as error:
            warnings.warn(f"engine {engine} is left out: {error}", RuntimeWarning, stacklevel=3)
            continue
        if apart > TOLERANCES[precision]:
            warnings.warn(
                f"engine {engine} is left out: its outputs differ by {apart:.2g}", RuntimeWarning, stacklevel=3
            )
            continue
        found[engine] = (_milliseconds(candidate, video[:, 0]), candidate)
    if not found:
        raise NotImplementedError(f"no engine here takes this network in {precision}")
    best = min(found, key=lambda engine: found[engine][0])
    kept.remember(key, {"engine": best, "milliseconds": {name: round(ms, 3) for name, (ms, _) in found.items()}})
    return found[best][1]


def _versions() -> list[str]:
    found = []
    for name in ("onnxruntime", "openvino"):
        try:
            found.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found.append("")
    return found


@torch.inference_mode()
def _outputs(net: SequenceNetwork, video: Tensor) -> Tensor:
    with evaluating(net):
        return in_steps(net, video, None)[0]


@torch.inference_mode()
def _milliseconds(net: SequenceNetwork, frame: Tensor) -> float:
    """Median time of a step."""
    _, state = net.step(frame)
    times: list[float] = []
    with evaluating(net):
        while len(times) < 3 or sum(times) < SECONDS:
            begin = time.perf_counter()
            _, state = net.step(frame, state)
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)
