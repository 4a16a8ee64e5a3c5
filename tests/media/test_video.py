"""Reading video: files, folders of frames, and clips of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling, sample_times
from prernn.media.video import VideoError, VideoInfo, probe, read_clip, read_frames
from video_files import REORDERED, SHARED, drain, encode, grey, level, needs_shared


@pytest.mark.parametrize(("height", "width"), [(24, 32), (121, 161), (25, 32), (17, 33)])
def test_what_is_written_is_read_back(tmp_path, height, width):
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None].astype(np.uint8)
    images = [ramp // 2 + np.array([0, 40, 80 + i], np.uint8) for i in range(7)]
    assert write_video(tmp_path / "a.mp4", images, 12.5) == 7
    times, back = zip(*read_frames(tmp_path / "a.mp4"), strict=True)
    assert np.allclose(times, np.arange(7) / 12.5)
    assert all(image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable for image in back)
    assert np.abs(np.stack(back).astype(int) - np.stack(images)).mean() < 3
    assert probe(tmp_path / "a.mp4") == VideoInfo(7, 12.5, width, height, pytest.approx(7 / 12.5), "BT.601")


def test_one_frame(tmp_path):
    write_video(tmp_path / "one.mp4", [grey(5)], 25)
    assert [(time, level(image)) for time, image in read_frames(tmp_path / "one.mp4")] == [(0.0, 5)]
    assert read_clip(tmp_path / "one.mp4", Sampling(8)).shape == (1, 3, 24, 32)


def test_times_of_a_variable_rate_come_from_the_file(tmp_path):
    ticks = [400, 440, 480, 900, 2400, 2410, 2500]  # does not start at 0 either
    path = encode(tmp_path / "vfr.mp4", [grey(i) for i in range(7)], ticks=ticks)
    times, images = zip(*read_frames(path), strict=True)
    assert np.allclose(times, (np.array(ticks) - 400) / 1000, atol=2e-3)
    assert [level(image) for image in images] == list(range(7))
    assert [level(image) for image in read_clip(path, Sampling(None, "all", fps=1))] == [0, 3, 4]


@pytest.mark.parametrize("name", ["b.avi", "b.mkv", "b.ts", "b.h264"])
def test_frames_with_reordering_come_in_order_from_any_container(tmp_path, name):
    path = encode(tmp_path / name, [grey(i) for i in range(20)], options=REORDERED)
    times, images = zip(*read_frames(path), strict=True)
    assert [level(image) for image in images] == list(range(20))
    assert np.allclose(times, np.arange(20) / 25, atol=2e-3)
    assert probe(path).frames == 20


def test_rotation_is_applied(tmp_path):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32] = 255  # left half white
    path = encode(tmp_path / "phone.mp4", [image] * 3, rotation=-90)  # to be shown turned clockwise
    _, shown = next(read_frames(path))
    assert shown.shape == (64, 32, 3)
    assert shown[:24].min() > 200  # the left has become the top
    assert shown[40:].max() < 50
    assert (probe(path).width, probe(path).height) == (32, 64)
    assert read_clip(path, Sampling(1)).shape == (1, 3, 64, 32)


def test_a_clip_of_transformed_frames(clip):
    whole = read_clip(clip, Sampling(5))
    corners = read_clip(clip, Sampling(5), transform=lambda image: torch.from_numpy(image[:4, :6].copy()))
    assert torch.equal(corners, whole[:, :, :4, :6].permute(0, 2, 3, 1))


def test_a_colon_in_a_name_is_no_protocol(clip, monkeypatch):
    clip.rename(clip.with_name("a:b.mp4"))
    monkeypatch.chdir(clip.parent)
    assert len(list(read_frames("a:b.mp4"))) == 30


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    for i in range(12):  # frame2 must come before frame10, whatever the kind of file
        Image.fromarray(grey(i)).save(path / f"frame{i}{('.png', '.bmp', '.JPG', '.webp')[i % 4]}")
    (path / "readme.txt").write_text("no frame")
    (path / "._frame3.png").write_text("what some systems leave behind")
    return path


def test_a_folder_of_frames_in_natural_order(folder):
    times, images = zip(*read_frames(folder, fps=10), strict=True)
    assert np.allclose(times, np.arange(12) / 10)
    assert [level(image) for image in images] == list(range(12))
    assert probe(folder, fps=10) == VideoInfo(12, 10, 32, 24, 1.2)
    assert [level(image) for image in read_clip(folder, Sampling(4))] == [1, 4, 7, 10]
    assert [level(image) for image in read_clip(folder, Sampling(None, "all", fps=5), fps=10)] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="expected a rate above 0, got 0"):
        next(read_frames(folder, fps=0))


def test_frames_of_different_sizes(folder):
    Image.fromarray(grey(1, 20, 32)).save(folder / "frame7.png")
    images, error = drain(folder)
    assert len(images) == 7
    assert error == f"{folder}: frame 7: expected (H, W) (24, 32) as before, got (20, 32)"
    with pytest.raises(VideoError, match=r"expected .* as before"):
        read_clip(folder, Sampling(None, "all"))


def test_frames_that_are_no_images(folder):
    (folder / "frame4.png").write_bytes((folder / "frame4.png").read_bytes()[:60])
    assert f"{folder}: frame frame4.png cannot be read" in drain(folder)[1]
    Image.fromarray(np.full((24, 32), 40000, np.uint16)).save(folder / "frame4.png")
    assert "frame4.png: expected 8 bits per channel" in drain(folder)[1]


def test_grey_and_palette_frames_become_rgb(tmp_path):
    Image.fromarray(grey(3)).convert("L").save(tmp_path / "1.png")
    Image.fromarray(grey(4)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "2.png")
    Image.fromarray(grey(5)).convert("RGBA").save(tmp_path / "3.png")
    assert [level(image) for image in drain(tmp_path)[0]] == [3, 4, 5]


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(5),
        Sampling(5, "random"),
        Sampling(5, "consecutive", stride=3),
        Sampling(None, "all"),
        Sampling(4, "all", stride=2),
        Sampling(4, "random", fps=10),
        Sampling(None, "all", fps=60),
        Sampling(99, "uniform"),
    ],
)
def test_a_clip_is_the_sampled_part_of_all_frames(clip, sampling, seed):
    times, images = zip(*read_frames(clip), strict=True)
    chance = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
    found = read_clip(clip, sampling, chance[0])
    picks = sample_times(times, sampling, chance[1])
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(found.permute(0, 2, 3, 1), np.stack(images)[picks])
    if seed is not None:
        assert torch.equal(chance[0].get_state(), chance[1].get_state())


def test_only_the_picked_frames_are_converted(clip, monkeypatch):
    from prernn.media.picture import Painter

    converted, paint = [], Painter.__call__
    monkeypatch.setattr(Painter, "__call__", lambda *args: converted.append(1) or paint(*args))
    read_clip(clip, Sampling(3))
    assert len(converted) == 3


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("carphone_pristine.mp4", 120, (144, 193, 3)),
        ("bikes.mp4", 250, (272, 640, 3)),
        ("demo.mp4", 280, (256, 427, 3)),
        ("bad/one_frame.mp4", 1, (144, 176, 3)),
        ("bad/odd_161x121.mp4", 48, (121, 161, 3)),
        ("bad/variable_rate.mp4", 80, (144, 176, 3)),
    ],
)
def test_shared_clips(name, frames, shape):
    images, error = drain(SHARED / name)
    assert error is None
    assert {image.shape for image in images} == {shape}
    assert len(images) == frames == probe(SHARED / name).frames


@needs_shared
def test_shared_variable_rate_times():
    times = np.array([time for time, _ in read_frames(SHARED / "bad/variable_rate.mp4")])
    ticks = np.resize([1, 1, 4, 2, 9], 80) + np.where(np.arange(80) == 39, 120, 0)
    assert np.allclose(np.diff(times) * 60, ticks[:-1], atol=0.01)
