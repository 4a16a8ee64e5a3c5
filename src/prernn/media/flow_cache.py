"""Optical flow of whole folders of videos, computed in advance, stored in files and read back."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from prernn.media.flow import STILL, Flow, FlowSettings, check_stack
from prernn.media.sampling import Sampling, sample_times
from prernn.media.video import VideoError, is_video, read_frames
from prernn.reports.files import whole_file
from prernn.reports.progress import bars

CACHE_SUFFIX = ".mkv"


METADATA_KEY = "PRERNN_FLOW"  # Matroska returns names in capitals


# FFV1 with its larger context model and range coder: on the flow of five clips a quarter smaller than with FFmpeg's
# default, and 8 to 29 % smaller than lossless H.264.
FFV1: dict[str, object] = {"level": "3", "coder": "1", "context": "1"}


def flow_file(video: str | Path, root: str | Path, cache: str | Path) -> Path:
    """The cache file of a video: its path relative to ``root`` with ".mkv" appended, inside ``cache``.

    Raises:
        ValueError: a video that is not inside ``root``.
    """
    try:
        name = Path(video).absolute().relative_to(Path(root).absolute())
    except ValueError:
        raise ValueError(f"{video}: expected a video below {root}") from None
    return Path(cache) / name.with_name(name.name + CACHE_SUFFIX)


def read_flow_clip(
    source: str | Path,
    sampling: Sampling,
    chance: torch.Generator | None = None,
    *,
    stack: int = 10,
    settings: FlowSettings | None = None,
    tolerate_truncation: bool = False,
) -> Tensor:
    """Reads the flow of the frames that ``sampling`` picks from a cache file: uint8 ``(T, 2 stack, H, W)``.

    Each picked frame comes as the flow of itself and of the ``stack - 1`` frames before it, oldest first, x and y
    alternating, with 128 before the start of the video. Frames are picked as in `video.read_clip`, by their times,
    which the cache stores to the millisecond.

    Args:
        source: a file that `precompute` wrote; `flow_file` gives its name.
        sampling: which frames are picked.
        chance: makes the "random" and "consecutive" rules random.
        stack: flow frames stacked for each picked frame.
        settings: those that the file must have been made with; None accepts any.
        tolerate_truncation: if the file ends early or is damaged, use the part that decodes.

    Raises:
        VideoError: a file that is missing, unreadable or cut off, no flow cache, or made with other settings.
        ValueError: a stack below 1.
    """
    check_stack(stack)
    times, whole = _times(source, settings)
    if not times or not (whole or tolerate_truncation):
        raise VideoError(f"{source}: cut off after {len(times)} frames of flow: delete it and run prernn flow again")
    picks = sample_times(times, sampling, chance)
    return _stacks(_planes(source, picks, stack), picks, stack)


@contextlib.contextmanager
def _open(source: str | Path) -> Iterator[Any]:
    if not os.path.isfile(source):
        raise VideoError(f"{source}: no such flow cache: run prernn flow")
    try:
        container = av.open(f"file:{source}")
    except FFmpegError as error:
        raise VideoError(f"{source}: not a readable flow cache: {error.strerror}") from error
    with container:
        if METADATA_KEY not in container.metadata or not container.streams.video:
            raise VideoError(f"{source}: expected a flow cache, found a file without its settings")
        yield container


def read_settings(source: str | Path) -> FlowSettings:
    """The settings that a cache file was made with. Raises VideoError if it is no cache file."""
    with _open(source) as container:
        return _settings_in(container, source)


def _settings_in(container: Any, source: str | Path) -> FlowSettings:
    text = container.metadata[METADATA_KEY]
    try:
        return FlowSettings(**json.loads(text))
    except (TypeError, ValueError):
        raise VideoError(f"{source}: expected a flow cache of known settings, got {text}") from None


def _written(settings: FlowSettings) -> str:
    return json.dumps(dataclasses.asdict(settings))


def _times(source: str | Path, settings: FlowSettings | None) -> tuple[list[float], bool]:
    """The time of each frame in seconds, without decoding, and whether the file is complete."""
    with _open(source) as container:
        own = _settings_in(container, source)
        if settings is not None and settings != own:
            raise VideoError(f"{source}: expected flow with {_written(settings)}, got {_written(own)}")
        times, end = [], 0.0
        with contextlib.suppress(FFmpegError):
            for packet in container.demux(video=0):
                if packet.size and packet.pts is not None:
                    times.append(float(packet.pts * packet.time_base))
                    end = times[-1] + float((packet.duration or 0) * packet.time_base)
        # the length is written only to a complete file; the slack allows for rounding to Matroska's milliseconds
        return times, end > (container.duration or 0) / av.time_base - 0.002


def _planes(source: str | Path, picks: list[int], stack: int) -> dict[int, np.ndarray]:
    """The pictures (2H, W) needed for the stacks of the picked frames, by index."""
    needed = {i for pick in picks for i in range(max(pick - stack + 1, 0), pick + 1)}
    planes: dict[int, np.ndarray] = {}
    with _open(source) as container:
        try:
            for i, frame in enumerate(container.decode(video=0)):
                if i in needed:
                    planes[i] = frame.to_ndarray()
                if i == picks[-1]:
                    return planes
        except FFmpegError as error:
            raise VideoError(f"{source}: flow damaged after {len(planes)} frames: {error.strerror}") from error
    raise VideoError(f"{source}: flow damaged: expected {picks[-1] + 1} frames to decode, got {len(planes)}")


def _stacks(planes: dict[int, np.ndarray], picks: list[int], stack: int) -> Tensor:
    height, width = planes[picks[0]].shape[0] // 2, planes[picks[0]].shape[1]
    clip = torch.full((len(picks), 2 * stack, height, width), STILL, dtype=torch.uint8)
    for t, pick in enumerate(picks):
        for age in range(min(stack, pick + 1)):
            channel = 2 * (stack - 1 - age)
            pair = planes[pick - age].reshape(2, height, width)  # x above y
            clip[t, channel : channel + 2] = torch.from_numpy(pair)
    return clip


def precompute(
    root: str | Path,
    cache: str | Path,
    settings: FlowSettings,
    *,
    processes: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    tolerate_truncation: bool = False,
    progress: bool = True,
    run_jobs: "Callable[..., Generator[Result, None, None]] | None" = None,
) -> dict[str, str]:
    """Computes the flow of all videos in ``root`` into ``cache``; returns the skipped ones as ``{path: reason}``.

    Each video, a file or a folder of frames, becomes one file (see `flow_file`), which appears complete or not at all.
    Existing files with the same settings are kept, so an interrupted run continues where it stopped. Hidden files are
    ignored, and so is ``cache`` if it lies inside ``root``.

    Args:
        root: folder of the videos.
        cache: folder of the flow files.
        settings: how flow is computed.
        processes: worker processes, each on one core; None means one per core. 1 computes in this process. Workers are
            started by "spawn", so a script that calls this needs the guard ``if __name__ == "__main__"``.
        on_error: "raise" stops at a video that cannot be read; "skip" goes on and reports it at the end.
        overwrite: recompute files that have other settings or can't be read.
        tolerate_truncation: use the part that decodes of a video that ends early.
        progress: show a progress bar, and what was skipped.
        run_jobs: runs the ``jobs=`` elsewhere, each with a function that `worker` makes there, and yields the results.

    Raises:
        ValueError: a root that is missing or has no videos, a file with other settings, ``processes`` below 1.
        VideoError: a video can't be read and on_error is "raise".
        OSError: a file can't be written.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')
    if processes is not None and processes < 1:
        raise ValueError(f"processes: expected at least 1, got {processes}")
    videos = _videos(Path(root), Path(cache))
    targets = {str(video): flow_file(video, root, cache) for video in videos}
    jobs = [
        (video, str(target), settings, tolerate_truncation)
        for video, target in targets.items()
        if not (target.exists() and _is_done(target, settings, overwrite))
    ]
    skipped: dict[str, str] = {}
    results = _run(jobs, processes or os.cpu_count() or 1) if run_jobs is None else run_jobs(jobs=jobs)
    with contextlib.closing(results), _bar(len(videos), len(videos) - len(jobs), progress) as advance:
        for video, reason in results:
            if reason and on_error == "raise":
                raise VideoError(reason)
            if reason:
                skipped[video] = reason
            advance()
    if skipped and progress:
        print("\n  ".join([f"skipped {len(skipped)} of {len(videos)} videos:", *skipped.values()]))
    return skipped


def _videos(root: Path, cache: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of videos, found none")
    inside = cache.resolve()
    found: list[Path] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        paths = [Path(folder, name) for name in sorted(folders)]
        folders[:] = [path.name for path in paths if not path.name.startswith(".") and path.resolve() != inside]
        frames = [path for path in paths if path.name in folders and is_video(path)]
        folders[:] = [name for name in folders if Path(folder, name) not in frames]
        found += frames + [path for name in files if is_video(path := Path(folder, name))]
    if not found:
        raise ValueError(f"{root}: expected videos or folders of frames below it, found none")
    return sorted(found)


def _is_done(target: Path, settings: FlowSettings, overwrite: bool) -> bool:
    """Whether an existing file can stay. Raises ValueError if it can't but may not be replaced."""
    try:
        own = read_settings(target)
    except VideoError as error:
        if overwrite:
            return False
        raise ValueError(f"{error}: delete it, or overwrite") from None
    if own == settings or overwrite:
        return own == settings
    raise ValueError(
        f"{target}: made with {_written(own)}, expected {_written(settings)}: use these settings, another cache, "
        "or overwrite"
    )


Job = tuple[str, str, FlowSettings, bool]
"""Video, cache file, settings, whether to tolerate a video that ends early."""


Result = tuple[str, str]
"""A video, and the reason why its flow could not be computed, or "" if it was."""


def _run(jobs: list[Job], processes: int) -> Generator[Result, None, None]:
    """Runs the jobs and yields results as they arrive; if closed early, the workers stop within one frame."""
    processes = min(processes, len(jobs))
    if processes <= 1:  # also if there are no jobs: a pool can't be empty
        with _one_thread():
            for job in jobs:
                yield _compute(job)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(processes, context, _start_worker, (stop,))
    try:
        with _interrupts_ignored():  # workers inherit this: Ctrl-C is sent to all processes
            futures = [pool.submit(_compute, job) for job in jobs]
        for done in as_completed(futures):
            yield done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_stopped: Callable[[], bool] = bool  # in a worker, tells whether the main process wants it to stop


def _start_worker(stop: Any) -> None:
    global _stopped
    import cv2

    _stopped = stop.is_set
    cv2.setNumThreads(1)  # each process uses one core
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """Ends a worker whose main process was killed and so can't tell it to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def worker() -> Callable[[Job], Result]:
    """The function that runs a job, for a process that has one core."""
    import cv2

    cv2.setNumThreads(1)
    return _compute


class _Stopped(Exception):
    """The main process wants no more results."""


def _compute(job: Job) -> Result:
    video, target, settings, tolerate = job
    try:
        _write(Path(target), _until_stopped(read_frames(video, tolerate_truncation=tolerate)), settings)
    except VideoError as error:
        return video, str(error)
    except _Stopped:
        return video, "stopped"
    except OSError as error:
        raise OSError(error.errno, f"flow not written: {error.strerror}", target) from None
    return video, ""


def _until_stopped(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    for frame in frames:
        if _stopped():
            raise _Stopped
        yield frame


def _write(path: Path, frames: Iterable[tuple[float, np.ndarray]], settings: FlowSettings) -> None:
    """Writes the flow of a video's frames and their times to a cache file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flow, last = Flow(settings), -1
    with whole_file(path) as part, av.open(f"file:{part}", "w", format="matroska") as container:
        container.metadata[METADATA_KEY] = _written(settings)
        stream = container.add_stream("ffv1", 25)
        stream.pix_fmt, stream.options = "gray", FFV1
        stream.codec_context.time_base = Fraction(1, 1000)  # Matroska's
        stream.codec_context.thread_count = 1
        for time, frame in frames:
            planes = np.concatenate(np.moveaxis(flow(frame), 2, 0))  # (2h, w)
            if last < 0:
                stream.height, stream.width = planes.shape
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="gray")
            last = picture.pts = max(round(1000 * time), last + 1)
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@contextlib.contextmanager
def _bar(total: int, done: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar over videos; gives the function that advances it."""
    with bars(disable=not show) as progress:
        task = progress.add_task("flow", total=total, completed=done, note="videos")
        yield lambda: progress.advance(task)
