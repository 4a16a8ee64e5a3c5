"""Action recognition: one label for a video, from its colors or from its optical flow (PreRNN, section 4.3)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.flow import FlowSettings
from prernn.media.flow_cache import flow_file, read_flow_clip
from prernn.media.sampling import Sampling, sample_indices
from prernn.media.transforms import FLOW_MEAN, FLOW_STD, TransformSpec, clip_transform, frame_transform
from prernn.media.video import probe, read_clip
from prernn.reports.numbers import plain
from prernn.streaming.events import EventRule, EventSpan, EventTracker
from prernn.streaming.watch import Watcher
from prernn.tasks.action.lists import Clip, class_folder, hmdb51, source_of, ucf101
from prernn.tasks.classification import clip_scores, masked_cross_entropy, report_classes, weighted_cross_entropy
from prernn.tasks.clips.frame_rate import sampled_rate
from prernn.tasks.clips.mirroring import mirroring
from prernn.tasks.confidence import Confidence, class_options, found_events
from prernn.tasks.task import Metrics, Subset, Task, Verdict, valid_steps

LISTS: dict[str, Callable[..., tuple[list[str], list[Clip]]]] = {"ucf101": ucf101, "hmdb51": hmdb51}
"""The data sets whose splits are lists."""


DEFAULT_SAMPLING = Sampling(frames=16, rule="uniform")


DEFAULT_FLOW = FlowSettings()


DEFAULT_RULE = EventRule()


@dataclass(eq=False)
class Action(Task):
    """Clip classification with the cross entropy of every frame, as a color or a flow stream.

    A video's class is the best of its mean softmax over frames; with several clips (``views``), over all of them.

    Attributes:
        layout: "folders" (``root/train/<class>/``, ``root/test/<class>/``, optionally ``val``), "ucf101" (``UCF-101/``
            and ``ucfTrainTestlist/``) or "hmdb51" (``<class>/`` and ``testTrainMulti_7030_splits/``).
        split: number of the split of UCF101 or HMDB51.
        stream: "color", or "flow" for optical flow that ``prernn flow`` has written into ``flow_cache``.
        flow_cache: folder of the flow.
        flow: the settings with which the flow was made.
        stack: number of flow frames that make one input, two channels each.
        sampling: which frames make a training clip; evaluation takes as many, evenly where training is random.
        views: number of clips of a video to average over in evaluation.
        size: side of the network's input in pixels; None takes what the backbone expects, as do the next three.
        resize: shorter side in pixels before the center crop of evaluation.
        mean: of each channel, for pixel values in [0, 1].
        std: of each channel, for pixel values in [0, 1].
        scale: range of the area of a training crop, as a share of the frame.
        flip: whether training mirrors half of the clips; never if the names of two classes differ only by left and
            right, or by words like them.
        rotation: training rotates each clip by up to this many degrees.
        shear: training shears each clip by up to this many degrees.
        deinterlace: deinterlace frames that are marked as interlaced; not for flow.
        loss_frames: "all" requires the label at every frame, "last" at the last frame only.
        background: the class that means that nothing happens, if there is one: it makes no events.
        events: which probabilities of a stream make an event.
        temperature: divides the outputs before the softmax of a stream, see `prernn.tasks.confidence.temperature`.
        unknown_below: probability below which a stream's answer is "unknown".
    """

    name: ClassVar[str] = "action"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("clip_accuracy", "max")
    one_answer: ClassVar[bool] = True
    joins_clips: ClassVar[bool] = True
    rows: ClassVar[Literal["csv", "json"]] = "csv"
    watcher_options: ClassVar[tuple[str, ...]] = ("events",)
    kept_options: ClassVar[tuple[str, ...]] = (
        *("stream", "stack", "flow", "deinterlace"),
        *("background", "events", "temperature", "unknown_below"),
    )
    path_options: ClassVar[tuple[str, ...]] = ("flow_cache",)

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
    deinterlace: bool = False
    loss_frames: Literal["all", "last"] = "all"
    background: str | None = None
    events: EventRule = DEFAULT_RULE
    temperature: float = 1.0
    unknown_below: float = 0.0
    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._train: list[Clip] = []
        if isinstance(self.flow, dict):  # as in a checkpoint
            self.flow = FlowSettings(**self.flow)
        if isinstance(self.events, dict):
            self.events = EventRule(**self.events)
        self._confidence  # noqa: B018 (raises)
        if self.views < 1 or (self.views > 1 and self.sampling.rule in ("uniform", "all")):
            raise ValueError(f'expected views of 1, or more with the rule "random" or "consecutive", got {self.views}')
        if self.deinterlace and self.stream == "flow":
            raise NotImplementedError("expected no deinterlace with the stream 'flow', whose cache was made without")
        if self.stack < 1:
            raise ValueError(f"expected a stack of at least 1 frame of flow, got {self.stack}")

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the train list; see `Task.open`."""
        self.root = Path(root)
        if self.stream == "flow":
            if self.flow_cache is None:
                raise ValueError("stream 'flow': expected flow_cache, the folder that `prernn flow` wrote to, got None")
            spec = {**spec, "mean": (FLOW_MEAN,), "std": (FLOW_STD,)}
        own = {key: getattr(self, key) for key in ("size", "mean", "std") if getattr(self, key) is not None}
        flow = {"flow": True} if self.stream == "flow" else {}
        self.labels, self._train = self._list("train")
        if len(self.labels) < 2:
            raise ValueError(f"{root}: expected at least 2 classes, found only {', '.join(self.labels)}")
        if self.background is not None and self.background not in self.labels:
            raise ValueError(f"background: expected one of the classes {self.labels}, got {self.background!r}")
        mirror, self.remarks = mirroring(self.flip, self.labels)
        chance = {"flip": mirror, **{name: getattr(self, name) for name in ("scale", "rotation", "shear")}}
        self.spec = TransformSpec(**{**spec, **own, **chance, **flow}, resize=self.resize)
        self.transform = asdict(self.spec)

    @property
    def rate(self) -> float | None:
        """The frame rate of the clips: that of ``sampling``, or the training videos' own (see `sampled_rate`).

        Flow is computed between successive frames of the videos, so a flow network has a rate only if its clips take
        every frame.
        """
        if self.stream == "flow" and (self.sampling.fps is not None or self.sampling.stride > 1):
            return None
        return sampled_rate(self.sampling, [clip.path for clip in self._train])

    def _list(self, subset: Subset) -> tuple[list[str], list[Clip]]:
        if self.layout in LISTS:
            return LISTS[self.layout](self.root, self.split, "train" if subset == "train" else "test")
        return class_folder(self.root, subset)

    @property
    def has_validation(self) -> bool:
        """Whether there is a folder ``val``."""
        return self.layout == "folders" and (self.root / "val").is_dir()

    def records(self, subset: Subset) -> list[Clip]:
        """The clips of a subset; in evaluation, each video ``views`` times."""
        if subset == "train":
            return self._train
        labels, clips = self._list(subset)
        if labels != self.labels:
            raise ValueError(f"{self.root}: expected the classes {self.labels} in {subset}, got {labels}")
        return self.evaluated(clips)

    def evaluated(self, records: Sequence[Clip]) -> list[Clip]:
        """Each clip ``views`` times."""
        return [clip._replace(view=view) for clip in records for view in range(self.views)]

    def recording(self, record: Clip) -> tuple[int, str]:
        """Label, and the source from which UCF101 and HMDB51 cut the clip; for other videos the file."""
        return record.label, source_of(record.path) if self.layout in LISTS else record.path

    def examples(self, records: Sequence[Clip]) -> dict[str, int]:
        """Number of videos of each class."""
        assert self.labels is not None
        counts = Counter(clip.label for clip in records)
        return {name: counts[label] for label, name in enumerate(self.labels)}

    def read(self, record: Clip, chance: torch.Generator | None, *, tolerate_truncation: bool = False):
        """``input (T, C, H, W)``, ``label`` and ``view``; see `Task.read`."""
        train = chance is not None
        if chance is None and record.view:
            chance = torch.Generator().manual_seed(record.view)
        clip = self._clip(record.path, chance, train, tolerate_truncation)
        return {"input": clip, "label": record.label, "view": record.view}

    def _clip(self, path: str, chance: torch.Generator | None, train: bool, tolerate: bool) -> Tensor:
        """The network's input ``(T, C, H, W)``; in evaluation each frame is transformed as a stream's frames are."""
        if self.stream == "flow":
            assert self.flow_cache is not None  # checked by open()
            cached = flow_file(path, self.root, self.flow_cache)
            flow = partial(read_flow_clip, stack=self.stack, settings=self.flow, tolerate_truncation=tolerate)
            return clip_transform(self.spec, train)(flow(cached, self.sampling, chance))
        read = partial(read_clip, path, self.sampling, chance)
        read = partial(read, tolerate_truncation=tolerate, deinterlace=self.deinterlace)
        return clip_transform(self.spec, train)(read()) if train else read(transform=frame_transform(self.spec))

    def length(self, record: Clip) -> int:
        """Number of frames of a clip, if the sampling rule lets lengths differ by more than a few short videos."""
        if self.sampling.rule not in ("all", "consecutive"):
            return 0
        info = probe(record.path)
        total = info.frames or 0
        if total and self.sampling.fps:
            total = int((total - 1) / info.fps * self.sampling.fps + 1e-6) + 1
        return len(sample_indices(total, self.sampling))

    def join(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Clips one after the other: ``label`` has one entry per frame, ``(T,)``."""
        labels = [torch.full((len(item["input"]),), item["label"]) for item in items]
        return {**super().join(items), "label": torch.cat(labels)}

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """`masked_cross_entropy` at the frames selected by ``loss_frames``, `weighted_cross_entropy` if joined."""
        if "weight" in batch:
            return weighted_cross_entropy(out, batch["label"], batch["weight"])
        return masked_cross_entropy(out, batch["label"], batch["lengths"], steps=self.loss_frames)

    def metrics(self) -> Metrics:
        """Accuracies of clips, videos, frames and classes."""
        # torchmetrics takes seconds to import, which workers and streams don't need
        from prernn.tasks.clips.clip_metrics import ClipMetrics

        return ClipMetrics(self.outputs)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Path, label and probability of each clip."""
        assert self.labels is not None
        best = clip_scores(out, batch["lengths"]).max(1)
        rows = zip(batch["path"], best.indices.tolist(), plain(best.values), strict=True)
        return [{"path": path, "label": self.labels[k], "probability": p} for path, k, p in rows]

    def verdicts(self, out: Tensor, batch: dict[str, Any]) -> list[Verdict]:
        """The class of each clip, and whether it is right."""
        assert self.labels is not None
        pairs = zip(self.predictions(out, batch), batch["label"].tolist(), strict=True)
        named = [(row["label"], self.labels[label]) for row, label in pairs]
        return [Verdict(said, true, float(said != true)) for said, true in named]

    @property
    def clip_length(self) -> int | None:
        """Number of frames of a clip, if the sampling rule takes a fixed number."""
        return self.sampling.frames

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The class of each moment, from one network or averaged over several (two streams), and its events.

        Args:
            nets: the networks.
            options: ``events``, whether events are reported as rows too.
        """
        from prernn.tasks.action.watcher import ClassWatcher

        labels = self.labels or []
        tracker = EventTracker(labels, self.events, quiet=self._quiet) if labels else None
        return ClassWatcher(*nets, tracker=tracker, confidence=self._confidence, **options)

    @property
    def _quiet(self) -> list[int]:
        return [k for k, label in enumerate(self.labels or []) if label == self.background]

    @property
    def _confidence(self) -> Confidence:
        return Confidence(self.temperature, self.unknown_below)

    def answers(self, out: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The outputs of all valid frames, each of which should predict the clip's label."""
        valid = valid_steps(batch["lengths"], out.shape[1])  # (B, T)
        return out[valid], batch["label"][:, None].expand_as(valid)[valid]

    def events_in(self, times: Sequence[float], probabilities: Tensor, *, everything: bool = False) -> list[EventSpan]:
        """Events by the rule ``events``; the background makes none."""
        sure = self._confidence.calibrated(probabilities)
        return found_events(times, sure, self.labels or [], self.events, quiet=self._quiet, everything=everything)

    def confident(self, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
        """``temperature``, ``unknown_below``, and ``events`` with the threshold as ``high``."""
        return class_options(self.events, temperature, unknown_below, threshold)

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes ``confusion.png`` and ``classes.csv``; returns class accuracies by name."""
        return report_classes(results, self.labels or [], root)
