"""Clip classification (one label for a video): data sets, batching, loss and scores.

A data set is a list of `Clip` records; `class_folder` and `ucf101` make that list from files on disk.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from prernn.transforms import Sampling, sample_indices
from prernn.video import IMAGE_SUFFIXES, VideoError, probe, read_clip

VIDEO_SUFFIXES = {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
VIDEO_SUFFIXES |= {".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
SPLIT_FOLDERS = ("train", "val", "test")


class Clip(NamedTuple):
    """One labelled video: a file or a folder of frames, and the index of its class."""

    path: str
    label: int


class ClipDataset(Dataset[dict[str, Any]]):
    """Labelled clips as `dict(video=float32 (T, C, H, W), label=int, path=str)`.

    transform: from uint8 `(T, 3, H, W)` to float `(T, C, H, W)`, such as `transforms.clip_transform` gives.
    train: lets the sampling rule and the transform be random, by (seed, epoch, index) alone: the same items
    whatever the number of workers, and after a resume. Call `set_epoch` before each epoch.
    on_error: "raise" lets VideoError through; "skip" warns, notes the clip in `skipped` (path: reason) and
    returns `dict(path=str, reason=str)`, which `collate` leaves out of the batch. With worker processes, give
    each batch to `note_skipped` to gather the summary in the main process.
    short_side, tolerate_truncation: as in `video.read_frames`.
    """

    def __init__(
        self,
        records: Sequence[Clip],
        sampling: Sampling,
        transform: Callable[[Tensor], Tensor],
        *,
        train: bool = False,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        short_side: int | None = None,
        tolerate_truncation: bool = False,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')
        self.records = list(records)
        self.sampling = sampling
        self.transform = transform
        self.train = train
        self.seed = seed
        self.on_error = on_error
        self.short_side = short_side
        self.tolerate_truncation = tolerate_truncation
        self.skipped: dict[str, str] = {}
        self._lengths: list[int] = []
        # Shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of this epoch, in the workers as well. Call it between epochs."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.records[index]
        path = str(path)
        if path in self.skipped:
            return {"path": path, "reason": self.skipped[path]}
        try:
            return {"video": self._read(index, path), "label": label, "path": path}
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(path, str(error))
            return {"path": path, "reason": str(error)}

    def _read(self, index: int, path: str) -> Tensor:
        read = partial(read_clip, path, short_side=self.short_side, tolerate_truncation=self.tolerate_truncation)
        if not self.train:
            return self.transform(read(self.sampling))
        entropy = np.random.SeedSequence([self.seed, int(self._epoch), index])
        first, second = (int(word) for word in entropy.generate_state(2, np.uint32))
        clip = read(self.sampling, torch.Generator().manual_seed(first))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(second)  # torch.manual_seed would reseed the GPUs too
            return self.transform(clip)

    def _skip(self, path: str, reason: str) -> None:
        if path not in self.skipped:
            self.skipped[path] = reason
            warnings.warn(f"skipped {reason}", RuntimeWarning, stacklevel=3)

    def note_skipped(self, batch: dict[str, Any]) -> None:
        """Add what a batch's workers skipped to `skipped`, so that it is not read, or warned of, again."""
        self.skipped.update(batch["skipped"])

    def lengths(self) -> list[int]:
        """Frames that each clip will have, by `probe` (kept in memory); 0 for a clip that is skipped."""
        if not self._lengths:
            self._lengths = [self._length(str(path)) for path, _ in self.records]
        return self._lengths

    def _length(self, path: str) -> int:
        try:
            info = probe(path)
        except VideoError as error:
            if self.on_error == "raise":
                raise
            self._skip(path, str(error))
            return 0
        total = info.frames or 0
        if total and self.sampling.fps:
            total = int((total - 1) / info.fps * self.sampling.fps + 1e-6) + 1
        return len(sample_indices(total, self.sampling))


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join data set items into a batch, zero padded at the end to the longest clip.

    Returns `video` `(B, T, C, H, W)`, `lengths` `(B,)` int64, `label` `(B,)` int64, `paths` (B of them), and
    `skipped`, a list of (path, reason) for the items left out. Where all are left out, B is 0.
    Raises ValueError for frames of different shapes.
    """
    skipped = [(item["path"], item["reason"]) for item in items if "reason" in item]
    items = [item for item in items if "reason" not in item]
    if len(shapes := {tuple(item["video"].shape[1:]) for item in items}) > 1:
        raise ValueError(f"batch: expected frames of one shape (C, H, W), got {sorted(shapes)}")
    videos = [item["video"] for item in items]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "video": pad(videos, batch_first=True) if videos else torch.zeros(0, 0, 0, 0, 0),  # (B, T, C, H, W)
        "lengths": torch.tensor([len(video) for video in videos], dtype=torch.int64),
        "label": torch.tensor([item["label"] for item in items], dtype=torch.int64),
        "paths": [item["path"] for item in items],
        "skipped": skipped,
    }


def class_folder(root: str | Path, split: str | None = None) -> tuple[list[str], list[Clip]]:
    """List `root/<class>/<video>`, or `root/<split>/<class>/<video>`: (class names, records), both sorted.

    A video is a file with a video suffix or a folder of frames; other files are left alone. With a split,
    the classes are those of all the folders train, val and test together, so that labels agree among them.
    Raises ValueError for an absent folder, no classes, a class without videos, or a split that is missing
    from the arguments.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder with one folder a class, found none")
    if split is None:
        base, classes = root, _folders(root)
        if classes and set(classes) <= set(SPLIT_FOLDERS):
            raise ValueError(f"{root}: holds the splits {classes}: expected split to name one, got None")
    else:
        base = root / split
        if not base.is_dir():
            raise ValueError(f"{root}: expected a folder for split {split!r}, found {_folders(root)}")
        splits = {*SPLIT_FOLDERS, split}
        classes = sorted({name for part in splits if (root / part).is_dir() for name in _folders(root / part)})
    if not classes:
        raise ValueError(f"{base}: expected one folder a class, found none")
    records = []
    for label, name in enumerate(classes):
        folder = base / name
        paths = sorted(path for path in folder.iterdir() if _is_video(path)) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"{folder}: class {name!r} has no videos")
        records += [Clip(str(path), label) for path in paths]
    return classes, records


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_video(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def ucf101(root: str | Path, split: int, subset: Literal["train", "test"]) -> tuple[list[str], list[Clip]]:
    """List one subset of one of UCF101's splits: (class names by classInd.txt, records in list order).

    Reads `ucfTrainTestlist/classInd.txt` and `<subset>list<split>.txt`, with videos in `UCF-101/<Class>/`.
    A train list has a 1-based label after each name, a test list may leave it out.
    Raises ValueError, naming list and line, for anything in them that is malformed, absent or contradictory.
    """
    if subset not in ("train", "test"):
        raise ValueError(f'subset: expected "train" or "test", got {subset!r}')
    root = Path(root)
    classes = _ucf_classes(root / "ucfTrainTestlist" / "classInd.txt")
    index = {name: label for label, name in enumerate(classes)}
    records: dict[str, Clip] = {}
    for where, line in _lines(root / "ucfTrainTestlist" / f"{subset}list{split:02d}.txt"):
        match = re.fullmatch(r"(([^\s/]+)/[^\s/]+)(?:\s+(\S+))?", line)
        if not match or (subset == "train" and match[3] is None):
            form = "<Class>/<file>" + (" <label>" if subset == "train" else "")
            raise ValueError(f"{where}: expected '{form}', got {line!r}")
        name, folder, label = match.groups()
        if folder not in index:
            raise ValueError(f"{where}: class {folder} is not in classInd.txt")
        if label is not None and label not in map(str, range(1, len(classes) + 1)):
            raise ValueError(f"{where}: expected a label from 1 to {len(classes)}, got {label!r}")
        if label is not None and int(label) != index[folder] + 1:
            raise ValueError(f"{where}: expected label {index[folder] + 1} for class {folder}, got {label}")
        if name in records:
            raise ValueError(f"{where}: {name} is listed twice")
        if not (root / "UCF-101" / name).exists():
            raise ValueError(f"{where}: file UCF-101/{name} is absent")
        records[name] = Clip(str(root / "UCF-101" / name), index[folder])
    return classes, list(records.values())


def _ucf_classes(path: Path) -> list[str]:
    classes: list[str] = []
    for where, line in _lines(path):
        number, _, name = line.partition(" ")
        if number != str(len(classes) + 1) or not re.fullmatch(r"[^\s/]+", name := name.strip()):
            raise ValueError(f"{where}: expected '{len(classes) + 1} <Class>', got {line!r}")
        if name in classes:
            raise ValueError(f"{where}: class {name} is listed twice")
        classes.append(name)
    return classes


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text) for the lines of a list that are not blank."""
    if not path.is_file():
        raise ValueError(f"{path.name}: list is absent from {path.parent}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path.name}: expected at least one line, got none")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path.name}:{number}", line.strip()


class LengthBucketSampler(Sampler[list[int]]):
    """Batches of clips of similar length, to cut padding: a `batch_sampler` for one or several processes.

    Every epoch shuffles anew by (seed, epoch), then sorts by length within pools of `pool` batches. Each
    index comes exactly once an epoch over all ranks, and all ranks get the same number of batches. Batches
    hold at most `batch_size` clips, in sizes that differ by one at most; they are larger only where there are
    too few clips to give every rank one in the last step. `rank` is this process out of `world_size`.
    Raises ValueError for a bad batch size or rank, or fewer clips than ranks.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pool: int = 50,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or pool < 1:
            raise ValueError(f"batch size and pool: expected at least 1, got {batch_size} and {pool}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, got {rank}")
        if len(lengths) < world_size:
            raise ValueError(f"lengths: expected at least one clip for each of {world_size} ranks, got {len(lengths)}")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size, self.seed, self.shuffle, self.pool = batch_size, seed, shuffle, pool
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        # Whole steps of all ranks: enough for the batch size, but no more than leave every batch a clip.
        steps = -(-len(lengths) // (batch_size * world_size))
        self.steps = min(steps, len(lengths) // world_size)

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        chance = np.random.default_rng([self.seed, self.epoch])
        order = chance.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        size = self.pool * self.batch_size if self.shuffle else len(order)
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        # Every second pool runs from long to short, so that a batch across two pools is of one length too.
        ordered = [
            part[np.argsort(self.lengths[part], kind="stable")][:: -1 if i % 2 else 1] for i, part in enumerate(pools)
        ]
        batches = np.array_split(np.concatenate(ordered), self.steps * self.world_size)
        steps = chance.permutation(self.steps) if self.shuffle else np.arange(self.steps)
        for step in steps:  # ranks take neighbours, so that none waits long for another
            yield batches[step * self.world_size + self.rank].tolist()


def masked_cross_entropy(
    logits: Tensor, label: Tensor, lengths: Tensor, *, steps: Literal["all", "last"] = "all"
) -> Tensor:
    """Cross entropy of frame logits `(B, T, K)` against clip labels `(B,)`, a scalar.

    steps="all" averages over the valid frames of each clip, then over clips; "last" takes each clip's last
    valid frame. Frames from `lengths` `(B,)` on are padding and change neither loss nor gradient. An empty
    batch gives 0. Raises ValueError for shapes that do not match, lengths outside 1..T, or another `steps`.
    """
    if steps not in ("all", "last"):
        raise ValueError(f'steps: expected "all" or "last", got {steps!r}')
    mask = valid_frames(logits, lengths)  # (B, T)
    if label.shape != lengths.shape:
        raise ValueError(f"label: expected shape {tuple(lengths.shape)}, got {tuple(label.shape)}")
    if logits.shape[0] == 0:
        return logits.sum()
    if steps == "last":
        return F.cross_entropy(_last(logits, lengths), label)
    # Masked before as well as after, because a NaN in the padding would survive a zero gradient.
    clean = logits.masked_fill(~mask[..., None], 0)
    loss = F.cross_entropy(clean.transpose(1, 2), label[:, None].expand_as(mask), reduction="none")  # (B, T)
    return (loss.masked_fill(~mask, 0).sum(1) / lengths).mean()


def clip_scores(logits: Tensor, lengths: Tensor, mode: Literal["mean", "last"] = "mean") -> Tensor:
    """Class probabilities of clips `(B, K)` from frame logits `(B, T, K)`.

    mode="mean" averages softmax over the `lengths` `(B,)` valid frames; "last" takes the last of them.
    Raises ValueError as `masked_cross_entropy` does.
    """
    if mode not in ("mean", "last"):
        raise ValueError(f'mode: expected "mean" or "last", got {mode!r}')
    mask = valid_frames(logits, lengths)  # (B, T)
    if mode == "last" or logits.shape[0] == 0:
        return _last(logits, lengths).softmax(-1)
    return logits.softmax(-1).masked_fill(~mask[..., None], 0).sum(1) / lengths[:, None]


def valid_frames(logits: Tensor, lengths: Tensor) -> Tensor:
    """Return `(B, T)`, True where a frame of `logits` `(B, T, K)` is no padding.

    Raises ValueError for shapes that do not match and lengths outside 1..T.
    """
    if logits.ndim != 3 or lengths.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"expected logits (B, T, K) and lengths (B,), got {shapes}")
    if bool(((lengths < 1) | (lengths > logits.shape[1])).any()):
        raise ValueError(f"lengths: expected 1 to {logits.shape[1]}, got {lengths.tolist()}")
    return torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]


def _last(logits: Tensor, lengths: Tensor) -> Tensor:
    return logits[torch.arange(len(lengths), device=logits.device), lengths - 1]  # (B, K)
