"""Face alignment in video: 68 landmarks at every frame, on 300VW's folders (PreRNN, section 4.1)."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real
from prernn.media.sampling import Sampling, sample_indices
from prernn.media.transforms import TransformSpec
from prernn.media.video import VideoError, probe
from prernn.reports.files import write_table
from prernn.streaming.watch import Watcher
from prernn.tasks.clips.frame_rate import sampled_rate
from prernn.tasks.face import landmarks
from prernn.tasks.face.box import crop_face, face_box, moved, normalize, square, to_box
from prernn.tasks.face.detection.over_video import DetectedBoxes
from prernn.tasks.face.errors import FilteredPoints, landmark_loss, plot_errors, point_verdicts, prediction_rows
from prernn.tasks.face.kalman import Kalman
from prernn.tasks.face.landmarks import OUTPUTS, SIZES
from prernn.tasks.face.moving import Moving, moved_pictures, moved_points, path
from prernn.tasks.face.smoothing import PointFilter, Smoothing, smoothing_from
from prernn.tasks.face.videos import FaceVideo, FrameReader, annotations, checked_points, numbered, subsets
from prernn.tasks.task import Metrics, Subset, Task, Verdict, only

DEFAULT_SAMPLING = Sampling(frames=16, rule="consecutive")

ONE_PICTURE = Sampling(frames=1, rule="random")
"""Which picture of a video with a moving picture is used: any in training, the middle one in evaluation."""


@dataclass(eq=False)
class Face(Task):
    """Landmarks of the face in a square box around it, with the l2 loss of `landmark_loss`.

    Data: ``root/<id>/vid.avi`` with ``root/<id>/annot/000001.pts`` and so on, one file per frame. ``train.txt`` and
    ``test.txt`` in root, one id per line, assign the videos, and so may ``val.txt``; without them 80 % of the videos
    are for training and the others for testing, as in the paper.

    Outputs: K = 136, x then y of point 0, of point 1, and so on, in the coordinates of `prernn.tasks.face.box`: from
    the box's center, in units of its side. The origin is the center because a new output layer starts near zero. The
    unit is the side because then a network whose AUC is as in the paper's Table 2 has about the losses of the
    supplement's Table 1 (`FaceMetrics.distance`): 0.763 is a mean error of 0.019 inter-ocular distances, which is 0.008
    of a box side (the eyes take up 0.4 of a box with the default margin), or 0.063 over 68 points if all have the same
    error, and more if they do not; the table says 0.082.

    Box: that of the annotated points, in evaluation too, so that the network is told where the face is and how large,
    at every frame ("annotation") or only at the first frame of a clip ("first", where the box then stays). With
    "annotation" the errors are those of a perfect face detector; ``detector`` adds those of a real one, at every frame
    as in the paper; `prernn.tasks.face.watcher` uses a detector at the first frame only.

    Evaluation: whole videos, in clips whose state carries over from one to the next, as in a stream (``carry``).

    Attributes:
        base: coordinate of the first pixel in the .pts files: 1 for 300VW, which counts as Matlab does.
        sampling: frames of a clip; consecutive, because recurrence learns from motion.
        clips: number of clips per epoch from each training video.
        every_frame: evaluation covers all frames of a video in consecutive clips, if the rule is "consecutive";
            otherwise it sees one clip of each video, from the middle.
        carry: in evaluation these clips, and filters, continue from each other's state; False starts each clip from
            zero, as in training. With the box "first" they start from zero, because their boxes change.
        box: where the box comes from, see above; in training and evaluation alike.
        margin: how far the box extends beyond the points at each end, in longer sides of their bounding box.
        shift: training shifts the box by up to this share of its side, drawn once for all frames of a clip, so that the
            motion in it does not change.
        scale: training scales the box by up to this share, also drawn once for a clip.
        flip: training mirrors half of the clips, and swaps left and right landmarks with them.
        size: side of the network's input in pixels; None takes what the backbone expects, as do the next two.
        mean: of each color channel, for pixel values in [0, 1].
        std: of each color channel, for pixel values in [0, 1].
        threshold: for AUC and failure rate, in sizes of the normaliser: 0.08 for "eyes" (Chrysos et al., IJCV 2018, for
            300VW), 0.07 for "box" (Bulat and Tzimiropoulos, ICCV 2017). The paper does not state its own.
        normaliser: what errors are divided by, "eyes", "pupils" or "box": see `prernn.tasks.face.landmarks.SIZES`.
        detector: in evaluation each video is also run in the boxes found by this detector
            (`prernn.tasks.face.detection.over_video`), for metrics ``detected_...``: "cascade", "mediapipe" or
            "yunet:FILE". The paper used Faster R-CNN.
        allow_outside: accept landmarks outside the picture, which are an error otherwise.
        split_seed: seed of the 80/20 split.
        deinterlace: deinterlace frames that are marked as interlaced.
        moving: clips are one picture of each video, moved along a known path (`prernn.tasks.face.moving`), a different
            one in each training epoch; ``sampling`` and ``every_frame`` are then ignored. With the box "first" the
            face moves within it.
        motion_weight: weight of the motion from frame to frame in the loss, see `landmark_loss`.
        smooth: the One-Euro filter applied to predicted points in tests, predictions and streams
            (`prernn.tasks.face.smoothing`); the loss and ``distance`` are those of the outputs themselves.
        kalman: a Kalman filter instead (`prernn.tasks.face.kalman`).
    """

    name: ClassVar[str] = "face"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("nme", "min")  # AUC is 0 as long as errors are large
    joins_clips: ClassVar[bool] = True
    watcher_options: ClassVar[tuple[str, ...]] = ("detector", "smooth")
    kept_options: ClassVar[tuple[str, ...]] = (
        *("base", "box", "margin", "threshold", "normaliser", "deinterlace", "smooth", "kalman"),
    )

    base: int = 1
    sampling: Sampling = DEFAULT_SAMPLING
    clips: int = 1
    every_frame: bool = True
    carry: bool = True
    box: Literal["annotation", "first"] = "annotation"
    margin: float = 0.2
    shift: float = 0.05
    scale: float = 0.1
    flip: bool = True
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    threshold: float = 0.08
    normaliser: Literal["eyes", "pupils", "box"] = "eyes"
    detector: str | None = None
    allow_outside: bool = False
    split_seed: int = 0
    deinterlace: bool = False
    moving: Moving | None = None
    motion_weight: float = 0.0
    smooth: Smoothing | None = None
    kalman: Kalman | None = None
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.base not in (0, 1) or self.clips < 1:
            raise ValueError(f"expected a base of 0 or 1 and at least 1 clip, got {self.base} and {self.clips}")
        if self.box not in ("annotation", "first"):
            raise ValueError(f'box: expected "annotation" or "first", got {self.box!r}')
        if min(self.margin, self.shift, self.scale) < 0 or self.scale >= 1 or self.threshold <= 0:
            values = f"{self.margin}, {self.shift}, {self.scale}, {self.threshold}"
            raise ValueError(f"expected margin, shift >= 0, 0 <= scale < 1 and threshold > 0, got {values}")
        if isinstance(self.moving, dict):
            self.moving = Moving(**self.moving)
        if isinstance(self.smooth, dict):  # from a checkpoint
            self.smooth = Smoothing(**self.smooth)
        if isinstance(self.kalman, dict):
            self.kalman = Kalman(**self.kalman)
        if self.smooth is not None and self.kalman is not None:
            raise ValueError("expected smooth or kalman, one filter, got both")
        if self.normaliser not in SIZES:
            raise ValueError(f"normaliser: expected one of {', '.join(SIZES)}, got {self.normaliser!r}")
        if self.detector is not None and (self.moving is not None or self.box == "first"):
            raise NotImplementedError("expected a detector with box annotation and without moving, got it with one")
        real("motion_weight", self.motion_weight, 0)
        if self.sampling.fps is not None:
            raise NotImplementedError("face: expected sampling by frames, got fps: annotations belong to frames")
        self._subsets: dict[str, list[str]] = {}
        self._reader = FrameReader()
        self._checked: dict[str, list[Path]] = {}  # annotations of each video
        self._points_of = FilteredPoints(self.filter)  # for predictions
        self._detected = None if self.detector is None else DetectedBoxes(self.detector)

    @property
    def filter(self) -> PointFilter | None:
        """The filter applied to predicted points."""
        return self.smooth or self.kalman

    @property
    def outputs(self) -> int:
        """136: x and y of 68 points."""
        return OUTPUTS

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Finds the videos; see `Task.open`."""
        own = {key: getattr(self, key) for key in ("size", "mean", "std") if getattr(self, key) is not None}
        self.spec = TransformSpec(**{**spec, **own}, flip=self.flip)
        self.transform = asdict(self.spec)
        self.root = Path(root)
        self._subsets = subsets(self.root, self.split_seed)

    def records(self, subset: Subset) -> list[FaceVideo]:
        """The videos of a subset: in training each ``clips`` times, in evaluation in the clips that cover each."""
        paths = [self._video(name) for name in self._subsets[subset]]
        if subset == "train":
            return [FaceVideo(path) for path in paths for _ in range(self.clips)]
        return self.evaluated([FaceVideo(path) for path in paths])

    def _video(self, name: str) -> str:
        return str(self.root / name / "vid.avi")

    @property
    def rate(self) -> float | None:
        """The frame rate of the clips: the training videos' own over the sampling's stride, see `sampled_rate`."""
        if self.moving is not None:
            return self.moving.fps
        return sampled_rate(self.sampling, [self._video(name) for name in self._subsets.get("train", [])])

    @property
    def has_validation(self) -> bool:
        """Whether there is a ``val.txt``."""
        return "val" in self._subsets

    def evaluated(self, records: Sequence[FaceVideo]) -> list[FaceVideo]:
        """Each video once, in the clips that cover it; with a detector, once more in its boxes."""
        paths, ways = dict.fromkeys(record.path for record in records), (False, True)[: 1 + (self.detector is not None)]
        return [FaceVideo(path, clip, way) for path in paths for way in ways for clip in self._clips(path)]

    def goes_on(self, record: FaceVideo) -> bool:
        """Whether it is a later clip of a video whose state carries over."""
        return self.carry and self.box != "first" and record.frames is not None and record.frames.start > 0

    def _clips(self, path: str) -> list[range | None]:
        length, stride = self.sampling.frames, self.sampling.stride
        total = len(list(annotations(path).glob("*.pts")))
        if (
            self.moving is not None
            or not self.every_frame
            or self.sampling.rule != "consecutive"
            or length is None
            or total == 0
        ):
            return [None]
        frames = range(0, total, stride)
        return [frames[start : start + length] for start in range(0, len(frames), length)]

    def length(self, record: FaceVideo) -> int:
        """Number of frames of a clip."""
        if self.moving is not None:
            return self.moving.frames
        if record.frames is not None:
            return len(record.frames)
        return len(sample_indices(len(list(annotations(record.path).glob("*.pts"))), self.sampling))

    def read(self, record: FaceVideo, chance: torch.Generator | None, *, tolerate_truncation: bool = False):
        """A clip, see `Task.read`.

        It has ``input (T, 3, S, S)`` of crops, ``points (T, 136)`` in box coordinates, ``boxes (T, 4)`` and
        ``truth (T, 68, 2)`` in pixels of the picture, ``frame (T,)``, counted from 1, and ``time (T,)`` in seconds; in
        evaluation ``goes_on`` and, with a detector, ``way``, 1 in its boxes, and ``missed (T,)``, where it found none.
        """
        files = self._files(record.path, tolerate_truncation)
        sampling = self.sampling if self.moving is None else ONE_PICTURE
        picks = record.frames or sample_indices(len(files), sampling, chance)
        frames = self._reader.read(record.path, picks, tolerate_truncation, self.deinterlace)  # T of (H, W, 3)
        picks = picks[: len(frames)]
        height, width = frames[0].shape[:2]
        truth = torch.stack([self._points(files[i], height, width) for i in picks])  # (T, 68, 2)
        if chance is not None and self.flip and bool(torch.rand((), generator=chance) < 0.5):
            frames = [frame[:, ::-1] for frame in frames]
            truth = landmarks.mirror(truth, width)
        if self.moving is not None:
            frames, truth = self._moved(frames[0], truth[0], chance or self._own_chance(record.path))
            picks = range(len(frames))
        rate = self.moving.fps if self.moving is not None else probe(record.path).fps
        boxes, more = self._boxes(truth, chance), self._way(record, truth) if chance is None else {}
        boxes = more.pop("boxes", boxes)  # (T, 4)
        crops = torch.stack([crop_face(*pair, self.spec.size) for pair in zip(frames, boxes, strict=True)])
        return {
            "input": normalize(crops, self.spec),  # (T, 3, S, S)
            "points": to_box(truth, boxes).flatten(1).float(),  # (T, 136)
            "boxes": boxes.float(),
            "truth": truth.float(),
            "frame": torch.tensor(picks) + 1,
            "time": torch.tensor(picks, dtype=torch.float64) / rate,
            **more,
        }

    def _way(self, record: FaceVideo, truth: Tensor) -> dict[str, Any]:
        """What an evaluation item has in addition: whether it continues and, with a detector, whose boxes it has."""
        more: dict[str, Any] = {} if record.frames is None else {"goes_on": int(self.goes_on(record))}
        if self._detected is None:
            return more
        more |= {"way": int(record.detected), "missed": torch.zeros(len(truth), dtype=torch.bool)}
        if record.detected:
            boxes, missed = self._detected.of(record.path, deinterlace=self.deinterlace)
            picks = list(record.frames or sample_indices(len(boxes), self.sampling))[: len(truth)]
            more |= {"boxes": square(boxes[picks], self.margin), "missed": missed[picks]}
        return more

    def moving_pictures(self, record: FaceVideo) -> tuple[list[np.ndarray], Tensor]:
        """Frames ``(H, W, 3)`` and landmarks ``(T, 68, 2)`` of a video with a moving picture, as in evaluation.

        Raises:
            ValueError: a task without `moving`; also VideoError, a ValueError, for a video that can't be read.
        """
        files = self._files(record.path, False)
        picks = sample_indices(len(files), ONE_PICTURE)
        (frame,) = self._reader.read(record.path, picks, False, self.deinterlace)
        points = self._points(files[picks[0]], *frame.shape[:2])
        return self._moved(frame, points, self._own_chance(record.path))

    def _moved(self, frame: np.ndarray, points: Tensor, chance: torch.Generator) -> tuple[list[np.ndarray], Tensor]:
        """Frames ``(H, W, 3)`` of one moving picture, and their landmarks ``(T, 68, 2)``."""
        if self.moving is None:
            raise ValueError("face: expected a task whose pictures move, got moving=None")
        box = face_box(points, self.margin)
        maps = path(self.moving, float(box[2] - box[0]), (box[:2] + box[2:]) / 2, chance)
        return list(moved_pictures(frame, maps, self.moving.noise, chance)), moved_points(points, maps)

    def _own_chance(self, video: str) -> torch.Generator:
        """The random generator of a video's evaluation, the same each time."""
        return torch.Generator().manual_seed(zlib.crc32(Path(video).parent.name.encode()))

    def _files(self, path: str, tolerate: bool) -> list[Path]:
        """A video's annotations, one per frame."""
        if path not in self._checked:
            files = numbered(annotations(path))
            info = probe(path)
            frames = info.frames or 0
            if frames > len(files):
                raise VideoError(f"{path}: frame {len(files) + 1} of {frames} has no annotation")
            if frames < len(files) and not tolerate:
                raise VideoError(f"{path}: {len(files)} annotations for {frames} frames: {files[frames]} has none")
            # all of them at once, so that a video with a bad annotation is skipped as a whole, not only in part
            for file in files[:frames]:
                self._points(file, info.height, info.width)
            self._checked[path] = files
        return self._checked[path]

    def _points(self, file: Path, height: int, width: int) -> Tensor:
        return checked_points(file, self.base, height, width, self.allow_outside)

    def _boxes(self, truth: Tensor, chance: torch.Generator | None) -> Tensor:
        boxes = face_box(truth, self.margin)  # (T, 4)
        if self.box == "first":
            boxes = boxes[:1].expand_as(boxes)
        if chance is None:
            return boxes
        x, y, scale = ((torch.rand(3, generator=chance, dtype=boxes.dtype) * 2) - 1).unbind()
        return moved(boxes, torch.stack([x, y]) * self.shift, 1 + scale * self.scale)

    def join(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Faces one after the other; ``begins (T,)`` marks where."""
        return super().join([{**item, "begins": torch.arange(len(item["input"])) == 0} for item in items])

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """`landmark_loss`."""
        if not out.shape[0]:
            return out.sum()
        rows = {name: batch.get(name) for name in ("weight", "begins")}
        return landmark_loss(out, batch["points"], batch["lengths"], self.motion_weight, **rows)

    def metrics(self) -> Metrics:
        """Errors, AUC and jitter."""
        # torchmetrics takes seconds to import, which workers and streams don't need
        from prernn.tasks.face.metrics import BesideDetected, FaceMetrics

        make = partial(FaceMetrics, self.threshold, self.filter, self.normaliser)
        return make() if self.detector is None else BesideDetected(make)

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per frame: path, number of the frame from 1, normalized error, and the points in 0-based pixels."""
        return prediction_rows(self._points_of(out, batch), batch, self.normaliser)

    def verdicts(self, out: Tensor, batch: dict[str, Any]) -> list[Verdict]:
        """The points of each clip, and its normalized error."""
        return point_verdicts(out, batch, self.normaliser)

    @property
    def clip_length(self) -> int | None:
        """Number of frames of a clip, if the sampling rule takes a fixed number."""
        return self.sampling.frames if self.moving is None else self.moving.frames

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The landmarks of one face.

        Args:
            nets: one network.
            options: ``detector``, "cascade" by default, see `prernn.tasks.face.detection.detectors.detector_from`;
                ``smooth``, MIN_CUTOFF,BETA of a One-Euro filter or "none", instead of the run's.
        """
        from prernn.tasks.face.detection.detectors import detector_from
        from prernn.tasks.face.watcher import FaceWatcher

        detector = detector_from(options.pop("detector", "cascade"))
        smoothing = smoothing_from(options.pop("smooth")) if "smooth" in options else self.filter
        return FaceWatcher(only(nets), detector=detector, smoothing=smoothing, **options)

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Writes ``ced.png`` and ``ced.csv`` (level, share of frames), which replace the errors themselves."""
        found = results.get("detected_errors", [])
        curves = {"true boxes": results["errors"], "detected boxes": found} if found else {"": results["errors"]}
        rest = {key: value for key, value in results.items() if not key.endswith("errors")}
        rest |= {"threshold": self.threshold, "normaliser": self.normaliser}
        if results["errors"]:
            plot_errors(curves, root / "ced.png", self.threshold, self.normaliser)
            levels, shares = landmarks.cumulative_error(torch.tensor(results["errors"]), self.threshold)
            rows = zip(levels.tolist(), shares.tolist(), strict=True)
            write_table(root / "ced.csv", [{"error": f"{a:.6f}", "share": f"{b:.6f}"} for a, b in rows])
        return rest
