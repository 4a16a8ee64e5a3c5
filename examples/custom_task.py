"""A task of your own: how fast a disc moves. ``prernn`` learns and tests a number instead of a class.

    python examples/custom_task.py --trainer.max_epochs 12    # makes films, then ``prernn fit`` and ``prernn test``

A task says what is learned from which files: how to list and read them, the loss, and the metrics. Wherever prernn
accepts a task's name, it accepts ``file.py:Class``. No single frame shows a speed; two frames do.
"""

import json
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError

from prernn.commands.main import main as prernn
from prernn.tasks.task import Task

Film = namedtuple("Film", "path")
FIT = """--model.recipe.backbone_options {"width":8,"units":64,"size":32,"batch_norm":true,"dropout":0}
  --model.learning {"optimizer":"adamw","lr":3e-3,"pretrained_lr":3e-3,"frozen_statistics":false}
  --backbone small_vgg --data.num_workers 0 --trainer.max_epochs 12"""  # from random weights, all at one rate


class Error(MeanAbsoluteError):  # at the last frame, in pixels per frame
    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        super().update(out[:, -1], batch["speed"])

    def compute(self) -> dict[str, Tensor]:
        return {"error": super().compute()}


class Speed(Task):  # in pixels per frame, of films in NumPy files: no videos needed
    name, score, outputs = "speed", ("error", "min"), 1  # the best epoch has the least error
    metrics = Error

    def open(self, root: str | Path, spec: Any) -> None:
        self.root = Path(root)

    def records(self, subset: str) -> list[Film]:
        return [Film(str(path)) for path in sorted((self.root / subset).glob("*.npz"))]

    def read(self, record: Film, chance: Any, **how: Any) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in np.load(record.path).items()}

    def probe(self, record: Film) -> None:
        np.load(record.path)

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        return (out[:, 2:] - batch["speed"][:, None]).abs().mean()  # outputs (B, T, 1), from the third frame on


def make_films(folder: Path, count: int, chance: np.random.Generator, side: int = 32) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    time, down, across = np.mgrid[:8, :side, :side]  # (T, H, W) each
    for number, (x, y, speed) in enumerate(chance.uniform((0, 8, -3), (side, side - 8, 3), (count, 3))):
        disc = np.hypot((across - x - speed * time) % side - side / 2, down - y) < 6  # reappears on the other side
        frames, speed = np.float32(disc)[:, None].repeat(3, 1), np.float32([speed])  # (T, 3, H, W) and (1,)
        np.savez(folder / f"{number}.npz", input=frames, speed=speed)


def main() -> None:
    films, run, chance = Path("runs/discs"), Path("runs/speed"), np.random.default_rng(0)
    for subset, count in (("train", 240), ("test", 60)):
        make_films(films / subset, count, chance)
    where = ["--data.task", f"{__file__}:Speed", "--data.root", str(films), "--trainer.default_root_dir", str(run)]
    if prernn(["fit", *where, *FIT.split(), *sys.argv[1:]]) or prernn(["test", str(run)]):
        sys.exit(1)  # prernn has said why
    error = json.loads((run / "metrics.json").read_text())["error"]
    print(f"speeds between -3 and 3 pixels a frame are off by {error:.2f}; who always says 0 is off by 1.5")


if __name__ == "__main__":
    main()
