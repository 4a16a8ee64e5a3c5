"""prernn-runtime gives what prernn gives: the same frames, nearly the same pixels, the same stream, without torch."""

import copy
import csv
import dataclasses
import io
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import prernn
from prernn.media.encoding import write_video
from prernn.media.image_folder import load
from prernn.media.transforms import TransformSpec
from prernn.media.transforms import frame_transform as own_transform
from prernn.media.video import read_frames as own_frames
from prernn.streaming.pace import Pace
from small_cnns import PlainNet, SnippetNet, prepare, shake
from video_files import encode, noise

prernn_runtime = pytest.importorskip("prernn_runtime")
pytest.importorskip("onnxscript")

from prernn_runtime import command  # noqa: E402
from prernn_runtime.transform import frame_transform  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of pictures, and its file."""
    torch.manual_seed(0)
    net = shake(prernn.convert(prepare(PlainNet()).float(), image_size=(16, 16), cell="lstm", hidden="diagonal")).eval()
    nn.init.normal_(net.output_layer.weight)
    labels = ["one", "two", "three", "four", "five"]
    net.recipe = dataclasses.replace(net.recipe, labels=labels, transform={"size": 16, "resize": 20}, rate=12.5)
    path = tmp_path_factory.mktemp("exported") / "step.onnx"
    prernn.export(net, path)
    return net, path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, [noise(number // 3) for number in range(20)], 25)
    return path


# frames


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rotation": 90},
        {"aspect": Fraction(2, 1)},
        {"aspect": Fraction(3, 4)},
        {"tags": {"colorspace": 1}},
        {"ticks": [0, 40, 200, 210]},
    ],
    ids=str,
)
def test_frames_are_prernns(options, tmp_path):
    path = encode(tmp_path / "clip.mp4", [noise(number) for number in range(4)], **options)
    for (time, frame), (own_time, own) in zip(prernn_runtime.read_frames(path), own_frames(path), strict=True):
        assert time == pytest.approx(own_time)
        np.testing.assert_array_equal(frame, own)


def test_frames_of_high_definition_and_of_a_folder(tmp_path):
    path = encode(tmp_path / "large.mp4", [noise(0, 720, 1280)])
    ((_, frame),) = prernn_runtime.read_frames(path)
    ((_, own),) = own_frames(path)
    np.testing.assert_array_equal(frame, own)
    from PIL import Image

    (tmp_path / "folder").mkdir()
    for number in (1, 2, 10):
        Image.fromarray(noise(number)).save(tmp_path / "folder" / f"frame{number}.png")
    found = list(prernn_runtime.read_frames(tmp_path / "folder", fps=10))
    assert [time for time, _ in found] == [0, 0.1, 0.2]
    np.testing.assert_array_equal(found[2][1], load("folder", tmp_path / "folder" / "frame10.png"))


@pytest.mark.parametrize("source", [10, 12.5, 24, 25, 29.97, 30, 50, 60])
@pytest.mark.parametrize("rate", [12.5, 25, 30])
@pytest.mark.filterwarnings("ignore:the source has")
def test_the_rate_is_prernns_clock(source, rate):
    times = [number / source + 0.002 * (number % 3) for number in range(200)]
    times[150:] = [time + 3600 for time in times[150:]]
    frames = list(zip(times, range(200), strict=True))
    assert list(prernn_runtime.at_rate(frames, rate)) == list(Pace(rate)(frames))
    assert list(prernn_runtime.at_rate(frames, None)) == frames
    with pytest.raises(ValueError, match="above 0, got 0"):
        next(prernn_runtime.at_rate(frames, 0))


# pixels


@given(
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    size=st.integers(2, 40),
    more=st.integers(0, 20),
    kind=st.sampled_from(["color", "grey", "flow"]),
)
def test_pixels_are_torchvisions_within_one(height, width, size, more, kind):
    channels = 4 if kind == "flow" else 3
    frame = np.random.default_rng(height * 91 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    spec = {
        "size": size,
        "resize": size + more,
        "grey": kind == "grey",
        "flow": kind == "flow",
        "mean": 0.5,
        "std": 1 / 255,
    }
    own = own_transform(TransformSpec.from_dict(spec))(frame).numpy()
    got = frame_transform(spec)(frame)
    assert got.dtype == np.float32
    assert got.shape == own.shape
    assert np.abs(got - own).max() <= 1.01 + 1e-3 * (kind == "grey")  # in steps of 1 / 255


def test_pixels_that_are_not_resized_are_the_same():
    frame = noise(0, 32, 40)
    for spec in ({"size": 24, "resize": 32}, {"size": 32}):
        own = own_transform(TransformSpec.from_dict(spec))(frame).numpy()
        np.testing.assert_allclose(frame_transform(spec)(frame), own, rtol=0, atol=1e-6)


# streams


def test_a_stream_gives_what_prernns_gives(exported, clip):
    net, path = exported
    own, stream = prernn.Stream(net), prernn_runtime.Stream(path, threads=1)
    assert (stream.labels, stream.rate) == (net.recipe.labels, 12.5)
    for number, (_, frame) in enumerate(prernn_runtime.read_frames(clip)):
        if number == 7:  # each goes on with what the other has seen
            mine = {name: value.numpy() for name, value in own.state_dict().items()}
            own.load_state_dict({name: torch.from_numpy(value) for name, value in stream.state_dict().items()})
            stream.load_state_dict(mine)
        small = frame[:16, :16]  # not resized: to the last bit but for rounding
        expected = own(own_transform(TransformSpec(size=16, resize=16))(small)).numpy()
        got = stream(frame_transform({"size": 16})(small))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    stream.reset()
    assert all(not value.any() for value in stream.state_dict().values())
    assert stream.probabilities(np.zeros((30, 40, 3), np.uint8)).sum() == pytest.approx(1)


def scenes(count=60):
    """Pictures of 16 x 16 with cuts, stretches of motion and stretches without change, and their times with gaps."""
    rng = np.random.default_rng(0)
    picture, times, pictures = noise(0, 16, 16), [], []
    for number in range(count):
        if number % 17 == 0:
            picture = noise(number, 16, 16)
        elif number % 17 < 9:
            picture = np.clip(picture.astype(int) + rng.integers(-9, 10, picture.shape), 0, 255).astype(np.uint8)
        pictures.append(picture)
        times.append(0.1 * number + 5.0 * (number > 40))
    return list(zip(times, pictures, strict=True))


@pytest.mark.parametrize("policy", ["never", "cut", "idle:0.5", "every:8", None])
def test_resets_are_prernns(exported, tmp_path, policy):
    """Also halfway from one to the other, with the policy's memory; None is the recipe's."""
    net, path = exported
    if policy is None:
        net = copy.deepcopy(net)
        net.recipe = dataclasses.replace(net.recipe, transform={"size": 16}, reset="every:8")
        prernn.export(net, path := tmp_path / "step.onnx")
    own = prernn.Stream(net, transform={"size": 16}, reset=policy)
    stream = prernn_runtime.Stream(path, threads=1, reset=policy)
    stream._transform = frame_transform({"size": 16})
    begun = []
    for number, (time, picture) in enumerate(scenes()):
        if number in (23, 31):
            mine = {name: value.numpy() for name, value in own.state_dict().items()}
            own.load_state_dict({name: torch.from_numpy(value) for name, value in stream.state_dict().items()})
            stream.load_state_dict(mine)
        expected, got = own.look(picture, time), stream.look(picture, time)
        assert got == expected
        begun += [number] * len(got)
        np.testing.assert_allclose(stream(picture, time), own(picture, time).numpy(), rtol=1e-4, atol=1e-5)
    assert begun == {"cut": [17, 34, 51], "idle:0.5": [13, 17, 30, 34, 41, 47, 51]}.get(policy, [])


def test_streams_side_by_side_begin_anew_each_by_its_own_pictures(exported):
    _, path = exported
    both = prernn_runtime.Stream(path, threads=1, batch_size=2, reset="cut")
    each = [prernn_runtime.Stream(path, threads=1, reset="cut") for _ in range(2)]
    frames = [picture for _, picture in scenes()]
    for first, second in zip(frames, frames[5:], strict=False):
        got = both(np.stack([first, second]))
        expected = [stream(frame) for stream, frame in zip(each, (first, second), strict=True)]
        np.testing.assert_allclose(got, np.stack(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.probabilities(np.stack([first, second])).sum(-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="2 streams, got 3"):
        both(np.zeros((3, 3, 16, 16), np.float32))


def test_a_reset_that_does_not_fit_is_refused(exported):
    _, path = exported
    for words, wrong in (("got 'often'", "often"), ("even number", "every:3"), ("more than 0", "idle:0")):
        with pytest.raises(ValueError, match=words):
            prernn_runtime.Stream(path, reset=wrong)
    with pytest.raises(ValueError, match="expected the time"):
        prernn_runtime.Stream(path, reset="idle:1")(noise(0))
    with pytest.raises(NotImplementedError, match=r"stream\.look"):
        prernn_runtime.Stream(path, reset="cut")(np.zeros((3, 16, 16), np.float32))
    with pytest.raises(ValueError, match="with this reset"):
        prernn_runtime.Stream(path).load_state_dict({"reset_age": np.zeros(1, int)})
    both = prernn_runtime.Stream(path, reset="idle:1", batch_size=2)
    both(np.stack([noise(0, 30, 40)] * 2), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="one of each of 2 streams"):
        both(np.stack([noise(0, 30, 40)] * 2), [0.0, 1.0, 2.0])
    every = prernn_runtime.Stream(path, reset="every:8")
    for _ in range(6):
        every(noise(0))
    values = every.state_dict()
    with pytest.raises(ValueError, match="fits a second state"):
        every.load_state_dict(values | {"reset_age": np.array([2])})


def test_snippets_are_collected(tmp_path):
    net = shake(prernn.convert(prepare(SnippetNet()).float(), "fc6", image_size=(4, 8, 8))).eval()
    net.recipe = dataclasses.replace(net.recipe, transform={"size": 8})
    prernn.export(net, tmp_path / "step.onnx")
    own, stream = prernn.Stream(net), prernn_runtime.Stream(tmp_path / "step.onnx")
    for number in range(9):
        frame = noise(number, 8, 8)
        expected, got = own(frame), stream(frame)
        assert (got is None) == (expected is None) == (number % 4 != 3)
        if got is not None:
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)
    again = prernn_runtime.Stream(tmp_path / "step.onnx")
    again.load_state_dict({"pending": np.zeros((1, 3, 1, 5, 5), np.float32)})
    with pytest.raises(ValueError, match="as before in this snippet"):
        again(noise(0, 8, 8))
    again.load_state_dict({name: value.numpy() for name, value in own.state_dict().items()})
    for number in range(9, 12):
        frame = noise(number, 8, 8)
        expected, got = own(frame), again(frame)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_mistakes_are_said_and_the_stream_goes_on(exported, tmp_path):
    net, path = exported
    stream = prernn_runtime.Stream(path)
    before = stream.state_dict()
    broken = np.zeros((3, 16, 16), np.float32)
    broken[0, 0, 0] = np.nan
    for frame, words in (
        (broken, "finite numbers"),
        (np.zeros((4, 16, 16), np.float32), "expected a frame"),
        (np.zeros((16, 16), np.float32), "expected a frame"),
        (np.zeros((3, 16, 16), np.int32), "or floating, got int32"),
    ):
        with pytest.raises(ValueError, match=words):
            stream(frame)
    for shape in ((0, 16, 3), (16, 16, 4)):
        with pytest.raises(ValueError, match=r"expected a picture \(H, W, 3\)"):
            stream(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="expected a frame"):
        stream(np.zeros((3, 0, 0), np.float32))
    with pytest.raises(ValueError, match="expected a state"):
        stream.load_state_dict({"state_0_h": np.zeros((1, 3))})
    for name, value in stream.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    prernn.export(net, tmp_path / "sequence.onnx", kind="sequence")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for file, words in (
        ("sequence.onnx", "got one of a sequence"),
        ("broken.onnx", "onnxruntime can't run it"),
        ("absent.onnx", "found none"),
    ):
        with pytest.raises(ValueError, match=words):
            prernn_runtime.Stream(tmp_path / file)


# the command


def test_the_command_says_its_version(capsys):
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out == f"prernn-run {prernn_runtime.__version__}\n"


def test_the_command_prints_what_prernn_stream_does(exported, clip, capsys):
    _, path = exported
    assert command.main([str(clip), "--model", str(path), "--fps", "source", "--threads", "1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    own = prernn.Stream(exported[0])
    assert [int(row["frame"]) for row in rows] == list(range(20))
    for row, (_, frame) in zip(rows, own_frames(clip), strict=True):
        chances = own.probabilities(frame)
        assert float(row["probability"]) == pytest.approx(float(chances.max()), abs=0.05)
    assert command.main([str(clip), "--model", str(path), "--limit", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for words in (["absent.mp4", "--model", str(path)], [str(clip), "--model", "absent.onnx"]):
        assert command.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("prernn-run: error: absent")
        assert error.count("\n") == 1


def test_it_imports_nothing_of_torch():
    code = (
        "import sys, prernn_runtime.command; print([m for m in ('torch', 'prernn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_runs_in_an_environment_without_torch(exported, clip, tmp_path):
    """Installed by itself, as a user would: what it needs is there, and torch is not."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    run = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with", str(ROOT / "runtime")]
    asked = [*run, "prernn-run", str(clip), "--model", str(exported[1]), "--fps", "source"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    if done.returncode and "prernn-run" not in done.stderr:
        pytest.skip(f"the packages can't be had: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 21
    code = "from importlib.util import find_spec; print([m for m in ('torch', 'prernn') if find_spec(m)])"
    found = subprocess.run([*run, "python", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.strip() == "[]"
