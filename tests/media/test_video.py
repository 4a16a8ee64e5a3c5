"""Reading and writing video, on files made here and on shared clips where those exist."""

import functools
import http.server
import os
import socket
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

import footage
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling, sample_indices, sample_times
from prernn.media.video import VideoError, VideoInfo, probe, read_clip, read_frames

SHARED = footage.SHARED / "video-clips"


REORDERED = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:weightp=0"}  # stored as I P B B B P B B B ...


def grey(i, height=24, width=32):
    return np.full((height, width, 3), 10 + 7 * i, np.uint8)


def level(image):
    """The i of `grey(i)`."""
    return round((float(np.asarray(image).mean()) - 10) / 7)


def noise(i, height=48, width=64):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(
    path,
    images,
    *,
    codec="libx264",
    rate=25,
    ticks=None,
    options=None,
    rotation=None,
    pix_fmt="yuv420p",
    index_first=False,
):
    """Write a video with PyAV; `ticks` are presentation times in 1/1000 s."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            if ticks is not None:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path, target, part):
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


def drain(source, **options):
    """What read_frames yields before its error, and the error."""
    images = []
    try:
        for _, image in read_frames(source, **options):
            images.append(image)
    except VideoError as error:
        return images, str(error)
    return images, None


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", (grey(i) for i in range(30)), 25)
    return tmp_path / "clip.mp4"


@pytest.fixture
def truncated(tmp_path):
    """The first 60 % of a file whose index is in front."""
    whole = encode(tmp_path / "whole.mp4", [noise(i) for i in range(40)], index_first=True)
    return cut(whole, tmp_path / "truncated.mp4", 0.6)


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(("height", "width"), [(24, 32), (121, 161), (25, 32), (17, 33)])
def test_what_is_written_is_read_back(tmp_path, height, width):
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None].astype(np.uint8)
    images = [ramp // 2 + np.array([0, 40, 80 + i], np.uint8) for i in range(7)]
    assert write_video(tmp_path / "a.mp4", images, 12.5) == 7
    times, back = zip(*read_frames(tmp_path / "a.mp4"), strict=True)
    assert np.allclose(times, np.arange(7) / 12.5)
    assert all(image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable for image in back)
    assert np.abs(np.stack(back).astype(int) - np.stack(images)).mean() < 3
    assert probe(tmp_path / "a.mp4") == VideoInfo(7, 12.5, width, height, pytest.approx(7 / 12.5))


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
    assert read_clip(path, Sampling(1), short_side=16).shape == (1, 3, 32, 16)


def test_short_side_shrinks_but_never_enlarges(clip):
    assert next(read_frames(clip, short_side=12))[1].shape == (12, 16, 3)
    assert next(read_frames(clip, short_side=99))[1].shape == (24, 32, 3)


def test_a_colon_in_a_name_is_no_protocol(clip, monkeypatch):
    clip.rename(clip.with_name("a:b.mp4"))
    monkeypatch.chdir(clip.parent)
    assert len(list(read_frames("a:b.mp4"))) == 30


# ------------------------------------------------------------------------------------------------ bad files


def audio_only(path, cover=False):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame" if cover else "aac", rate=44100)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 24, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey(1))))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        container.start_encoding()


def unknown_codec(path):
    encode(path, [grey(i) for i in range(3)])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def index_cut_off(path):
    cut(encode(path, [noise(i) for i in range(9)]), path, 0.5)


BAD = {
    "missing.mp4": (lambda path: None, "no such file or folder"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "empty file"),
    "text.mp4": (lambda path: path.write_text("this is\nnot a video\n" * 99), "not a video"),
    "notes.txt": (lambda path: path.write_text("this is\nnot a video\n" * 99), "not a video, but text"),
    "sound.mp4": (audio_only, "audio only"),
    "song.mp3": (lambda path: audio_only(path, cover=True), "audio only"),
    "frameless.mp4": (no_frames, "no video stream|no frame in it decodes"),
    "codec.mp4": (unknown_codec, "no decoder for the codec"),
    "index.mp4": (index_cut_off, "cut off before its index"),
    "folder.mp4": (lambda path: path.mkdir(), "a folder without frames"),
}


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_the_cause_in_one_line(tmp_path, name, tolerant):
    make, cause = BAD[name]
    make(tmp_path / name)
    readers = [
        lambda path: next(read_frames(path, tolerate_truncation=tolerant)),
        lambda path: read_clip(path, Sampling(4), tolerate_truncation=tolerant),
        probe,
    ]
    for reader in readers:
        with pytest.raises(VideoError, match=cause) as caught:
            reader(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_a_truncated_file_yields_what_decodes_and_then_raises(truncated):
    images, error = drain(truncated)
    assert 5 < len(images) < 40
    assert f"truncated or damaged after {len(images)} of 40 frames" in error
    tolerated, error = drain(truncated, tolerate_truncation=True)
    assert error is None
    assert np.array_equal(tolerated, images)


def test_a_clip_of_a_truncated_file(truncated):
    good = len(drain(truncated)[0])
    for sampling in (Sampling(4), Sampling(2, "consecutive"), Sampling(1, "all")):  # also before the break
        with pytest.raises(VideoError, match=f"after {good} of 40 frames"):
            read_clip(truncated, sampling)
        picks = sample_indices(good, sampling)
        expected = np.stack(drain(truncated)[0])[picks]
        found = read_clip(truncated, sampling, tolerate_truncation=True)
        assert np.array_equal(found.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.webm"])
def test_containers_that_just_end_are_found_out(tmp_path, name):
    codec = {"a.mkv": "libx264", "a.avi": "mjpeg", "a.webm": "libvpx"}[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = encode(tmp_path / name, [noise(i) for i in range(40)], codec=codec, pix_fmt=pix_fmt)
    assert len(drain(whole)[0]) == 40
    images, error = drain(cut(whole, tmp_path / f"cut_{name}", 0.6))
    assert f"truncated or damaged after {len(images)} " in error
    assert 0 < len(images) < 36


def damaged(path):
    """A file with a few random bytes in its middle, which some packets do not survive."""
    encode(path, [noise(i) for i in range(40)], index_first=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


def test_damage_in_the_middle(tmp_path):
    images, error = drain(damaged(tmp_path / "a.mp4"))
    assert f"truncated or damaged after {len(images)} of 40 frames" in error
    assert 0 < len(images) < 40


def test_an_edited_file_is_whole(tmp_path):
    path = encode(tmp_path / "a.mp4", [grey(i % 30) for i in range(60)], options=REORDERED)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # one entry: duration (1/1000 s) and first time (1/12800 s) of what is shown
    start = int.from_bytes(data[at + 4 : at + 8])
    data[at : at + 8] = (1000).to_bytes(4) + (start + 12 * 512).to_bytes(4)
    path.write_bytes(bytes(data))
    images, error = drain(path)
    assert error is None
    assert [level(image) for image in images] == [i % 30 for i in range(12, 37)]
    assert [level(i) for i in read_clip(path, Sampling(2))] == [(12 + 6) % 30, (12 + 18) % 30]


# ------------------------------------------------------------------------------------------------ folders


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
    assert next(read_frames(folder, short_side=12))[1].shape == (12, 16, 3)
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
    assert "frame4.png: expected 8 bits a channel" in drain(folder)[1]


def test_grey_and_palette_frames_become_rgb(tmp_path):
    Image.fromarray(grey(3)).convert("L").save(tmp_path / "1.png")
    Image.fromarray(grey(4)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "2.png")
    Image.fromarray(grey(5)).convert("RGBA").save(tmp_path / "3.png")
    assert [level(image) for image in drain(tmp_path)[0]] == [3, 4, 5]


# --------------------------------------------------------------------------------------- live sources


@pytest.mark.parametrize(
    ("platform", "source", "name", "options"),
    [
        ("linux", "camera:1", "/dev/video1", {"format": "v4l2"}),
        ("linux", "/dev/video17", "/dev/video17", {"format": "v4l2"}),
        ("linux", 0, "/dev/video0", {"format": "v4l2"}),
        ("linux", "2", "/dev/video2", {"format": "v4l2"}),
        ("darwin", "camera:0", "0:none", {"format": "avfoundation", "options": {"framerate": "30"}}),
        ("win32", "camera:Front Cam", "video=Front Cam", {"format": "dshow"}),
        ("linux", "RTSP://host/x", "RTSP://host/x", {"timeout": 10.0, "options": {"rtsp_transport": "tcp"}}),
        ("linux", "udp://host:9", "udp://host:9", {"timeout": 10.0, "options": {}}),
    ],
)
def test_cameras_and_streams_are_opened_by_their_kind(monkeypatch, clip, platform, source, name, options):
    calls, really_open = [], av.open

    def fake_open(*args, **kwargs):
        calls.append((args, kwargs))
        return really_open(str(clip))

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", fake_open)
    assert [level(image) for _, image in read_frames(source)] == list(range(30))
    assert calls == [((name,), options)]
    with pytest.raises(NotImplementedError, match="live source"):
        read_clip(source, Sampling(4))
    assert probe(source).width == 32


@pytest.mark.parametrize("source", ["camera:99", "rtsp://127.0.0.1:9/x", "http://127.0.0.1:9/x.mp4", "foo://x", -1])
def test_live_sources_that_are_not_there(source):
    with pytest.raises(VideoError, match=f"^{source}: "):
        next(read_frames(source))


def test_a_stream_that_sends_nothing(monkeypatch):
    monkeypatch.setattr("prernn.media.video.STREAM_TIMEOUT", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # accepts, and never answers
        pytest.raises(VideoError, match=r"cannot open this stream: no data for 0\.1 s"),
    ):
        next(read_frames(f"http://127.0.0.1:{silent.getsockname()[1]}/x.mp4"))


@pytest.fixture
def server(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_stream_is_read_like_the_file(server, clip):
    for (time, image), (file_time, file_image) in zip(
        read_frames(f"{server}/clip.mp4"), read_frames(clip), strict=True
    ):
        assert time == file_time
        assert np.array_equal(image, file_image)
    with pytest.raises(VideoError, match="cannot open this stream"):
        next(read_frames(f"{server}/nothing.mp4"))


def test_a_stream_goes_on_after_damage(server, tmp_path):
    path = encode(tmp_path / "a.ts", [noise(i) for i in range(40)], options={"g": "5", "bf": "0"})
    data = bytearray(path.read_bytes())
    for middle in (len(data) // 4, len(data) // 2):  # whole packets of 188 bytes are lost
        data[middle - middle % 188 : middle - middle % 188 + 188 * 20] = bytes(188 * 20)
    path.write_bytes(bytes(data))
    images, error = drain(f"{server}/a.ts")
    assert error is None
    assert 20 < len(images) < 40
    assert drain(path)[1] is not None  # as a file it is damaged
    damaged(tmp_path / "a.mp4")
    images, error = drain(f"{server}/a.mp4")
    assert error is None
    assert 30 < len(images) < 40


# ------------------------------------------------------------------------------------------------ clips


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
    assert found.is_contiguous()
    assert np.array_equal(found.permute(0, 2, 3, 1), np.stack(images)[picks])
    if seed is not None:
        assert torch.equal(chance[0].get_state(), chance[1].get_state())


def test_only_the_picked_frames_are_converted(clip, monkeypatch):
    from prernn.media import video

    converted = []
    convert = video._convert
    monkeypatch.setattr(video, "_convert", lambda *args: converted.append(1) or convert(*args))
    read_clip(clip, Sampling(3))
    assert len(converted) == 3


def test_a_file_with_fewer_frames_than_packets(tmp_path):
    """XviD may pack two frames into one packet and leave an empty one: the picks follow what decodes."""
    path = encode(tmp_path / "a.avi", [grey(i) for i in range(30)], codec="mpeg4", options={"g": "1"})
    data = path.read_bytes()
    starts = [i for i in range(len(data) - 8) if data[i : i + 4] == b"00dc" and data[i + 8 : i + 11] == b"\0\0\1"]
    for start in starts[-2:]:  # overwrite the last two frames with "not coded" ones, which show nothing new
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        data = data[: start + 8] + b"\0\0\1\xb6" + b"\x7f" * (size - 4) + data[start + 8 + size :]
    path.write_bytes(data)
    images, _ = drain(path, tolerate_truncation=True)
    assert len(images) < 30
    for sampling in (Sampling(None, "all"), Sampling(20, "random"), Sampling(20, "consecutive")):
        picks_the_end = (
            s for s in range(99) if sample_indices(30, sampling, torch.Generator().manual_seed(s))[-1] == 29
        )
        seed = next(picks_the_end)
        found = read_clip(path, sampling, torch.Generator().manual_seed(seed), tolerate_truncation=True)
        picks = sample_indices(len(images), sampling, torch.Generator().manual_seed(seed))
        assert np.array_equal(found.permute(0, 2, 3, 1), np.stack(images)[picks])


# ------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize(
    ("name", "images", "fps", "message"),
    [
        ("a.mp4", [], 25, "expected at least one, got none"),
        ("a.mp4", [grey(0), grey(1, 20, 32)], 25, r"frame 1: expected uint8 \(24, 32, 3\), got uint8 \(20, 32, 3\)"),
        ("a.mp4", [grey(0).astype(np.float32)], 25, "got float32"),
        ("a.mp4", [grey(0)[..., 0]], 25, r"got uint8 \(24, 32\)"),
        ("a.mp4", [grey(0)], 0, "fps above 0, got .* and 0"),
        ("a.avi", [grey(0)], 25, "ends in .mp4"),
    ],
)
def test_frames_that_cannot_be_written(tmp_path, name, images, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, images, fps)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_frames_leaves_the_old_file(clip):
    before = clip.read_bytes()

    def frames():
        yield grey(0)
        raise RuntimeError("the network broke")

    with pytest.raises(RuntimeError, match="the network broke"):
        write_video(clip, frames(), 25)
    assert [file.name for file in clip.parent.iterdir()] == [clip.name]
    assert clip.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("count", [1, 60])
def test_a_full_disk_leaves_no_file(tmp_path, count):
    path = tmp_path / "a.mp4"
    os.symlink("/dev/full", tmp_path / f".a.mp4.{os.getpid()}.part")  # every write there fails with ENOSPC
    with pytest.raises(OSError, match="not written: No space left on device") as caught:
        write_video(path, (noise(i) for i in range(count)), 25)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="not written: No such file"):
        write_video(tmp_path / "nowhere" / "a.mp4", [grey(0)], 25)


def test_without_x264_the_file_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    write_video(tmp_path / "a.mp4", [grey(i, 25, 33) for i in range(9)], 29.97)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert [level(image) for image in drain(tmp_path / "a.mp4")[0]] == list(range(9))


# ------------------------------------------------------------------------------------------------ shared clips

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared video clips are not here")


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("carphone_pristine.mp4", 120, (144, 176, 3)),
        ("bikes.mp4", 250, (272, 640, 3)),
        ("demo.mp4", 280, (256, 340, 3)),
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


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames", "cause"),
    [
        ("bad/truncated_50.mp4", 137, "after 137 of 280 frames"),
        ("bad/zero_bytes.mp4", 0, "empty file"),
        ("bad/text.mp4", 0, "not a video"),
    ],
)
def test_shared_bad_files(name, frames, cause):
    images, error = drain(SHARED / name)
    assert len(images) == frames
    assert cause in error
