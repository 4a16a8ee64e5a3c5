"""A data folder with a file of every kind that users of other tools had trouble with trains, and the truth is said."""

import warnings
from fractions import Fraction

import pytest
import yaml
from PIL import Image

from prernn.commands.main import main
from prernn.media import picture
from prernn.media.sampling import Sampling
from prernn.media.video import probe
from prernn.tasks import Action
from prernn.training.dataset import VideoDataset
from video_files import encode, grey, noise, with_streams

SPEC = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def plain(path, frames=10, size=(48, 64), **options):
    return encode(path, [noise(i, *size) for i in range(frames)], **options)


def late(path):
    plain(path, ticks=range(5000, 5400, 40))


def folder_of_frames(path):
    path.mkdir()
    for i in range(6):
        Image.fromarray(grey(i)).save(path / f"{i}.png")


def joined(path):
    path.write_bytes(plain(path).read_bytes() * 2)


def without_its_beginning(path):
    data = plain(path, 30, options={"g": "8", "bf": "0"}).read_bytes()
    path.write_bytes(data[: 188 * 3] + data[len(data) // 10 // 188 * 188 :])


ONE = 1 << 16
GOOD = {
    "plain.mp4": plain,
    "late.mkv": late,
    "late.nut": late,
    "no key frame at first.ts": without_its_beginning,
    "mirrored.mp4": lambda path: plain(path, matrix=[-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30]),
    "upright.mp4": lambda path: plain(path, matrix=[0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30]),
    "oblong.mp4": lambda path: plain(path, aspect=Fraction(2, 1)),
    "two streams.mkv": lambda path: with_streams(path, [5, 15], default=1),
    "hd.mp4": lambda path: plain(path, 3, (720, 1280), options={"preset": "ultrafast"}),
    "hdr.mp4": lambda path: plain(path, tags={"color_trc": 16}),
    "interlaced.ts": lambda path: plain(path, codec="mpeg2video", options={"flags": "+ildct+ilme"}),
    "one frame.webm": lambda path: plain(path, 1, codec="libvpx"),
    "joined.ts": joined,
    "frames": folder_of_frames,
    "ünï.AVI": lambda path: plain(path, codec="mpeg4"),
}
BAD = {
    "empty.mp4": (lambda path: path.touch(), "empty file (0 bytes)"),
    "text.mp4": (lambda path: path.write_text("no video" * 99), "not a video"),
    "truncated.mkv": (
        lambda path: path.write_bytes(plain(path, 40).read_bytes()[:-30000]),
        "truncated or damaged after",
    ),
}
SHOWN = {
    "late.mkv": (64, 48, 10, 0.4, "BT.601, assumed"),
    "upright.mp4": (48, 64, 10, 0.4, "BT.601, assumed"),
    "oblong.mp4": (128, 48, 10, 0.4, "BT.601, assumed"),
    "hd.mp4": (1280, 720, 3, 0.12, "BT.709, assumed"),
    "joined.ts": (64, 48, 20, 0.8, "BT.601, assumed"),
}
"""Width, height, frames, duration and colors of some."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of every kind of file for training, one good video of each for the test."""
    root = tmp_path_factory.mktemp("videos")
    for label in ("a", "b"):
        (root / "train" / label).mkdir(parents=True)
        (root / "test" / label).mkdir(parents=True)
        plain(root / "test" / label / "plain.mp4")
    for number, (name, make) in enumerate(GOOD.items()):
        make(root / "train" / "ab"[number % 2] / name)
    for number, (name, (make, _)) in enumerate(BAD.items()):
        make(root / "train" / "ab"[number % 2] / name)
    return root


def test_each_kind_is_read_or_refused_with_the_true_reason(root, monkeypatch):
    monkeypatch.setattr(picture, "_said", set())
    task = Action(sampling=Sampling(4))
    task.open(root, SPEC)
    data = VideoDataset(task, task.records("train"), train=True, on_error="skip")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        items = [data[i] for i in range(len(data))]
    read = {item["path"].rsplit("/", 1)[-1]: item["input"].shape for item in items if "input" in item}
    assert read.keys() == GOOD.keys()
    assert all(
        shape == (1 if name.startswith("one") else 3 if name == "hd.mp4" else 4, 3, 32, 32)
        for name, shape in read.items()
    )
    skipped = {path.rsplit("/", 1)[-1]: reason for path, reason in data.skipped.items()}
    assert skipped.keys() == BAD.keys()
    for name, (_, reason) in BAD.items():
        assert f"{name}: {reason}" in skipped[name]
    remarks = [str(warning.message) for warning in said if "skipped" not in str(warning.message)]
    assert sorted(text.rsplit("/", 1)[-1].split(" is ")[0].split(", ")[0] for text in remarks) == [
        "hdr.mp4: HDR (PQ)",
        "interlaced.ts: interlaced",
    ]


def test_what_is_said_of_each_is_true(root):
    for name, shown in SHOWN.items():
        [path] = root.glob(f"train/*/{name}")
        info = probe(path)
        assert (info.width, info.height, info.frames) == shown[:3]
        assert info.duration == pytest.approx(shown[3], abs=0.05)
        assert info.colors == shown[4]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_folder_trains(root, tmp_path, capsys):
    task = {"class_path": "prernn.tasks.Action", "init_args": {"sampling": {"frames": 4, "rule": "random"}, "size": 32}}
    values = {
        "seed_everything": 3,
        "model": {"recipe": {"backbone": "timm/test_resnet", "cell": "gru", "input": "single", "hidden": "band:3"}},
        "data": {"root": str(root), "task": task, "batch_size": 6, "num_workers": 0, "on_error": "skip"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path / "run")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    out = capsys.readouterr().out
    assert "skipped 3 videos:" in out
    for name, (_, reason) in BAD.items():
        assert f"{name}: {reason}" in out
    assert (tmp_path / "run" / "model.safetensors").exists()
