"""What containers say of time: where a video starts and ends, how many frames it has, from which frame it decodes."""

import av
import numpy as np
import pytest

from prernn.media.sampling import Sampling
from prernn.media.video import probe, read_clip, read_frames
from video_files import REORDERED, drain, encode, grey, level, moved, noise, with_streams

CODECS = {".webm": "libvpx", ".mpg": "mpeg2video", ".wmv": "wmv2", ".avi": "mpeg4"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Makes 30 frames in a container, once."""
    root, made = tmp_path_factory.mktemp("recordings"), {}

    def recording(suffix):
        if suffix not in made:
            codec = CODECS.get(suffix, "libx264")
            options = {**(REORDERED if codec == "libx264" else {}), "g": "10"}
            path = root / f"{codec}.mp4"  # where every packet has both its times
            if suffix in (".webm", ".wmv", ".avi"):
                path = path.with_suffix(suffix)
            made[suffix] = encode(path, [noise(i) for i in range(30)], codec=codec, options=options)
        return made[suffix]

    return recording


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


CONTAINERS = [".mkv", ".webm", ".nut", ".wmv", ".mp4", ".mov", ".flv", ".ts", ".mpg", ".avi"]


@pytest.mark.parametrize("seconds", [5.0, 3600.0])
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_file_that_starts_late_is_whole(recordings, tmp_path, suffix, seconds):
    path = moved(recordings(suffix), tmp_path / f"late{suffix}", 5.0 if suffix == ".avi" else seconds)
    times, images = zip(*read_frames(path), strict=True)
    assert (len(images), times[0]) == (30, 0.0)
    info = probe(path)
    assert (info.frames, info.fps) == (30, 25)
    if suffix != ".avi":  # which has no other way to start late than a first frame that stands
        assert np.allclose(times, np.arange(30) / 25, atol=0.05 if suffix == ".mpg" else 2e-3)  # stamps by the pack
        assert info.duration == pytest.approx(30 / 25, abs=2.1 / 25)
    assert np.array_equal(read_clip(path, Sampling(3)).permute(0, 2, 3, 1), np.stack(images)[[5, 15, 25]])


@pytest.mark.parametrize("seconds", [0.0, 5.0])
@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".nut", ".flv", ".wmv"])
def test_a_file_that_starts_late_and_breaks_off_is_found_out(recordings, tmp_path, suffix, seconds):
    path = moved(recordings(suffix), tmp_path / f"late{suffix}", seconds)
    cut(path, 0.6)
    images, error = drain(path)
    assert 5 < len(images) < 25
    assert f"truncated or damaged after {len(images)} frames" in error


def test_a_track_that_says_how_long_it_is_is_found_out_though_there_is_sound(recordings, tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(recordings(".mp4"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        container.add_stream("aac", rate=44100)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    assert drain(path)[1] is None
    assert probe(path).duration == pytest.approx(30 / 25, abs=1e-3)
    cut(path, 0.6)
    assert "truncated or damaged after" in drain(path)[1]


def test_an_avi_counts_frames_that_it_does_not_hold(recordings, tmp_path):
    plain = encode(tmp_path / "a.mp4", [noise(i) for i in range(30)], codec="mpeg4")
    path = moved(plain, tmp_path / "clock.avi")  # at the clock of the mp4, 600 a second
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 500
    images, error = drain(path)
    assert (len(images), error) == (30, None)
    assert (probe(path).frames, probe(path).fps) == (30, 25)
    times = [time for time, _ in read_frames(path)]
    assert np.allclose(times, np.arange(30) / 25, atol=2e-3)
    assert read_clip(path, Sampling(3)).shape == (3, 3, 48, 64)


def test_what_an_edit_list_leaves_out_does_not_count(tmp_path):
    path = encode(tmp_path / "a.mp4", [grey(i) for i in range(30)], options={"bf": "0", "g": "10"})
    early = moved(path, tmp_path / "early.mp4", -0.48)
    assert [level(image) for _, image in read_frames(early)] == list(range(12, 30))
    assert probe(early).frames == 18
    assert probe(early).duration == pytest.approx(18 / 25)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", ".ts"), ("open", ".ts"), ("mpeg2video", ".ts"), ("mpeg2video", ".mpg"), ("libx265", ".ts")],
)
def test_a_recording_from_before_its_first_key_frame(tmp_path, codec, suffix):
    options = {"g": "12", "bf": "2"}
    if codec == "libx265":
        options = {"x265-params": "keyint=12:bframes=2:log-level=none"}
    if codec == "open":
        codec, options = "libx264", {"x264-params": "keyint=12:bframes=2:open-gop=1:scenecut=0"}
    whole = encode(tmp_path / "whole.ts", [grey(i) for i in range(34)], codec=codec, options=options)
    path = moved(whole, tmp_path / f"cut{suffix}", keep=lambda number, packet: number > 4)
    images, error = drain(path)
    assert error is None
    assert np.allclose([level(image) for image in images], range(34 - len(images), 34), atol=1)  # MPEG-2 is coarse
    assert len(images) >= 20
    info = probe(path)
    assert info.frames == len(images)
    assert info.duration == pytest.approx(len(images) / 25, abs=0.05)
    assert np.array_equal(read_clip(path, Sampling(None, "all")).permute(0, 2, 3, 1), np.stack(images))
    picks = [int((2 * i + 1) * len(images) / 8) for i in range(4)]
    assert np.array_equal(read_clip(path, Sampling(4)).permute(0, 2, 3, 1), np.stack(images)[picks])


def test_damage_to_the_first_key_frame_is_no_late_start(tmp_path):
    path = encode(tmp_path / "a.mp4", [noise(i) for i in range(20)], options={"g": "10"}, index_first=True)
    with av.open(str(path)) as container:
        first = next(container.demux(video=0))
        start, size = first.pos, first.size
    data = bytearray(path.read_bytes())
    data[start + size // 4 : start + size] = np.random.default_rng(0).bytes(size - size // 4)
    path.write_bytes(bytes(data))
    assert "damaged" in drain(path)[1] or "no frame" in drain(path)[1]


@pytest.mark.parametrize(
    ("options", "shown"), [({}, 5), ({"default": 0}, 5), ({"default": 2}, 25), ({"cover": 0, "default": 2}, 25)]
)
def test_the_stream_that_a_player_shows(tmp_path, options, shown):
    path = with_streams(tmp_path / ("a.mp4" if "cover" in options else "a.mkv"), [5, 15, 25], **options)
    images, error = drain(path)
    assert error is None
    assert [level(image) for image in images] == [shown] * 5
    assert [level(image) for image in read_clip(path, Sampling(2))] == [shown] * 2


def test_a_cover_is_no_video_though_it_is_the_first_stream(tmp_path):
    assert {level(image) for image in drain(with_streams(tmp_path / "a.mp4", [5, 15], cover=0))[0]} == {15}
