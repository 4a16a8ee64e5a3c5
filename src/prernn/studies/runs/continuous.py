"""``prernn test RUN --continuous``: the test videos as one stream, never reset, compared with the usual test."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from prernn.conversion.clip_network import frames_a_step
from prernn.conversion.graph.trunk import inputs_of, split
from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import RecurrentNetwork, of_a_cnn
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.models import checkpoint
from prernn.reports.files import say_written, without_nan, write_json, write_table
from prernn.reports.plots.curves import lines
from prernn.reports.progress import bars
from prernn.reports.tables import print_whole
from prernn.studies.runs.reset_policies import NEVER, Pictured, best_policy, candidates, evaluate_policy
from prernn.studies.runs.videos import own_videos
from prernn.tasks import restore
from prernn.tasks.task import Task
from prernn.training.evaluation import scalars
from prernn.training.frozen_trunk.features import cached, inputs_in
from prernn.training.frozen_trunk.judge import judge
from prernn.training.frozen_trunk.learner import Items, Learner, learner
from prernn.training.live import at_rate, evaluate_live, random_orders, stand_still, through_clock
from prernn.training.run.run_files import read_metrics, run_folder_of, write_recipe

RATES = (0.5, 1.0, 2.0, 3.0)
"""Frame rates, as multiples of the rate at which the videos are tested."""

ORDERS = 5
"""Number of random orders of the test videos."""

STILL = 10_000
"""Number of frames for which a picture stands still."""

FILE = "continuous.json"


def run_continuously(
    run: str | Path,
    out: str | Path | None = None,
    *,
    orders: int = ORDERS,
    rates: Sequence[float] | None = None,
    still: int = STILL,
    seed: int = 0,
) -> dict[str, Any]:
    """Tests a run with resets, as trained networks are tested, and live; prints a table and writes the results.

    Live takes all frames as they come. If the network has a rate, "live, clock" is the result of its stream on a faster
    or slower camera. The reset policy that does best is written into the run's network, and used by its streams.

    Args:
        run: run folder or checkpoint, of any task whose run says where its test videos are.
        out: folder for ``continuous.json``, ``continuous.csv`` and ``continuous.png``; nothing is then changed in the
            run. None is the run's own folder, whose ``metrics.json`` gets the live metrics too, under ``live``.
        orders: number of random orders of the test videos; the metrics are over all of them.
        rates: frame rates, as multiples of the rate tested at: at 2 every frame is shown twice, at 0.5 every second one
            is left out. None takes `RATES`; a network over snippets, which join several frames, is tested only at 1.
        still: number of frames for which a picture, and a black one, stand still.
        seed: seed of the orders.

    Raises:
        ValueError: a run that can't be read, numbers below 1, no rate above 0.
        NotImplementedError: a network of whole clips, a run without its data, other rates for a network over snippets.
    """
    if orders < 1 or still < 1 or (rates is not None and (not rates or min(rates) <= 0)):
        raise ValueError(f"expected orders, rates and still of at least 1, got {orders}, {rates}, {still}")
    begun, path = time.time(), Path(run)
    net, folder = of_a_cnn(checkpoint.load(path)), run_folder_of(path)
    task, snippet = restore(net.recipe), frames_a_step(net)
    rates = _rates_for(snippet, rates)
    channels_last(net.eval())
    with evaluating(net), bars() as progress:
        trunk, part, items = _behind_the_trunk(net, own_videos(folder, net).dataset, progress)
        policies = candidates(items, snippet)
        bar = progress.add_task("as one stream", total=3 * len(rates) + len(policies) + 2, note="")
        shown = partial(progress.advance, bar)
        found: dict[str, Any] = {"videos": len(items), "orders": orders, "seed": seed, "rates": {}}
        for rate in rates:
            clock = net.recipe.rate is not None
            found["rates"][f"{rate:g}"] = every_way(part, task, items, rate, orders, seed, clock=clock, shown=shown)
        found["resets"] = {}
        for text in policies:
            numbers = random_orders(len(items), orders, seed)
            values = evaluate_policy(part.advance, task.metrics(), items, numbers, text, snippet)
            found["resets"][text] = float(values[task.score[0]])
            shown()
        found["still"] = _still(part, items, _black(net, trunk, items[0]), still, shown) if snippet == 1 else {}
    found["reset"] = best_policy(found["resets"], task)
    target = Path(out or folder)
    _write(found, target, task)
    print_whole(table(found, task))
    if out is None:
        _note_live(folder, found)
        _note_reset(net, path, found)
    say_written(target, begun)
    return found


def _rates_for(snippet: int, rates: Sequence[float] | None) -> Sequence[float]:
    """The rates at which a network can be tested."""
    if snippet == 1:
        return RATES if rates is None else rates
    if rates is not None and list(rates) != [1.0]:
        raise NotImplementedError(
            f"expected rate 1 for a network over snippets of {snippet} frames, which other rates would fill with other "
            f"frames, got {rates}"
        )
    return (1.0,)


def every_way(
    part: Learner, task: Task, items: Items, rate: float, orders: int, seed: int, *, clock: bool, shown: Any
) -> dict[str, dict[str, float]]:
    """Scalar metrics from a camera at a given rate: ``reset`` before each item, ``live`` through all of them in random
    orders, and ``live, clock`` through a stream's clock."""
    at = [at_rate(item, rate) for item in items]
    numbers = random_orders(len(items), orders, seed)
    values: dict[str, Mapping[str, Tensor]] = {}
    values["reset"] = judge(part, task, at)
    shown()
    values["live"] = evaluate_live(part.advance, task.metrics(), at, numbers)
    shown()
    if clock:
        paced = [through_clock(item, rate) for item in items]
        values["live, clock"] = evaluate_live(part.advance, task.metrics(), paced, numbers)
    shown()
    return {way: scalars(metrics) for way, metrics in values.items()}


def _behind_the_trunk(net: RecurrentNetwork, dataset: Any, progress: Any) -> tuple[Any, Learner, Items]:
    """The trunk, None without recurrence; the part behind it; its outputs for each video, once for all orders."""
    if net.recipe.transform and not net.recipe.transform.get("flow") and len(net.frame_shape) == 3:
        dataset = Pictured(dataset, TransformSpec.from_dict(net.recipe.transform))
    trunk = split(net)[0] if net.recurrent_layers else None
    part = learner(net, inputs_of(net) if net.recurrent_layers else None)
    bar = progress.add_task("test videos", total=len(dataset), note="")
    items = cached(trunk, dataset, advance=lambda: progress.advance(bar))
    if not items:
        raise ValueError("expected test videos that can be read, got none")
    return trunk, part, items


def _still(
    part: Learner, items: Items, black: dict[str, Any] | None, frames: int, shown: Any
) -> dict[str, dict[str, float]]:
    """What happens while the last picture of the first video stands still, and while it is black."""
    found = {"picture": stand_still(part.advance, items[0], frames)}
    shown()
    if black is not None:
        found["black"] = stand_still(part.advance, black, frames)
    shown()
    return found


def _black(net: RecurrentNetwork, trunk: Any, item: dict[str, Any]) -> dict[str, Any] | None:
    """The item with a black picture after its trunk at every step; None if the network does not see plain pictures."""
    spec = net.recipe.transform
    if not spec or spec.get("flow") or len(net.frame_shape) != 3 or trunk is None:
        return None
    dark = frame_transform(TransformSpec.from_dict(spec))(torch.zeros(64, 64, 3, dtype=torch.uint8))
    with torch.inference_mode():
        values = trunk(dark[None])
    pairs = zip(inputs_in(item), values, strict=True)
    return {**item, **{name: value.expand(len(item["input"]), *value.shape[1:]) for name, value in pairs}}


def table(found: dict[str, Any], task: Task) -> Table:
    """Reset and live side by side, at the videos' own rate and others."""
    title = f"{task.name}: state reset before each of {found['videos']} videos, and never (live)"
    shown = Table(title=title)
    shown.add_column("", no_wrap=True)
    columns = {
        f"{way}, rate {rate}": metrics for rate, values in found["rates"].items() for way, metrics in values.items()
    }
    for name in columns:
        shown.add_column(name, justify="right")
    for name in next(iter(columns.values())):
        shown.add_row(name, *(f"{values[name]:.3f}" for values in columns.values()))
    for picture, values in found["still"].items():
        what = (
            f"{values['changes']:g} changes of the answer" if task.labels else f"outputs drift by {values['drift']:.3g}"
        )
        text = f"{picture} for a long time: {what}"
        shown.caption = f"{shown.caption}; {text}" if shown.caption else text
    scores = ", ".join(f"{text} {score:.3f}" for text, score in found["resets"].items())
    shown.caption = f"{shown.caption}; live {task.score[0]} by reset policy: {scores}; best: {found['reset']}"
    return shown


def _write(found: dict[str, Any], target: Path, task: Task) -> None:
    write_json(target / FILE, without_nan(found))
    rows = [
        {"rate": rate, "metric": name, **{way: metrics[name] for way, metrics in values.items()}}
        for rate, values in found["rates"].items()
        for name in values["reset"]
    ]
    write_table(target / "continuous.csv", rows)
    ways = next(iter(found["rates"].values()))
    known = ways["reset"]
    panels = {
        name.replace("_", " "): {
            way: [(float(rate), values[way][name], 0.0) for rate, values in found["rates"].items()] for way in ways
        }
        for name in dict.fromkeys((task.score[0], "late_accuracy", "frame_accuracy"))
        if name in known
    }
    lines(
        panels,
        target / "continuous.png",
        along="frames a second, in parts of the test's",
        title=f"{task.name}: state reset before each video, and never",
    )


def _note_live(folder: Path, found: dict[str, Any]) -> None:
    """Writes the live metrics into the run's ``metrics.json``, beside those of the usual test."""
    path = folder / "metrics.json"
    read_metrics(path)  # reports what is wrong with it
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**values, "live": without_nan(found["rates"].get("1", {}).get("live", {}))})


def _note_reset(net: RecurrentNetwork, path: Path, found: dict[str, Any]) -> None:
    """Writes the policy with the best result into the run's checkpoints."""
    if (net.recipe.reset or NEVER) != found["reset"]:
        write_recipe(path, replace(net.recipe, reset=found["reset"]))
        print(f"reset: {found['reset']}, written into {path}, whose streams take it")
