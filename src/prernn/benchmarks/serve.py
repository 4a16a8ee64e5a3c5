"""How many live streams a server can handle on this machine, and what hostile clients can do to them.

Cameras send JPEG frames of 320 x 240 at their rate, whether answers come or not, from a separate process, which takes
its share of the machine; ``prernn serve`` is another process. Each camera compares all its answers with those of a
single stream that sees the frames that were answered. A number of streams holds if nothing is dropped and 99 of 100
answers come within two frames. Then as many run, in turn, alone and beside clients that send garbage, pictures of 100
megapixels, half a message, nothing, or that come and go; these run in a process of the lowest priority, because
elsewhere they would have a computer of their own. Of these rounds the times are medians, and frames are added up.
Networks have random weights.
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.serving_load import Camera, apart, load, pictures_of, serving
from prernn.conversion.calibration import calibrate
from prernn.conversion.convert import convert
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.models import checkpoint
from prernn.models.backbones import backbone
from prernn.reports.files import write_table
from prernn.serving.messages.pictures import picture
from prernn.streaming.stream import Stream

LABELS = 10

TOLERANCE = 2e-3
"""Tolerance of a probability, between a step of several streams in an engine and one in torch, rounded to 4 digits."""


def run(options: argparse.Namespace) -> None:
    """Writes ``serve.csv`` and ``serve.md``.

    Raises:
        ValueError: the networks' answers to different cameras are too similar to detect mix-ups.
    """
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress, tempfile.TemporaryDirectory() as folder:
        work = [(name, size) for name in options.backbones for size in options.sizes]
        for name, size in progress.track(work, description="networks"):
            lines += _of_network(name, size, Path(folder), options)
            write_table(out / "serve.csv", lines)
    title = f"{options.fps:g} frames a second for {options.seconds:g} s, engine {options.engine}, {options.precision}"
    report.show([report.machine("cpu"), report.table(title, lines, list(lines[0])[:4])], out / "serve.md")
    print(f"written to {out}")


def _of_network(name: str, size: int, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    path, stream = _network(name, size, folder)
    lines, most = [], 0
    computing = ["--engine", options.engine, "--precision", options.precision]
    with serving(str(path), *computing) as url:
        load(url, _cameras(1, options), options.fps, 2.0, 0)  # warm
        for count in options.streams:
            lines.append({"network": name, "pixels": size} | _measured(url, stream, count, 0, options))
            if not lines[-1]["holds"]:
                break
            most = count
        if most and options.hostile:
            lines += [{"network": name, "pixels": size} | line for line in _beside(url, stream, most, options)]
    return lines


def _beside(url: str, stream: Stream, count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Cameras alone and beside hostile clients, in turn, because the machine's own speed changes with time."""
    rounds: dict[int, list[dict[str, Any]]] = {0: [], max(1, round(count * options.hostile)): []}
    for _ in range(options.rounds):
        for hostile, measured in rounds.items():
            measured.append(_measured(url, stream, count, hostile, options))
    return [_together(measured) for measured in rounds.values()]


def _together(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Rounds as one line: medians of times, sums of frames."""
    times = {name: round(float(np.median([line[name] for line in rounds])), 1) for name in ("p50_ms", "p99_ms")}
    sums = {name: sum(line[name] for line in rounds) for name in ("answers", "dropped", "lost", "wrong")}
    return rounds[0] | times | sums | {"holds": all(line["holds"] for line in rounds)}


def _network(name: str, size: int, folder: Path) -> tuple[Path, Stream]:
    """A network with outputs that differ from stream to stream, in a file, and a single stream through it."""
    torch.manual_seed(0)
    transform = TransformSpec(size)
    frames = [picture(data, None, 10**9) for number in range(16) for data in pictures_of(number, 1)]
    batch = torch.stack([frame_transform(transform)(frame) for frame in frames])
    cnn = _with_statistics(backbone(name), batch)
    net = convert(cnn, cell="gru", input="single", hidden="diagonal", outputs=LABELS).eval()
    net = calibrate(net, [batch[:, None]], gain=1.0).eval()
    with torch.no_grad():
        [part for part in net.modules() if isinstance(part, nn.Linear)][-1].weight.mul_(8)  # makes it confident
    net.recipe = replace(net.recipe, transform=asdict(transform), labels=[str(label) for label in range(LABELS)])
    path = folder / f"{name}-{size}.safetensors"
    checkpoint.save(net, path)
    return path, Stream(net)


@torch.no_grad()
def _with_statistics(cnn: nn.Module, batch: torch.Tensor) -> nn.Module:
    """A CNN with its own batch statistics: with random weights and default ones, all pictures would look the same."""
    for part in cnn.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the plain mean
    cnn.train()
    cnn(batch)
    return cnn.eval()


def _cameras(count: int, options: argparse.Namespace) -> list[Camera]:
    return [Camera(pictures_of(number, 30)) for number in range(count)]


def _measured(url: str, stream: Stream, count: int, hostile: int, options: argparse.Namespace) -> dict[str, Any]:
    cameras = _cameras(count, options)
    if count > 1 and (least := apart(stream, cameras)) < 3 * TOLERANCE:
        raise ValueError(f"expected answers to different cameras to differ by {3 * TOLERANCE}, got {least:.2g}")
    load(url, cameras, options.fps, options.seconds, hostile)
    waited = np.array([seconds for camera in cameras for seconds in camera.latencies()])
    dropped = sum(camera.end["dropped"] for camera in cameras)
    lost = sum(len(camera.sent) - len(camera.heard) - camera.end["dropped"] for camera in cameras)
    wrong = 0
    for camera in cameras:
        stream.reset()
        wrong += camera.wrong(stream, TOLERANCE)
    half, most = np.quantile(waited, 0.5), np.quantile(waited, 0.99)
    answers = {"answers": len(waited), "dropped": dropped, "lost": lost, "wrong": wrong}
    times = {"p50_ms": round(1e3 * half, 1), "p99_ms": round(1e3 * most, 1)}
    return {
        "streams": count,
        "hostile": hostile,
        **times,
        **answers,
        "holds": dropped + lost + wrong == 0 and most <= 2 / options.fps,
    }
