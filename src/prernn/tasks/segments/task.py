"""Actions in untrimmed videos: a label at every frame, from lists of segments, with background between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real, whole
from prernn.media.pieces import read_piece, timeline
from prernn.media.sampling import Sampling, sample_times
from prernn.media.source import videos_in
from prernn.media.transforms import TransformSpec, clip_transform, frame_transform
from prernn.media.video import VideoError
from prernn.streaming.events import EventRule, EventSpan
from prernn.streaming.watch import Watcher
from prernn.tasks.classification import report_classes
from prernn.tasks.clips.frame_rate import common_rate
from prernn.tasks.clips.mirroring import mirroring
from prernn.tasks.confidence import Confidence, class_options, found_events
from prernn.tasks.segments.lists import LAYOUTS, SegmentVideo, check_within, spans
from prernn.tasks.segments.loss import frame_cross_entropy
from prernn.tasks.segments.places import Piece, Steps, draw_place, piece_places
from prernn.tasks.task import Metrics, Subset, Task, valid_steps

DEFAULT_RULE = EventRule()


@dataclass(eq=False)
class Segments(Task):
    """Labels at the frames of untrimmed videos, with cross entropy; output 0 is the background.

    The root folder contains videos of any length and one list per subset, ``train.csv``, ``test.csv`` and, if there are
    validation videos, ``val.csv``: see `prernn.tasks.segments.lists.segment_videos`. Videos are read in pieces, so that
    memory does not grow with their length. In training a piece is at a random place. In evaluation consecutive pieces
    cover the whole video, and each continues from the final state of the previous one: the outputs are those of a
    stream. A network that answers once per clip has no state, and answers for each piece separately.

    Attributes:
        layout: "segments", lists as described there; or "nvgesture", those of NVGesture (`prernn.tasks.gesture.lists`),
            whose gestures are the segments.
        modality: the sensor of NVGesture.
        others: folder of videos, anywhere, that show nothing the network learns; they are added to the training as
            background throughout.
        train_list: name of the training list in the root folder.
        test_list: name of the test list.
        val_list: name of the validation list; if there is no such file, some of the training videos are held out.
        background: name of output 0.
        fps: steps a second; the frame nearest to each moment is taken. None takes every frame.
        piece: number of steps of a piece.
        warm_up: steps before a piece of evaluation that go through the network from a zero state, instead of carrying
            over the state, and are ignored otherwise; None carries over the state.
        share: share of the training pieces that are around a moment of a segment; the others are where there is only
            background, in videos that have such a place, and anywhere in others.
        background_weight: weight of a background frame in the loss; "balanced" gives background the weight of an
            average other class, see `prernn.tasks.segments.loss.frame_cross_entropy`.
        size: side of the network's input in pixels; None takes what the backbone expects, as for mean and std.
        resize: shorter side in pixels before the center crop of evaluation.
        mean: of each channel, for pixel values in [0, 1].
        std: of each channel, for pixel values in [0, 1].
        scale: range of the area of a training crop, as a share of the frame.
        grey: make colors grey, see `prernn.media.transforms.TransformSpec`.
        flip: whether training mirrors half of the pieces; never if the names of two classes differ only by left and
            right, or words like them. None means yes, except for gestures (layout "nvgesture"), whose names may be only
            numbers.
        deinterlace: deinterlace frames that are marked as interlaced.
        events: which probabilities make an event, in evaluation, predictions and streams.
        temperature: divides the outputs before that softmax, see `prernn.tasks.confidence.temperature`.
        unknown_below: probability below which a stream's answer is "unknown".
    """

    layout: Literal["segments", "nvgesture"] = "segments"
    modality: str = "depth"
    others: str | None = None
    train_list: str = "train.csv"
    test_list: str = "test.csv"
    val_list: str = "val.csv"
    background: str = "background"
    fps: float | None = None
    piece: int = 64
    warm_up: int | None = None
    share: float = 0.7
    background_weight: float | Literal["balanced"] = 1.0
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: tuple[float, float] = (0.6, 1.0)
    grey: bool = False
    flip: bool | None = None
    deinterlace: bool = False
    events: EventRule = DEFAULT_RULE
    temperature: float = 1.0
    unknown_below: float = 0.0

    name: ClassVar[str] = "segments"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("frame_map", "max")
    joins_clips: ClassVar[bool] = True
    rows: ClassVar[Literal["csv", "json"]] = "csv"
    comparable: ClassVar[bool] = False
    watcher_options: ClassVar[tuple[str, ...]] = ("events",)
    path_options: ClassVar[tuple[str, ...]] = ("others",)
    kept_options: ClassVar[tuple[str, ...]] = (
        *("background", "fps", "deinterlace"),
        *("events", "temperature", "unknown_below"),
    )

    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.events, dict):  # as in a checkpoint
            self.events = EventRule(**self.events)
        self._confidence  # noqa: B018 (raises)
        whole("piece", self.piece)
        whole("warm_up", self.warm_up or 0, 0)
        real("share", self.share, 0, 1)
        if self.background_weight != "balanced":
            real("background_weight", self.background_weight, 0)
        self._root = Path()
        self._known: dict[str, Steps] = {}
        Sampling(None, "all", fps=self.fps)  # raises for an invalid rate

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the training list, whose sorted labels are the classes, after the background.

        Raises:
            ValueError: no list, or a malformed one; the message names file and line.
        """
        self._root = Path(root)
        videos = self._listed(self.train_list)
        names = sorted({segment.label for video in videos for segment in video.segments})
        if not names:
            raise ValueError(f"{self.train_list}: expected at least one segment, got none")
        self.labels = [self.background, *names]
        self._check_labels(videos)
        others = [] if self.others is None else videos_in(Path(self.others))
        self._others = {str(path) for path in others}
        self._train = [*videos, *(SegmentVideo(path, (), "frames", path) for path in sorted(self._others))]
        own = {key: value for key in ("size", "mean", "std") if (value := getattr(self, key)) is not None}
        spec = {key: spec[key] for key in ("size", "mean", "std") if key in spec}
        wanted = self.layout != "nvgesture" if self.flip is None else self.flip
        mirror, self.remarks = mirroring(wanted, names)
        self.spec = TransformSpec(**{**spec, **own}, resize=self.resize, scale=self.scale, flip=mirror, grey=self.grey)
        self.transform = asdict(self.spec)

    def _listed(self, name: str) -> list[SegmentVideo]:
        return LAYOUTS[self.layout](self._root / name, self._root, self.modality)

    def _check_labels(self, videos: Sequence[SegmentVideo]) -> None:
        names = (self.labels or [])[1:]
        for segment in (segment for video in videos for segment in video.segments):
            if segment.label == self.background:
                raise ValueError(
                    f"{segment.where}: expected an action, got {segment.label!r}, the name of what lies between: "
                    "leave the row out, or give the background another name"
                )
            if segment.label not in names:
                raise ValueError(
                    f"{segment.where}: expected one of the training's labels {names}, got {segment.label!r}"
                )

    @property
    def rate(self) -> float | None:
        """Steps a second: ``fps``, or the training videos' common rate."""
        return self.fps or common_rate([video.path for video in self._train])

    @property
    def has_validation(self) -> bool:
        """Whether there is a list ``val_list``."""
        return (self._root / self.val_list).is_file()

    def records(self, subset: Subset) -> list[Piece]:
        """The pieces of a subset; for a video that can't be read, one piece, whose reading reports why."""
        if subset == "train":
            return self._pieces(self._train)
        videos = self._listed(getattr(self, f"{subset}_list"))
        self._check_labels(videos)
        return self._pieces(videos)

    def evaluated(self, records: Sequence[Piece]) -> list[Piece]:
        """All pieces of the videos to which these pieces belong."""
        return self._pieces(list({record.path: record.video for record in records}.values()))

    def _pieces(self, videos: Sequence[SegmentVideo]) -> list[Piece]:
        return [Piece(video.path, view, video) for video in videos for view in range(self._count(video))]

    def _count(self, video: SegmentVideo) -> int:
        try:
            return len(piece_places(len(self._steps(video).picks), self.piece))
        except VideoError:
            return 1

    def _steps(self, video: SegmentVideo) -> Steps:
        """A video's steps, kept in memory. Raises VideoError if it can't be read or is shorter than its segments."""
        if video.path not in self._known:
            try:
                line = timeline(video.path)
            except VideoError as error:
                raise VideoError(f"{video.where}: {error}") from error
            check_within(video, line)
            picks = sample_times(line.times, Sampling(None, "all", fps=self.fps))
            labels = {name: number for number, name in enumerate(self.labels or [])}
            found = [(begin, end, labels[label]) for begin, end, label in spans(video, line, picks)]
            self._known[video.path] = Steps(line, picks, found)
        return self._known[video.path]

    def recording(self, record: Piece) -> tuple[int, str]:
        """The video. Those of ``others`` have their own label, so that a single one of them is not held out."""
        return int(record.path in self._others), record.path

    def goes_on(self, record: Piece) -> bool:
        """Whether it is a later piece of a video, if states carry over."""
        return self.warm_up is None and record.view > 0

    def examples(self, records: Sequence[Piece]) -> dict[str, int]:
        """How many segments each class has."""
        videos = {record.path: record.video for record in records}.values()
        counts = Counter(segment.label for video in videos for segment in video.segments)
        return {name: counts[name] for name in (self.labels or [])[1:]}

    def length(self, record: Piece) -> int:
        """Number of steps that the item will have; in evaluation, at most."""
        return min(len(self._steps(record.video).picks), self.piece + (self.warm_up or 0 if record.view else 0))

    def probe(self, record: Piece) -> None:
        """Checks that the video is as long as its segments say."""
        self._steps(record.video)

    def read(
        self, record: Piece, chance: torch.Generator | None, *, tolerate_truncation: bool = False
    ) -> dict[str, Any]:
        """One piece.

        ``input (T, C, H, W)``; ``label (T,)`` int64, 0 for background; ``warm_up``, the number of first steps that do
        not count; ``start``, the first step that counts, in the whole video; ``rate``, steps a second; ``view``; in
        evaluation ``goes_on``.

        Raises:
            VideoError: a video that can't be read or ends before one of its segments.
        """
        line, picks, found = self._steps(record.video)
        if chance is None:
            start, stop = piece_places(len(picks), self.piece)[record.view]
            first = max(0, start - (self.warm_up or 0))
        else:
            start = first = draw_place(len(picks), self.piece, found, self.share, chance)
            stop = min(len(picks), start + self.piece)
        label = torch.zeros(len(picks), dtype=torch.int64)
        for begin, end, number in found:
            label[begin:end] = number
        each = frame_transform(self.spec) if chance is None else None
        clip = read_piece(record.path, line, picks[first:stop], transform=each, deinterlace=self.deinterlace)
        return {
            **({} if chance else {"goes_on": int(self.goes_on(record))}),
            "input": clip if chance is None else clip_transform(self.spec, train=True)(clip),
            "label": label[first:stop],
            "warm_up": start - first,
            "start": start,
            "rate": self.fps or line.fps,
            "view": record.view,
        }

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """`frame_cross_entropy` of the steps that count."""
        label, weight = batch["label"], batch.get("weight")
        return frame_cross_entropy(out, label, counted(out, batch), background=self.background_weight, weight=weight)

    def metrics(self) -> Metrics:
        """See `prernn.tasks.segments.metrics.SegmentMetrics`."""
        # torchmetrics takes seconds to import, which workers and streams don't need
        from prernn.tasks.segments.metrics import SegmentMetrics

        return SegmentMetrics(self.labels or [], self.events, self.temperature)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The probabilities of each piece, from which `joined_predictions` makes events."""
        probabilities, counts = (out.float() / self.temperature).softmax(-1).cpu(), counted(out, batch).cpu()
        return [
            {
                "path": path,
                "frame": int(batch["start"][i]),
                "rate": float(batch["rate"][i]),
                "probabilities": probabilities[i][counts[i]],
            }
            for i, path in enumerate(batch["path"])
        ]

    def joined_predictions(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row per event: ``path``, ``label``, ``start_s``, ``end_s``, ``score``."""
        from prernn.tasks.segments.whole_videos import events_by_video

        nothing = {"label": "", "start_s": "", "end_s": "", "score": ""}
        return [
            {"path": path, **row}
            for path, events in events_by_video(rows, self.labels or [], self.events).items()
            for row in ([_row(event) for event in events] or [nothing])
        ]

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The class of each moment, and its events; averaged over several networks.

        Args:
            nets: the networks.
            options: ``events``, whether events are reported as rows too.
        """
        from prernn.streaming.events import EventTracker
        from prernn.tasks.action.watcher import ClassWatcher

        tracker = EventTracker(self.labels or [], self.events, quiet=(0,))
        return ClassWatcher(*nets, tracker=tracker, confidence=self._confidence, **options)

    @property
    def _confidence(self) -> Confidence:
        return Confidence(self.temperature, self.unknown_below)

    def answers(self, out: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The outputs of all steps that count, including background."""
        counts = counted(out, batch)
        return out[counts], batch["label"][counts]

    def events_in(self, times: Sequence[float], probabilities: Tensor, *, everything: bool = False) -> list[EventSpan]:
        """Events by the rule ``events``; the background makes none."""
        sure = self._confidence.calibrated(probabilities)
        return found_events(times, sure, self.labels or [], self.events, quiet=(0,), everything=everything)

    def confident(self, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
        """``temperature``, ``unknown_below``, and ``events`` with the threshold as ``high``."""
        return class_options(self.events, temperature, unknown_below, threshold)

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes ``confusion.png`` and ``classes.csv``, in frames; returns accuracies and average precision by name."""
        labels = self.labels or []
        named = {key: dict(zip(labels[1:], results.pop(key), strict=True)) for key in ("average_precision",)}
        return {**report_classes(results, labels, root), **named}


def counted(out: Tensor, batch: dict[str, Any]) -> Tensor:
    """``(B, T)``, True for steps that are neither padding nor warm-up."""
    steps = torch.arange(out.shape[1], device=out.device)
    return valid_steps(batch["lengths"], out.shape[1]) & (steps >= batch["warm_up"][:, None])


def _row(event: EventSpan) -> dict[str, Any]:
    return {
        "label": event.label,
        "start_s": f"{event.start:.3f}",
        "end_s": f"{event.end:.3f}",
        "score": f"{event.score:.4f}",
    }
