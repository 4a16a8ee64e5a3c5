"""How much the points of a face tremble, lag and err: frame by frame, with a One-Euro filter, and recurrent.

One picture of each video is moved along a known path with a camera's noise (`prernn.tasks.face.moving`): pictures of
training people to learn from, of test people to evaluate on. The convolutions of a frame-wise network are frozen; the
part behind them is trained in the same way for each network, in rows whose states carry over. Every network's points
then go through the same filters: once in a fixed box around the initial face, once as a stream, whose box follows the
face.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from prernn.benchmarks.measuring import report
from prernn.benchmarks.measuring.faces import streams
from prernn.benchmarks.measuring.faces.figures import Points, at_equal_lag, draw, with_filters
from prernn.benchmarks.measuring.timing import threads
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.conversion.network import RecurrentNetwork
from prernn.models.backbones import input_spec
from prernn.models.from_config import NetworkSpec
from prernn.reports.files import write_table
from prernn.tasks.face.errors import landmarks_in_pixels
from prernn.tasks.face.landmarks import OUTPUTS
from prernn.tasks.face.moving import Moving
from prernn.tasks.face.task import Face
from prernn.training.continuity import Continuity
from prernn.training.dataset import VideoDataset
from prernn.training.evaluation import in_batches
from prernn.training.frozen_trunk.epochs import epochs_of
from prernn.training.frozen_trunk.features import cached
from prernn.training.frozen_trunk.learner import TEST_BATCH, Items, calibrate_behind, learner, sgd
from prernn.training.frozen_trunk.train import train

CONTINUITY = Continuity(clips=2, carry=True, reset=0.3, onset=0.0)
"""Rows of two faces whose states carry over, a third of them reset each time: a stream is reset with each face."""

UNTRAINED = "frame-wise CNN, as it came"


@dataclass(frozen=True)
class Contestant:
    """A network, and the weight of motion in its loss; None trains nothing."""

    name: str
    changes: dict[str, Any]
    motion_weight: float | None = 0.0


FRAMEWISE: dict[str, Any] = {"method": "framewise"}
PREGRU: dict[str, Any] = {"method": "prernn", "cell": "gru", "layer": "fc6", "keep_activation": True, "calibrate": True}


PREVRNN: dict[str, Any] = {"method": "prernn", "cell": "vrnn", "layer": "fc6", "start": "cnn"}
"""It starts as the frame-wise network from which it is made."""


def contestants(motion_weight: float) -> list[Contestant]:
    """The networks of the table."""
    single = {**PREGRU, "input": "single"}
    stacked = {"method": "traditional", "cell": "gru"}
    motion = f", motion {motion_weight:g}"
    return [
        Contestant(UNTRAINED, FRAMEWISE, None),
        Contestant("frame-wise CNN", FRAMEWISE),
        Contestant("frame-wise CNN" + motion, FRAMEWISE, motion_weight),
        Contestant("PreGRU-SIH", single),
        Contestant("PreGRU-SIH" + motion, single, motion_weight),
        Contestant("PreVRNN", PREVRNN),
        Contestant("PreVRNN" + motion, PREVRNN, motion_weight),
        Contestant("PreGRU" + motion, {**PREGRU, "input": "gate"}, motion_weight),
        Contestant("traditional GRU" + motion, stacked, motion_weight),
    ]


def run(options: argparse.Namespace) -> None:
    """Trains and measures networks; writes ``faces.csv``, ``faces.md``, ``faces.png`` and, with a clip, ``clip.csv``.

    Raises:
        ValueError: numbers below 1, data or weights that can't be read.
    """
    if min(options.epochs, options.passes, options.frames, options.faces, options.threads) < 1:
        raise ValueError("expected --epochs, --passes, --frames, --faces and --threads of at least 1")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in contestants(options.motion_weight) if _wanted(each.name, options.only)]
    if not chosen:
        raise ValueError(f"--only: expected part of a network's name, got {' '.join(options.only)}")
    found, clip = [], []
    with threads(options.threads), Progress(console=Console(stderr=True), transient=True) as progress:
        spec = _start(options.backbone, options.weights)
        trunk, at = _trunk(spec)
        task, test = _task(options, options.train_frames), _task(options, options.frames)
        learned = _items(task, "train", trunk, options.passes, progress)
        judged = _items(test, "test", trunk, 1, progress)
        for each in progress.track(chosen, description="networks"):
            net = _trained(each, spec, at, task, learned, options)
            print(f"{each.name}: trained", flush=True)
            net.recipe = test.noted(net.recipe)
            fixed = _points(net, at, judged)
            streamed, lost = streams.follow(net, test, options.faces)
            for way, points, share in (("fixed box", fixed, ""), ("stream", streamed, lost)):
                found += [{"network": each.name, "box": way, **row, "lost": share} for row in with_filters(points)]
            if options.clip:
                clip.append({"network": each.name, **streams.of_a_clip(net, options.clip)})
                write_table(out / "clip.csv", clip)
            write_table(out / "faces.csv", found)  # an interrupted run leaves its results so far
    _report(found, clip, out)


def _wanted(name: str, parts: Sequence[str]) -> bool:
    return not parts or any(part in name for part in parts)


STARTS: dict[str, dict[str, Any]] = {
    "small_vgg": {"width": 16, "units": 512, "size": 64, "classes": OUTPUTS},
    "face_landmarks": {"classes": OUTPUTS},
}
"""Options of each possible initial network; all have a layer fc6."""


def _start(backbone: str, weights: str) -> NetworkSpec:
    """The frame-wise network from whose weights all start, including its output layer."""
    return NetworkSpec(backbone, backbone_options=STARTS[backbone], weights=weights, layer="fc6")


def _trunk(spec: NetworkSpec) -> tuple[Callable[[Tensor], tuple[Tensor, ...]], list[str]]:
    """The part that does not train, everything before fc6; and the value with which it ends."""
    at = inputs_of(replace(spec, **PREGRU).build())
    return split(replace(spec, **FRAMEWISE).build().eval(), at)[0].eval(), at


def _task(options: argparse.Namespace, frames: int) -> Face:
    moving = Moving(frames=frames, noise=options.noise)
    spec = input_spec(options.backbone)
    task = Face(base=options.base, box="first", moving=moving, size=STARTS[options.backbone].get("size", spec["size"]))
    task.open(options.root, spec)
    return task


def _items(task: Face, subset: Any, trunk: Any, passes: int, progress: Progress) -> Items:
    dataset = VideoDataset(task, task.records(subset), train=subset == "train")
    bar = progress.add_task(f"{subset} faces", total=passes * len(dataset))
    return cached(trunk, dataset, passes=passes, advance=lambda: progress.advance(bar))


def _trained(
    contestant: Contestant, spec: NetworkSpec, at: list[str], task: Face, items: Items, options: argparse.Namespace
) -> RecurrentNetwork:
    """A network trained on the items, in the same way as all others."""
    torch.manual_seed(options.seed)
    net = replace(spec, **contestant.changes).build(OUTPUTS if contestant.changes["method"] == "traditional" else None)
    if contestant.motion_weight is None:
        return net.eval()
    task = replace(task, motion_weight=contestant.motion_weight)
    learns = learner(net, at)
    calibrate_behind(net, learns, items)
    epochs, steps = epochs_of(items, task, CONTINUITY, options.batch_size, options.seed, options.epochs)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd(learns, options.rate), steps)
    history, _ = train(learns, task, epochs, items[:TEST_BATCH], schedule, continuity=CONTINUITY)
    print(f"{contestant.name}: loss {history['train loss'][0]:.4f} to {history['train loss'][-1]:.4f}", flush=True)
    return net.eval()


@torch.inference_mode()
def _points(net: RecurrentNetwork, at: list[str], items: Items) -> Points:
    """Points of the items in their fixed boxes."""
    learns, parts = learner(net, at), []
    learns.part.eval()
    for batch in in_batches(items, TEST_BATCH):
        boxes = batch["boxes"]
        pixels = landmarks_in_pixels(learns.forward(batch).float(), batch)
        parts.append(Points(pixels, batch["truth"], batch["time"], boxes[..., 2] - boxes[..., 0]))
    return Points(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _report(found: list[dict[str, Any]], clip: list[dict[str, Any]], out: Path) -> None:
    """Prints and writes the tables and the picture."""
    plain = [row for row in found if row["min_cutoff"] == ""]
    shown = [report.table("Without a filter", [_rounded(row) for row in plain], ("network", "box"))]
    equal = [row for way in ("fixed box", "stream") for row in at_equal_lag([r for r in found if r["box"] == way])]
    if equal:
        shown.append(report.table("At equal lag", [_rounded(row) for row in equal], ("network", "box")))
    if clip:
        shown.append(report.table("On the clip", [_rounded(row) for row in clip], ("network",)))
    draw(found, out / "faces.png")
    report.show([report.machine("cpu"), *shown], out / "faces.md")
    print(f"written to {out}")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
