"""Action recognition: one label for a video, from its colours or from its optical flow (PreRNN, section 4.3)."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from prernn.media.flow import FlowSettings, flow_file, read_flow_clip
from prernn.media.transforms import FLOW_MEAN, FLOW_STD, Sampling, TransformSpec, clip_transform, sample_indices
from prernn.media.video import probe, read_clip
from prernn.reports.files import write_table
from prernn.tasks.action.lists import Clip, class_folder, hmdb51, ucf101
from prernn.tasks.task import Subset, Task, valid_steps

LISTS: dict[str, Callable[..., tuple[list[str], list[Clip]]]] = {"ucf101": ucf101, "hmdb51": hmdb51}
"""Data sets whose splits are lists."""

DEFAULT_SAMPLING = Sampling(frames=16, rule="uniform")
DEFAULT_FLOW = FlowSettings()


@dataclass(eq=False)
class Action(Task):
    """Clip classification with the cross entropy of every frame, as colour or as flow stream.

    A video's class is the best of its mean softmax over frames; of several clips (``views``), over all of them.

    Attributes:
        layout: "folders" (``root/train/<class>/``, ``root/test/<class>/``, optionally ``val``), "ucf101" (``UCF-101/``
            and ``ucfTrainTestlist/``) or "hmdb51" (``<class>/`` and ``testTrainMulti_7030_splits/``). Without a
            ``val`` folder, validation sees the test videos.
        split: which of the splits of UCF101 or HMDB51.
        stream: "color", or "flow" for optical flow that `prernn flow` has put into ``flow_cache``.
        flow_cache: folder of the flow.
        flow: the settings that the flow was made with.
        stack: frames of flow that make one input, two channels each.
        sampling: frames of a clip in training; evaluation takes the same number, evenly where training is random.
        views: clips of a video to average over in evaluation.
        size: side in pixels of the network's input; None takes what the backbone expects, as the next three.
        resize: shorter side in pixels before the centre crop of evaluation.
        mean: of each channel, for pixel values in [0, 1].
        std: likewise.
        scale: range of the area that a training crop takes.
        flip: whether training mirrors half of the clips; not for classes that left and right tell apart.
        rotation: training turns each clip by up to so many degrees.
        shear: training shears each clip by up to so many degrees.
        loss_frames: "all" asks for the label at every frame, "last" at the last alone.
    """

    name: ClassVar[str] = "action"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("clip_accuracy", "max")
    kept_options: ClassVar[tuple[str, ...]] = ("stream", "stack", "flow")

    layout: Literal["folders", "ucf101", "hmdb51"] = "folders"
    split: int = 1
    stream: Literal["color", "flow"] = "color"
    flow_cache: str | None = None
    flow: FlowSettings = DEFAULT_FLOW
    stack: int = 10
    sampling: Sampling = DEFAULT_SAMPLING
    views: int = 1
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: tuple[float, float] = (0.6, 1.0)
    flip: bool = True
    rotation: float = 0.0
    shear: float = 0.0
    loss_frames: Literal["all", "last"] = "all"
    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.flow, dict):  # as a checkpoint has it
            self.flow = FlowSettings(**self.flow)
        if self.views < 1 or (self.views > 1 and self.sampling.rule in ("uniform", "all")):
            raise ValueError(f'expected views of 1, or more with the rule "random" or "consecutive", got {self.views}')
        if self.stack < 1:
            raise ValueError(f"expected a stack of at least 1 frame of flow, got {self.stack}")

    def open(self, root: str | Path, spec: dict[str, Any]) -> None:
        """Reads the train list; see `Task.open`."""
        self.root = Path(root)
        if self.stream == "flow":
            if self.flow_cache is None:
                raise ValueError("stream 'flow': expected flow_cache, the folder that `prernn flow` wrote to, got None")
            spec = {**spec, "mean": (FLOW_MEAN,), "std": (FLOW_STD,)}
        own = {key: getattr(self, key) for key in ("size", "mean", "std") if getattr(self, key) is not None}
        flow = {"flow": True} if self.stream == "flow" else {}
        chance = {name: getattr(self, name) for name in ("scale", "flip", "rotation", "shear")}
        self.spec = TransformSpec(**{**spec, **own, **chance, **flow}, resize=self.resize)
        self.transform = asdict(self.spec)
        self.labels, self._train = self._list("train")

    def _list(self, subset: Subset) -> tuple[list[str], list[Clip]]:
        if self.layout in LISTS:
            return LISTS[self.layout](self.root, self.split, "train" if subset == "train" else "test")
        if subset == "val" and not (self.root / "val").is_dir():
            subset = "test"
        return class_folder(self.root, subset)

    def records(self, subset: Subset) -> list[Clip]:
        """The clips of a subset; in evaluation each video ``views`` times."""
        if subset == "train":
            return self._train
        labels, clips = self._list(subset)
        if labels != self.labels:
            raise ValueError(f"{self.root}: expected the classes {self.labels} in {subset}, got {labels}")
        return [clip._replace(view=view) for clip in clips for view in range(self.views)]

    def read(self, record: Clip, chance: torch.Generator | None, *, tolerate_truncation: bool = False):
        """``video (T, C, H, W)``, ``label`` and ``view``; see `Task.read`."""
        train = chance is not None
        if chance is None and record.view:
            chance = torch.Generator().manual_seed(record.view)
        clip = self._frames(
            record.path, chance, None if train else self.spec.resize or self.spec.size, tolerate_truncation
        )
        return {"video": clip_transform(self.spec, train)(clip), "label": record.label, "view": record.view}

    def _frames(self, path: str, chance: torch.Generator | None, short_side: int | None, tolerate: bool) -> Tensor:
        read = partial(read_clip, path, self.sampling, chance, short_side=short_side)
        if self.stream == "flow":
            assert self.flow_cache is not None  # open() has seen to it
            cached = flow_file(path, self.root, self.flow_cache)
            read = partial(read_flow_clip, cached, self.sampling, chance, stack=self.stack, settings=self.flow)
        return read(tolerate_truncation=tolerate)

    def length(self, record: Clip) -> int:
        """Frames of a clip, where the sampling rule lets them differ by more than a few short videos."""
        if self.sampling.rule not in ("all", "consecutive"):
            return 0
        info = probe(record.path)
        total = info.frames or 0
        if total and self.sampling.fps:
            total = int((total - 1) / info.fps * self.sampling.fps + 1e-6) + 1
        return len(sample_indices(total, self.sampling))

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """`masked_cross_entropy` at the frames that ``loss_frames`` says."""
        return masked_cross_entropy(out, batch["label"], batch["lengths"], steps=self.loss_frames)

    def metrics(self) -> "ClipMetrics":
        """Accuracies of clips, videos, frames and classes."""
        return ClipMetrics(self.outputs)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Path, label and probability of each clip."""
        assert self.labels is not None
        best = clip_scores(out, batch["lengths"]).max(1)
        rows = zip(batch["path"], best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"path": path, "label": self.labels[k], "probability": p} for path, k, p in rows]

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """``confusion.png`` and ``classes.csv``; class accuracies by name."""
        return report_classes(results, self.labels or [], root)


def report_classes(results: dict[str, Any], labels: list[str], root: Path) -> dict[str, Any]:
    """Writes ``confusion.png`` and ``classes.csv`` (class, videos, hits, accuracy, most often taken for).

    Args:
        results: with ``confusion``, K rows of K counts, true classes as rows, and ``class_accuracy``, K numbers.
        labels: K names.
        root: the folder.

    Returns:
        The results, with ``class_accuracy`` by name.
    """
    from prernn.reports.plots import curves

    confusion = torch.tensor(results["confusion"])  # (K, K)
    curves.confusion(confusion.numpy(), labels, root / "confusion.png")
    accuracy = dict(zip(labels, results["class_accuracy"], strict=True))
    rows = []
    for k, label in enumerate(labels):
        wrong = confusion[k].clone()
        wrong[k] = 0
        taken = labels[int(wrong.argmax())] if wrong.sum() else ""
        count = {"videos": int(confusion[k].sum()), "hits": int(confusion[k, k])}
        rows.append({"class": label, **count, "accuracy": f"{accuracy[label]:.4f}", "most often taken for": taken})
    write_table(root / "classes.csv", rows)
    return {**results, "class_accuracy": accuracy}


class ClipMetrics(nn.Module):
    """Running accuracy of frame logits `(B, T, K)` against clip labels `(B,)`.

    A clip's class is the best of its mean softmax over valid frames, a video's the best of its clips' mean. Frames
    from `lengths` `(B,)` on are padding and count for nothing. Move it with `.to(device)`; torchmetrics sums over
    processes in `compute`. Raises ValueError for fewer than 2 classes, or logits of another K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.clips = MulticlassConfusionMatrix(num_classes)
        self.frames = MulticlassAccuracy(num_classes, average="micro")
        self.videos = VideoAccuracy()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Add a batch with `label`, `lengths` and `path`; an empty one (B = 0) adds nothing."""
        if out.shape[0] == 0:
            return
        if out.shape[-1] != self.num_classes:
            raise ValueError(f"logits: expected {self.num_classes} classes, got {out.shape[-1]}")
        label, lengths = batch["label"], batch["lengths"]
        scores = clip_scores(out, lengths)  # (B, K)
        mask = valid_steps(lengths, out.shape[1])  # (B, T)
        self.clips.update(scores.argmax(-1), label)
        self.frames.update(out.argmax(-1)[mask], label[:, None].expand_as(mask)[mask])
        self.videos.update(scores, label, batch["path"])

    def compute(self) -> dict[str, Tensor]:
        """Return clip_accuracy, video_accuracy and frame_accuracy (scalars), class_accuracy `(K,)`, confusion `(K, K)`.

        Rows of the confusion matrix are true classes of clips, columns predicted ones. A class without clips has an
        accuracy of NaN.
        """
        confusion = self.clips.compute()  # (K, K)
        hits = confusion.diagonal().float()
        return {
            "clip_accuracy": hits.sum() / confusion.sum(),
            "video_accuracy": self.videos.compute(),
            "frame_accuracy": self.frames.compute(),
            "class_accuracy": hits / confusion.sum(1),
            "confusion": confusion,
        }

    def reset(self) -> None:
        """Forget all batches."""
        for metric in (self.clips, self.frames, self.videos):
            metric.reset()


class VideoAccuracy(Metric):
    """Share of videos whose class is the best of the mean of their clips' scores."""

    full_state_update = False
    scores: list[Tensor]
    label: list[Tensor]
    video: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("scores", "label", "video"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, label: Tensor, path: list[str]) -> None:
        """Add clips: `scores` `(B, K)`, `label` `(B,)`, and the B videos that they are of."""
        self.scores.append(scores.float())
        self.label.append(label)
        self.video.append(torch.tensor([_number(name) for name in path], device=label.device))

    def compute(self) -> Tensor:
        """The share, a scalar."""
        scores, label, video = (dim_zero_cat(value) for value in (self.scores, self.label, self.video))
        _, group = video.unique(return_inverse=True)  # (N,)
        count = int(group.max()) + 1
        total = scores.new_zeros(count, scores.shape[1]).index_add_(0, group, scores)  # (videos, K)
        truth = label.new_zeros(count).index_put_((group,), label)  # (videos,)
        return (total.argmax(1) == truth).float().mean()


def _number(name: str) -> int:
    """A number for a path that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


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
    mask = _valid(logits, lengths)  # (B, T)
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
    mask = _valid(logits, lengths)  # (B, T)
    if mode == "last" or logits.shape[0] == 0:
        return _last(logits, lengths).softmax(-1)
    return logits.softmax(-1).masked_fill(~mask[..., None], 0).sum(1) / lengths[:, None]


def _valid(logits: Tensor, lengths: Tensor) -> Tensor:
    if logits.ndim != 3 or lengths.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"expected logits (B, T, K) and lengths (B,), got {shapes}")
    return valid_steps(lengths, logits.shape[1])


def _last(logits: Tensor, lengths: Tensor) -> Tensor:
    return logits[torch.arange(len(lengths), device=logits.device), lengths - 1]  # (B, K)
