"""Videos on which trained runs are analyzed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.media.source import videos_in
from prernn.training.data_module import TEST_VIDEOS

LONGEST = 256
"""Maximum number of frames that `video_batches` reads from a video."""


Batches = Callable[[Path, SequenceNetwork], Iterable[dict[str, Any]]]
"""From a run's folder and its network to batches of videos for it."""


def own_videos(path: Path, net: SequenceNetwork) -> DataLoader:
    """The test videos of the data that a run was trained on.

    Args:
        path: the run's folder, whose config.yaml names them, or another such file.
        net: the run's network.

    Raises:
        NotImplementedError: no such file.
        ValueError: an unreadable file or videos; videos of another task, or of other classes than the network's.
    """
    return data_of(path, net, "test").test_dataloader()


def held_out_videos(path: Path, net: SequenceNetwork) -> tuple[DataLoader, str]:
    """The validation videos of the data that a run was trained on, and a description of which they are.

    They are the data set's own, or those of the training videos that ``prernn fit`` held out.

    Args:
        path: the run's folder, whose config.yaml names them.
        net: the run's network.

    Raises:
        NotImplementedError: no such file.
        ValueError: as in `own_videos`; the run has none, and validated on its test videos.
    """
    data = data_of(path, net, "fit")
    if data.datasets["val"].records and data.validation == TEST_VIDEOS:
        raise ValueError(
            f"{path}: expected videos that were held out of the training, got a run that validated on its test videos "
            "(data.holdout 0): give the data set validation videos, or train with --data.holdout 0.1"
        )
    return data.val_dataloader(), data.validation


def data_of(path: Path, net: SequenceNetwork, stage: str, words: Sequence[str] = ()) -> Any:
    """The data of a run's configuration, set up for one of Lightning's stages, after checking that it fits the network.

    Args:
        path: the run's folder, or its configuration.
        net: its network.
        stage: "test" or "fit".
        words: arguments that override the configuration.

    Raises:
        NotImplementedError: no such file.
        ValueError: an unreadable file or videos; videos of another task, or of other classes than the network's.
    """
    from prernn.training.lightning_cli import read_config

    config = path if path.is_file() else path / "config.yaml"
    wanted = "test" if stage == "test" else "validation"
    if not config.is_file():
        raise NotImplementedError(f"no {config} says which videos are its {wanted} videos")
    try:
        _, _, data = read_config(["--config", str(config), *words])
        data.setup(stage)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error
    task, labels = net.recipe.task, net.recipe.labels
    if task is not None and task.name != data.task.kept_name:
        raise ValueError(f"{config}: expected {wanted} videos of task {task.name}, got those of {data.task.kept_name}")
    if labels not in (None, data.task.labels):
        raise ValueError(f"{config}: expected the classes {labels} in its {wanted} videos, got {data.task.labels}")
    return data


def first_videos(batches: Iterable[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    """The batches' videos, at most ``limit`` of them; None gives all."""
    left = math.inf if limit is None else limit
    for batch in batches:
        if "input" not in batch:
            continue
        count = int(min(left, len(batch["input"])))
        yield {key: batch[key][:count] for key in ("input", "lengths")}
        left -= count
        if left <= 0:
            return


def video_batches(sources: Sequence[str | Path]) -> Batches:
    """Videos from anywhere as batches for `analyze`, each through the network's own evaluation transform.

    Args:
        sources: video files, folders of frames, and folders of videos (searched recursively). The first 256 frames of
            each video are taken; a network over snippets takes them in whole snippets.

    Raises:
        VideoError, a ValueError: a missing or empty source (at once), an unreadable video, or one that is shorter than
            a snippet (both when its turn comes).
        NotImplementedError: a network that does not see plain color frames (when it is asked for batches).
    """
    files = [file for source in sources for file in videos_in(Path(source))]
    return lambda folder, net: _read_batches(files, net)


def _read_batches(files: Sequence[Path], net: SequenceNetwork) -> Iterator[dict[str, Any]]:
    from prernn.media.sampling import Sampling
    from prernn.media.transforms import TransformSpec, clip_transform
    from prernn.media.video import read_clip

    channels, transform = net.frame_shape[0], net.recipe.transform
    if channels != 3 or not transform or transform.get("flow"):
        seen = f"{channels} channels" if transform else "a network without a transform"
        raise NotImplementedError(f"expected a network over color frames for videos from anywhere, got {seen}")
    prepare = clip_transform(TransformSpec.from_dict(transform), train=False)
    for file in files:
        frames = prepare(read_clip(file, Sampling(frames=LONGEST, rule="all")))  # (T, C, H, W)
        video = _snippets(frames, net.frame_shape[1], file) if len(net.frame_shape) == 4 else frames
        yield {"input": video[None], "lengths": torch.tensor([len(video)])}


def _snippets(frames: Tensor, depth: int, file: Path) -> Tensor:
    """``(T*D, C, H, W)`` to whole snippets ``(T, C, D, H, W)``; VideoError if there is none."""
    from prernn.media.video import VideoError

    count = len(frames) // depth
    if not count:
        raise VideoError(f"{file}: expected at least a snippet of {depth} frames, got {len(frames)}")
    return frames[: count * depth].unflatten(0, (count, depth)).transpose(1, 2)
