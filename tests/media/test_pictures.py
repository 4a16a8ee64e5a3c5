"""Frames as a player shows them: upright, with square pixels, in the colors that were meant, without combs."""

import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from prernn.media import picture
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.video import probe, read_clip, read_frames
from video_files import drain, encode, grey, level

TURNS = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0)]
TURNS += [(0, -1, -1, 0)]


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored(tmp_path, turn):
    a, b, c, d = turn
    corners = {(-1, -1): 40, (1, -1): 100, (-1, 1): 160, (1, 1): 220}  # grey by (x, y) from the middle
    image = np.zeros((32, 64, 3), np.uint8)
    for (x, y), value in corners.items():
        image[16 * (y > 0) :, 32 * (x > 0) :][:16, :32] = value
    one = 1 << 16
    path = encode(tmp_path / "a.mp4", [image] * 2, matrix=[a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
    _, shown = next(read_frames(path))
    height, width = shown.shape[:2]
    assert (height, width) == ((32, 64) if a else (64, 32)) == (probe(path).height, probe(path).width)
    for (x, y), value in corners.items():
        right, below = a * x + c * y, b * x + d * y
        corner = shown[height // 2 * (below > 0) :, width // 2 * (right > 0) :][: height // 2, : width // 2]
        assert abs(corner[4:-4, 4:-4].astype(int) - value).max() < 6
    assert shown.flags.c_contiguous


def test_a_matrix_of_nothing_turns_nothing():
    image = np.arange(6).reshape(2, 3)
    for matrix in ((0,) * 9, (1, 0, 0, 0, 1, 0, 0, 0, 1)):
        assert np.array_equal(picture.oriented(image, matrix), image)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg", "a.avi"])
@pytest.mark.parametrize(("aspect", "size"), [((2, 1), (96, 256)), ((3, 4), (128, 128)), ((1, 1), (96, 128))])
def test_pixels_that_are_not_square(tmp_path, name, aspect, size):
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    if name == "a.mpg":  # which knows aspects of the picture
        aspect, size = ((1, 1), (96, 128)) if aspect != (2, 1) else ((4, 3), (96, 171))
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, :64] = 200
    path = encode(tmp_path / name, [image] * 3, codec=codec, aspect=Fraction(*aspect))
    shown = drain(path)[0][0]
    assert shown.shape == (*size, 3)
    assert (probe(path).height, probe(path).width) == size
    assert shown[:, : size[1] // 2 - 8].min() > 180
    assert shown[:, size[1] // 2 + 8 :].max() < 30
    assert read_clip(path, Sampling(1)).shape == (1, 3, *size)


def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path):
    path = encode(tmp_path / "a.mp4", [grey(3, 32, 64)] * 2, aspect=Fraction(2, 1), rotation=90)
    assert next(read_frames(path))[1].shape == (128, 32, 3)


def test_an_absurd_aspect_is_a_fault_of_the_file():
    assert picture.square_pixels(640, 480, Fraction(1, 500)) == (640, 480)
    assert picture.square_pixels(640, 480, None) == (640, 480)


def test_what_is_written_says_that_its_pixels_are_square(clip):
    with av.open(str(clip)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 1


RED = (200, 30, 60)


def colored(path, height, width, matrix=None):
    """A video of one color; ``matrix`` are the equations of its Y'CbCr, which it says nothing of."""
    image = np.full((height, width, 3), RED, np.uint8)
    frame = av.VideoFrame.from_ndarray(image).reformat(format="yuv420p", dst_colorspace=matrix)
    frame.colorspace = picture.UNKNOWN
    return encode(path, [frame])


@pytest.mark.parametrize(
    ("height", "width", "matrix"), [(576, 720, 5), (718, 1278, 5), (720, 960, 1), (544, 1280, 1), (1080, 1920, 1)]
)
def test_colors_of_a_video_that_says_nothing_of_them(tmp_path, height, width, matrix):
    path = colored(tmp_path / "a.mp4", height, width, matrix)
    _, image = next(read_frames(path))
    assert abs(image[8, 8].astype(int) - RED).max() <= 4
    assert probe(path).colors == f"BT.{709 if matrix == 1 else 601}, assumed"


@pytest.mark.parametrize(("tag", "said"), [(1, "BT.709"), (5, "BT.601"), (9, "BT.2020")])
def test_colors_of_a_video_that_says_what_they_are(tmp_path, tag, said):
    image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), RED, np.uint8))
    frame = image.reformat(format="yuv420p", dst_colorspace=tag)
    path = encode(tmp_path / "a.mp4", [frame], tags={"colorspace": tag})
    near = 10 if tag == 9 else 4  # which PyAV 17 writes a little off
    assert abs(next(read_frames(path))[1][8, 8].astype(int) - RED).max() <= near
    assert probe(path).colors == said


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "said"), [("ffv1", "gray", "grey"), ("libx264rgb", "rgb24", "RGB"), ("gif", "rgb8", "RGB")]
)
def test_pictures_without_such_equations(tmp_path, codec, pix_fmt, said):
    path = encode(tmp_path / ("a.gif" if codec == "gif" else "a.mkv"), [grey(3)] * 2, codec=codec, pix_fmt=pix_fmt)
    assert probe(path).colors == said
    assert level(next(read_frames(path))[1]) == 3


@pytest.mark.parametrize("height", [64, 720])
def test_colors_are_written_as_they_are_read(tmp_path, height):
    write_video(tmp_path / "a.mp4", [np.full((height, 64, 3), RED, np.uint8)], 25)
    assert abs(next(read_frames(tmp_path / "a.mp4"))[1][8, 8].astype(int) - RED).max() <= 4
    assert probe(tmp_path / "a.mp4").colors == ("BT.709" if height == 720 else "BT.601")


@pytest.fixture
def unsaid(monkeypatch):
    """No warning was given yet."""
    monkeypatch.setattr(picture, "_said", set())


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_said_once(tmp_path, unsaid, recwarn, curve, name):
    path = encode(tmp_path / "a.mp4", [grey(i) for i in range(3)], tags={"color_trc": curve})
    with pytest.warns(RuntimeWarning, match=rf"a\.mp4: HDR \({name}\) is used as it is") as caught:
        drain(path)
    read_clip(path, Sampling(2))
    assert len(caught) == 1
    assert list(recwarn) == []


def woven(count, height=64, width=96):
    """Interlaced frames of a white bar that runs to the right, four pixels a field."""
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 25)),
        graph.add("setfield", "tff"),
        graph.add("buffersink"),
    )
    graph.configure()
    frames = []
    for i in range(count):
        image = np.zeros((height, width, 3), np.uint8)
        for field in (0, 1):
            left = 8 * i + 4 * field
            image[field::2, left : left + 16] = 255
        frame = av.VideoFrame.from_ndarray(image).reformat(format="yuv420p")
        frame.pts, frame.time_base = i, Fraction(1, 25)
        graph.vpush(frame)
        frames.append(graph.vpull())
    return frames


def combs(image):
    """How much neighboring lines differ."""
    return np.abs(np.diff(image[..., 0].astype(int), axis=0)).mean()


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory):
    path = tmp_path_factory.mktemp("interlaced") / "a.ts"
    options = {"flags": "+ildct+ilme", "qmin": "1", "qmax": "2"}
    return encode(path, woven(9), codec="mpeg2video", options=options)


def test_interlaced_video_is_said_once(interlaced, unsaid, recwarn):
    with pytest.warns(RuntimeWarning, match=r"a\.ts: interlaced, and used as it is") as caught:
        images, _ = drain(interlaced)
    drain(interlaced)
    assert len(caught) == 1
    assert list(recwarn) == []
    assert combs(images[4]) > 15


def test_interlaced_video_made_progressive(interlaced, unsaid):
    with pytest.warns(RuntimeWarning):
        plain = list(read_frames(interlaced))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        times, images = zip(*read_frames(interlaced, deinterlace=True), strict=True)
        assert read_clip(interlaced, Sampling(3), deinterlace=True).shape == (3, 3, 64, 96)
    assert list(times) == [time for time, _ in plain]
    for (_, before), after in zip(plain[1:-1], images[1:-1], strict=True):
        assert combs(after) < 0.4 * combs(before)


def test_progressive_video_is_not_deinterlaced(clip):
    for (time, image), (plain_time, plain) in zip(read_frames(clip, deinterlace=True), read_frames(clip), strict=True):
        assert time == plain_time
        assert np.array_equal(image, plain)
