"""Files as other programs leave them: joined, written into a pipe, with hidden packets or longer sound."""

import av
import numpy as np
import pytest

from prernn.media.sampling import Sampling, sample_times
from prernn.media.video import probe, read_clip, read_frames
from video_files import REORDERED, drain, encode, level, noise


def read_whole(path, frames, duration):
    """Checks that a file is read whole, and that clips are of the frames that reading in order gives."""
    times, images = zip(*read_frames(path), strict=True)
    assert len(images) == frames == probe(path).frames
    assert probe(path).fps == pytest.approx(25)
    assert probe(path).duration == pytest.approx(duration, abs=0.05)
    for sampling in (Sampling(5), Sampling(None, "all", fps=7), Sampling(4, "consecutive", stride=2)):
        picks = sample_times(times, sampling)
        assert np.array_equal(read_clip(path, sampling).permute(0, 2, 3, 1), np.stack(images)[picks])
    return images


def test_packets_that_are_not_shown(tmp_path):
    """VP8's alternate references."""
    plain, path = encode(tmp_path / "plain.mkv", [noise(i) for i in range(20)], codec="libvpx"), tmp_path / "a.mkv"
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(packet)
                data[0] &= 0xFF if number not in (6, 11, 15) else 0xEF
                hidden = av.Packet(bytes(data))
                hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
                hidden.is_keyframe, hidden.stream = packet.is_keyframe, stream
                container.mux(hidden)
    assert len(drain(path)[0]) == 17
    times, images = zip(*read_frames(path), strict=True)
    assert probe(path).frames == 17
    for sampling in (Sampling(5), Sampling(6, "consecutive", stride=2)):
        picks = sample_times(times, sampling)
        assert np.array_equal(read_clip(path, sampling).permute(0, 2, 3, 1), np.stack(images)[picks])


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".mpg", "mpeg2video"), (".h264", "libx264")])
def test_files_that_were_joined_by_their_bytes(tmp_path, suffix, codec):
    options = REORDERED if codec == "libx264" else {}
    one = encode(tmp_path / f"one{suffix}", [noise(i) for i in range(20)], codec=codec, options=options)
    path = tmp_path / f"two{suffix}"
    path.write_bytes(one.read_bytes() * 2)
    images = read_whole(path, 40, 40 / 25)
    assert np.array_equal(images[:20], images[20:])


class Pipe:
    """Takes bytes in order, as a pipe does."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize(("format", "codec"), [("avi", "mpeg4"), ("matroska", "libx264"), ("flv", "flv")])
def test_a_file_that_was_written_into_a_pipe(tmp_path, format, codec):
    pipe, path = Pipe(), tmp_path / "a"
    with av.open(pipe, "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(i))))
        container.mux(stream.encode())
    path.write_bytes(pipe.data)
    read_whole(path, 20, 20 / 25)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".wmv", "wmv2"), (".mkv", "libx264"), (".mp4", "libx264"), (".ts", "libx264")]
)
def test_sound_that_is_longer_than_the_video(tmp_path, suffix, codec):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("libmp3lame" if suffix == ".wmv" else "aac", rate=44100)
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(i))))
        container.mux(stream.encode())
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 44100, 44100 * i
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    read_whole(path, 20, 20 / 25)


def test_a_last_frame_that_is_held(tmp_path):
    """As in recordings of a screen."""
    path = tmp_path / "a.mkv"
    plain = encode(tmp_path / "a.mp4", [noise(i) for i in range(20)])
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = round(5 / last.time_base)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    assert probe(path).duration > 5
    images, error = drain(path)
    assert (len(images), error) == (20, None)
    assert read_clip(path, Sampling(4)).shape == (4, 3, 48, 64)


@pytest.mark.parametrize("name", ["ünï cödé 视频", "a#b?c=1", "a%03d", "a b'c\"", "[x]", "pipe:0", "http:x", "UP"])
def test_names(tmp_path, clip, name):
    path = clip.rename(tmp_path / f"{name}.mp4")
    assert [level(image) for image in drain(path)[0]] == list(range(30))
    assert [level(image) for image in drain(str(path))[0]] == list(range(30))
