"""Online recognition of hand gestures in video: NVGesture's lists and folders, the CTC loss, metrics for a stream.

Source: PreRNN section 4.2; Molchanov et al., "Online detection and classification of dynamic hand gestures with
recurrent 3D convolutional neural networks", CVPR 2016 (R3DCNN), for data set, snippets and CTC.

A video is cut into snippets of a few frames, each of which is one step of the network. Output 0 is the blank, "no
gesture"; the network learns the order of the gestures in a video, not when they occur.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.transforms import TransformSpec, clip_transform, frame_transform
from prernn.media.video import VideoError, VideoInfo, probe, read_frames
from prernn.streaming.events import EventSpan
from prernn.streaming.watch import Watcher
from prernn.tasks.classification import report_classes
from prernn.tasks.clips.frame_rate import common_rate
from prernn.tasks.clips.mirroring import mirroring
from prernn.tasks.confidence import Confidence
from prernn.tasks.events.ctc_decoders import Decoder
from prernn.tasks.events.ctc_loss import ctc_losses, least_steps, log_probs
from prernn.tasks.gesture.events import begins_and_ends, classified, seen_frames, spikes, steps_of
from prernn.tasks.gesture.extent import DEFAULT_EXTENT, FAINTEST, gesture_decoder
from prernn.tasks.gesture.lists import NO_GESTURE, GestureVideo, Sign, apart, class_names, recordings
from prernn.tasks.task import Metrics, Subset, Task, only


@dataclass(eq=False)
class Gesture(Task):
    """Gestures in unsegmented video, with lists like NVGesture's.

    A list has one line per gesture, ``path:FOLDER SENSOR:FILE:BEGIN:END ... label:LABEL``: the sensor's video is
    ``FOLDER/FILE.avi`` (or a folder of frames without the suffix), the gesture is in frames BEGIN to END - 1, counted
    from 0, and labels count from 1. Several lines with one video are gestures of one recording. ``classes.txt``, if it
    exists, contains the names, one line ``LABEL NAME`` each.

    Attributes:
        modality: sensor to read, such as "depth", "color" or "duo_left". "duo_right" and "duo_disparity", which the
            lists omit, take the annotation of "duo_left". Grey video is read as three equal channels.
        snippet: number of frames D per step; snippets don't overlap. 1 gives single frames ``(T, C, H, W)``.
        window: "video" reads whole videos; "gesture" reads only the interval of each gesture, which is always 80 frames
            long in NVGesture's lists (weak segmentation), as a separate item.
        pad: frames before and after a gesture that the window "gesture" includes, up to half the way to the next.
        train_list: name of the training list in the root folder, or its path.
        val_list: name or path of the validation list, if there is one.
        test_list: name or path of the test list.
        size: side of the network's input in pixels; None takes the backbone's, as for ``mean`` and ``std``.
        mean: of each channel, for pixel values in [0, 1].
        std: of each channel, for pixel values in [0, 1].
        resize: see `TransformSpec`.
        scale: see `TransformSpec`.
        flip: whether training mirrors half of the videos; never if the names of two gestures differ only by left and
            right, or words like them.
        decoder: decoder of the evaluation, see `prernn.tasks.events.ctc_decoders.make_decoder`.
        decoder_options: options of its constructor.
        extent: how far events extend over the steps around the one in which the network is confident of a gesture, see
            `prernn.tasks.gesture.extent.WholeGestures`: the lower, the longer; at 1 they are as the decoder finds them.
        tolerance: number of frames after a gesture's end in which its detection still counts.
        temperature: divides the outputs before the softmax of evaluation and streams, see
            `prernn.tasks.confidence.temperature`.
        threshold: probability that an event must reach; others are dropped.
        unknown_below: probability, when it is reported, below which a stream's event is labeled "unknown".
        deinterlace: deinterlace frames that are marked as interlaced.
    """

    modality: str = "depth"
    snippet: int = 8
    window: Literal["video", "gesture"] = "video"
    pad: int = 0
    train_list: str = "nvgesture_train_correct_cvpr2016_v2.lst"
    val_list: str | None = None
    test_list: str = "nvgesture_test_correct_cvpr2016_v2.lst"
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: tuple[float, float] = (0.6, 1.0)
    flip: bool = False
    decoder: str = "greedy"
    decoder_options: dict[str, Any] = field(default_factory=dict)
    extent: float = DEFAULT_EXTENT
    tolerance: int = 16
    temperature: float = 1.0
    threshold: float = 0.0
    unknown_below: float = 0.0
    deinterlace: bool = False

    name: ClassVar[str] = "gesture"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")
    joins_clips: ClassVar[bool] = True
    loss_of_frames: ClassVar[bool] = False
    watcher_options: ClassVar[tuple[str, ...]] = ("commands", "decoder", "events")
    kept_options: ClassVar[tuple[str, ...]] = (
        "modality",
        "snippet",
        "decoder",
        "decoder_options",
        "extent",
        "tolerance",
        "temperature",
        "threshold",
        "unknown_below",
        "deinterlace",
    )

    def __post_init__(self) -> None:
        if self.window not in ("video", "gesture"):
            raise ValueError(f'window: expected "video" or "gesture", got {self.window!r}')
        for name, least in (("snippet", 1), ("pad", 0), ("tolerance", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least} frames, got {getattr(self, name)}")
        self._decoder()  # raises for invalid options
        Confidence(self.temperature, self.unknown_below)  # likewise
        self._root = Path()
        self._infos: dict[str, VideoInfo] = {}  # of the videos opened so far
        self._files: list[str] = []  # all videos, those for training first

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the names of the gestures from ``classes.txt``, or else from the labels in the lists.

        Raises:
            ValueError: no list, or a malformed one (the message names file and line); fewer than 2 gestures.
        """
        self._root = Path(root)
        own = {key: value for key in ("size", "mean", "std") if (value := getattr(self, key)) is not None}
        spec = {key: spec[key] for key in ("size", "mean", "std")}
        names = class_names(self._root / "classes.txt")
        lists = [path for name in (self.train_list, self.val_list, self.test_list) if (path := self._list(name))]
        if not lists:
            raise ValueError(f"{self._root}: expected a list {self.train_list} or {self.test_list}, found none")
        videos = [video for path in lists for video in recordings(path, self._root, self.modality, len(names or ()))]
        self._files = [video.file for video in videos]
        if names is None:
            names = [f"gesture {k + 1}" for k in range(max(sign.label for video in videos for sign in video.signs))]
        if len(names) < 2:
            raise ValueError(f"{self._root}: expected at least 2 gestures, got {names}")
        self.labels = [NO_GESTURE, *names]
        mirror, self.remarks = mirroring(self.flip, names)
        self.spec = TransformSpec(**{**spec, **own}, resize=self.resize, scale=self.scale, flip=mirror)
        self.transform = asdict(self.spec)

    @property
    def rate(self) -> float | None:
        """Frames, not snippets, a second of the videos, if they have a common rate."""
        return common_rate(self._files)

    def _list(self, name: str | None) -> Path | None:
        return self._root / name if name and (self._root / name).is_file() else None

    def records(self, subset: Subset) -> list[GestureVideo]:
        """The videos of a subset, or its gestures if the window is "gesture", in the list's order."""
        name = {"train": self.train_list, "val": self.val_list, "test": self.test_list}[subset]
        if name is None:
            raise ValueError(f"{self._root}: expected val_list to name a list, got None")
        videos = recordings(self._root / name, self._root, self.modality, self.outputs - 1)
        return videos if self.window == "video" else [part for video in videos for part in apart(video, self.pad)]

    @property
    def has_validation(self) -> bool:
        """Whether ``val_list`` is given."""
        return self.val_list is not None

    def recording(self, record: GestureVideo) -> tuple[int, str]:
        """The gesture's label if there is only one, and the video, whose gestures stay together."""
        return record.signs[0].label if len(record.signs) == 1 else 0, record.file

    def examples(self, records: Sequence[GestureVideo]) -> dict[str, int]:
        """How often each gesture occurs."""
        assert self.labels is not None
        counts = Counter(sign.label for video in records for sign in video.signs)
        return {name: counts[label] for label, name in enumerate(self.labels) if label}

    def length(self, record: GestureVideo) -> int:
        """Number of snippets that the video will have."""
        start, stop = self._bounds(record)
        return self._steps(stop - start)

    def probe(self, record: GestureVideo) -> None:
        """Opens the video, and checks that it is as long as its annotation says."""
        self._bounds(record)

    def read(
        self, record: GestureVideo, chance: torch.Generator | None, *, tolerate_truncation: bool = False
    ) -> dict[str, Any]:
        """One video, or the window of one gesture.

        ``input`` ``(T, C, D, H, W)``, with one crop for all frames; ``target`` int64 ``(N,)``, the labels in order;
        ``intervals`` int64 ``(N, 2)``, begin and end of each in the frames read; ``frames``, their number; ``fps``.

        The last snippet is completed by repeating the last frame if at least half of it is there, because a gesture may
        end in it; otherwise it is dropped, as it would be mostly made up.

        Raises:
            VideoError: no such video, one that can't be decoded, an interval beyond its end, depth and color of
                different length, fewer snippets than CTC needs for the gestures.
        """
        start, stop = self._bounds(record)
        # evaluation transforms each frame as a stream's frames are
        each = torch.from_numpy if chance else frame_transform(self.spec)
        reading = {"tolerate_truncation": tolerate_truncation, "deinterlace": self.deinterlace}
        frames = _frames(record.file, start, stop, each, **reading)
        if chance:
            frames = clip_transform(self.spec, train=True)(frames.permute(0, 3, 1, 2))  # (F, 3, S, S)
        signs = _within(record, start, len(frames), tolerate_truncation)
        target = torch.tensor([sign.label for sign in signs])
        steps = self._steps(len(frames))
        needed = least_steps(target)
        if steps < needed:
            raise VideoError(
                f"{record.where}: {record.file}: expected at least {needed} snippets for its gestures, got {steps}"
            )
        return {
            "input": self._snippets(frames),
            "target": target,
            "intervals": torch.tensor([(sign.begin - start, sign.end - start) for sign in signs]),
            "frames": len(frames),
            "fps": self._infos[record.file].fps,
        }

    def _bounds(self, record: GestureVideo) -> tuple[int, int]:
        """First frame to read and the one after the last, after checking that the annotation fits the video."""
        total = self._info(record.file, record.where).frames or 0
        if record.twin is not None and Path(record.twin).exists():
            twin = self._info(record.twin, record.where).frames
            if twin != total:
                raise VideoError(
                    f"{record.where}: expected videos of one length, got {total} frames in {record.file} "
                    f"and {twin} in {record.twin}"
                )
        for sign in record.signs:
            if sign.end > total:
                raise VideoError(
                    f"{sign.where}: expected an interval within the {total} frames of {record.file}, "
                    f"got {sign.begin}:{sign.end}"
                )
        start, stop = record.bounds
        return start or 0, min(total, stop or total)

    def _info(self, path: str, where: str) -> VideoInfo:
        if path not in self._infos:
            try:
                self._infos[path] = probe(path)
            except VideoError as error:
                raise VideoError(f"{where}: {error}") from error
        return self._infos[path]

    def _steps(self, frames: int) -> int:
        full, rest = divmod(frames, self.snippet)
        return full + (2 * rest >= self.snippet or full == 0)

    def _snippets(self, frames: Tensor) -> Tensor:
        """Frames ``(F, C, H, W)`` to snippets ``(T, C, D, H, W)``; unchanged if D is 1."""
        if self.snippet == 1:
            return frames
        total = self._steps(len(frames)) * self.snippet
        last = frames[-1:].expand(max(0, total - len(frames)), -1, -1, -1)
        whole = torch.cat([frames[:total], last]).unflatten(0, (-1, self.snippet))  # (T, D, C, H, W)
        return whole.transpose(1, 2).contiguous()  # (T, C, D, H, W)

    def join(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Videos one after the other: all their gestures, in frames of the joined snippets."""
        begins = [0, *itertools.accumulate(len(item["input"]) * self.snippet for item in items)]
        intervals = [item["intervals"] + begin for item, begin in zip(items, begins, strict=False)]
        frames = begins[len(items) - 1] + items[-1]["frames"]
        return {**super().join(items), "intervals": torch.cat(intervals), "frames": frames}

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Mean over the videos of ``-log p(gestures)`` under CTC, in float32 at least.

        It is not divided by the number of gestures: a video counts as one labeling. An empty batch gives 0, and a row
        of videos without weight is ignored.

        Raises:
            ValueError: lengths outside 1..T.
        """
        if len(out) == 0:
            return out.sum()
        loss = ctc_losses(out, batch["target"], batch["lengths"])  # collate pads with the blank
        if "weight" not in batch:
            return loss.mean()
        heard = (batch["weight"] > 0).any(1)
        return loss.masked_fill(~heard, 0).sum() / heard.sum().clamp(min=1)

    def metrics(self) -> Metrics:
        """See `GestureMetrics`."""
        # torchmetrics takes seconds to import, which workers and streams don't need
        from prernn.tasks.gesture.metrics import GestureMetrics

        frames = {"snippet": self.snippet, "tolerance": self.tolerance}
        return GestureMetrics(self.outputs - 1, self._decoder(), **frames, temperature=self.temperature)

    def _decoder(self) -> Decoder:
        return gesture_decoder(self.decoder, self.decoder_options, self.extent, self.threshold)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per video.

        It has ``path``; the ``true`` gestures; the ``label`` and ``probability`` of each by classification; and for the
        events ``decoded``, ``begin_frame``, ``end_frame`` (the one after the last), and ``seen_frame``, the number of
        frames that had come when each was reported. Several are joined by "; ", in order of time.
        """
        assert self.labels is not None  # without labels there would be no network
        rows, decoder = [], self._decoder()
        parts = classified(out, batch, self.snippet, self.temperature)
        for video, path in enumerate(batch["path"]):
            frames = int(batch["frames"][video])
            begins, ends = begins_and_ends(decoder.events(steps_of(out, batch, video, self.temperature)))
            target = batch["target"][video]
            probabilities = next(parts).softmax(-1).max(-1)  # (N,)
            columns = {
                "true": [self.labels[k] for k in target[target > 0].tolist()],
                "label": [self.labels[k + 1] for k in probabilities.indices.tolist()],
                "probability": [f"{p:.4f}" for p in probabilities.values.tolist()],
                "decoded": [self.labels[event.label] for event in begins],
                "begin_frame": [str(event.begin * self.snippet) for event in begins],
                "end_frame": [str(min((event.end or 0) * self.snippet, frames)) for event in ends],
                "seen_frame": [str(seen_frames(event, self.snippet, frames)) for event in begins],
            }
            rows.append({"path": path, **{name: "; ".join(values) for name, values in columns.items()}})
        return rows

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """Gestures as they begin and end.

        Args:
            nets: one network.
            options: ``commands``, a file that maps gestures to commands, ``decoder``, "greedy" or "beam", and
                ``events``, whether there is also a row for each whole event.
        """
        from prernn.tasks.gesture.watcher import GestureWatcher, load_commands

        table = options.pop("commands", None)
        commands = None if table is None else load_commands(table, only(nets).recipe.labels)
        return GestureWatcher(only(nets), commands=commands, **options)

    def answers(self, out: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The outputs of each gesture's most confident step, which give its event's probability, and its label."""
        return spikes(out, batch, self.snippet)

    def events_in(self, times: Sequence[float], probabilities: Tensor, *, everything: bool = False) -> list[EventSpan]:
        """The events of the decoder; ``times`` and frames are per step."""
        decoder = replace(self, threshold=0.0)._decoder() if everything else self._decoder()
        scores = log_probs(probabilities.clamp(min=FAINTEST).log(), self.temperature)
        _, ends = begins_and_ends(decoder.events(scores))
        after = [*times, times[-1]]  # the source has ended
        return [
            EventSpan((self.labels or [])[e.label], times[e.begin], after[e.end], e.probability, e.begin, e.end)
            for e in ends
            if e.end is not None
        ]

    def confident(self, temperature: float, unknown_below: float, threshold: float | None) -> dict[str, Any]:
        """``temperature``, ``unknown_below`` and ``threshold``."""
        high = self.threshold if threshold is None else min(threshold, 1.0)
        return {"temperature": temperature, "unknown_below": unknown_below, "threshold": high}

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes ``confusion.png`` and ``classes.csv`` of the gestures; returns their accuracies by name."""
        return report_classes(results, (self.labels or [])[1:], root)


def _frames(path: str, start: int, stop: int, each: Callable[[np.ndarray], Tensor], **reading: Any) -> Tensor:
    """The results of ``each`` for frames ``start`` to ``stop - 1``; fewer if the video ends early and is allowed to."""
    reader = read_frames(path, **reading)
    with closing(reader):  # type: ignore[type-var]  # a generator
        images = [each(image) for _, image in itertools.islice(reader, start, stop)]
    if not images:
        raise VideoError(f"{path}: expected frames {start} to {stop - 1}, it ends before them")
    return torch.stack(images)


def _within(record: GestureVideo, start: int, frames: int, tolerate: bool) -> list[Sign]:
    """The gestures within the ``frames`` frames that were read from ``start`` on."""
    end = start + frames
    missing = [sign for sign in record.signs if sign.end > end]
    left = [sign._replace(end=min(sign.end, end)) for sign in record.signs if sign.begin < end]
    if missing and not (tolerate and left):
        sign = missing[0]
        raise VideoError(
            f"{sign.where}: expected an interval within the {end} frames of {record.file}, got {sign.begin}:{sign.end}"
        )
    return left
