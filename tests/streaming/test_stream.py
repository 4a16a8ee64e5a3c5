"""Streams: stepping, state in and out, frames of every form, predictions on record."""

import csv
import io
import itertools
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import prernn
from equations import close
from prernn.media import encoding, video
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.streaming.drawing import annotate
from prernn.streaming.prediction import Prediction, predictions
from prernn.streaming.rows import write_csv
from prernn.streaming.stream import Stream
from prernn.tasks.action.watcher import stream_video
from small_cnns import FcNet, ResidualNet, shake

SPEC = {"size": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
LABELS = ["zoom in", "zoom out", "fade in", "fade out", "still, or so"]
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def network(cell="gru", **options):
    net = shake(prernn.convert(ResidualNet(), cell=cell, **options)).eval()
    net.recipe = replace(net.recipe, transform=SPEC, labels=LABELS)
    return net


def pictures(count, size=(20, 24)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


NETWORKS = {
    **{cell: lambda cell=cell: network(cell) for cell in ("vrnn", "lstm", "gru")},
    "two layers": lambda: shake(prernn.convert(FcNet(), ["fc6", "fc7"], cell="lstm")).eval(),
    "traditional": lambda: prernn.traditional(ResidualNet(), cell="gru", num_layers=2).eval(),
    "frame-wise": lambda: prernn.framewise(ResidualNet()).eval(),
}


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]()


# frames in, outputs out


def test_stream_equals_sequence(net):
    frames, stream = torch.randn(6, 3, 8, 8), Stream(net)
    out = torch.stack([stream(frame) for frame in frames])
    close(out, net(frames[None])[0][0].detach(), **FLOAT32)
    assert not out.requires_grad


def test_reset_starts_anew(net):
    frames, stream = torch.randn(3, 3, 8, 8), Stream(net)
    first = [stream(frame) for frame in frames]
    stream.reset()
    close([stream(frame) for frame in frames], first, **FLOAT32)


def test_probabilities_are_softmax():
    net, frame = network(), torch.randn(3, 8, 8)
    close(Stream(net).probabilities(frame), Stream(net)(frame).softmax(0), **FLOAT32)
    assert Stream(net).probabilities(frame).sum().item() == pytest.approx(1)


def test_uint8_frame_goes_through_the_recipes_transform():
    net, (picture, *_) = network(), pictures(1)
    by_hand = frame_transform(TransformSpec.from_dict(SPEC))(picture)
    expected = net.step(by_hand[None])[0][0].detach()
    read_only = picture.copy()
    read_only.setflags(write=False)
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    for frame in (picture, torch.from_numpy(picture), read_only, bgr[:, :, ::-1], by_hand, by_hand.double().numpy()):
        close(Stream(net)(frame), expected, **FLOAT32)


def test_transform_argument_goes_before_the_recipe():
    net, (picture, *_) = network(), pictures(1)
    spec = {**SPEC, "mean": [0, 0, 0]}
    expected = Stream(net)(frame_transform(TransformSpec.from_dict(spec))(picture))
    for transform in (spec, TransformSpec.from_dict(spec), frame_transform(TransformSpec.from_dict(spec))):
        close(Stream(net, transform=transform)(picture), expected, **FLOAT32)


def test_dtype_follows_the_network():
    net = network().double()
    out = Stream(net)(torch.randn(3, 8, 8))
    assert out.dtype == torch.float64
    assert Stream(net).probabilities(pictures(1)[0]).dtype == torch.float32


def test_streams_that_share_a_network_are_independent(net):
    a, b = torch.randn(2, 5, 3, 8, 8)
    one, other = Stream(net), Stream(net)
    mixed = [(one(x), other(y)) for x, y in zip(a, b, strict=True)]
    for frames, outputs in zip((a, b), zip(*mixed, strict=True), strict=True):
        alone = Stream(net)
        close(list(outputs), [alone(frame) for frame in frames], **FLOAT32)


def test_streams_side_by_side_equal_single_ones():
    net, frames = network("lstm"), pictures(6)
    both, one, other = Stream(net, batch_size=2), Stream(net), Stream(net)
    for a, b in zip(frames[:3], frames[3:], strict=True):
        close(both(np.stack([a, b])), torch.stack([one(a), other(b)]), **FLOAT32)
    close(both(torch.ones(2, 3, 8, 8))[1], other(torch.ones(3, 8, 8)), **FLOAT32)


def test_network_keeps_its_mode():
    net = network()
    expected = Stream(net)(torch.ones(3, 8, 8))
    net.train()
    modes = [module.training for module in net.modules()]
    statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
    close(Stream(net)(torch.ones(3, 8, 8)), expected, **FLOAT32)
    with pytest.raises(ValueError, match="expected a frame"):
        Stream(net)(torch.ones(8, 8))
    assert [module.training for module in net.modules()] == modes
    assert True in modes  # frozen batch normalization stays in evaluation mode, the rest trains
    assert False in modes
    close(dict(net.named_buffers()), statistics)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(8, 8), r"float \(3, H, W\), got torch.float32 \(8, 8\)"),
        (torch.zeros(1, 8, 8), r"got torch.float32 \(1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), r"got torch.float32 \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \(H, W, 3\), got torch.uint8 \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(H, W, 3\)"),
        ([1, 2], "array or tensor, got list"),
    ],
)
def test_wrong_frames(frame, message):
    with pytest.raises(ValueError, match=message):
        Stream(network())(frame)


def test_wrong_arguments():
    net = network()
    with pytest.raises(ValueError, match="at least 1 stream, got 0"):
        Stream(net, batch_size=0)
    with pytest.raises(ValueError, match=r"frames of 2 streams, got shape \(3, 8, 8\)"):
        Stream(net, batch_size=2)(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="unknown"):
        Stream(net, transform={"unknown": 1})
    net.recipe.transform = None
    with pytest.raises(ValueError, match="no transform for it; pass transform="):
        Stream(net)(pictures(1)[0])


# state out and in


def test_saved_stream_goes_on(net, tmp_path):
    frames, stream = torch.randn(6, 3, 8, 8), Stream(net)
    for frame in frames[:3]:
        stream(frame)
    save_file(stream.state_dict(), tmp_path / "state.safetensors")
    expected = [stream(frame) for frame in frames[3:]]
    other = Stream(net)
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    close([other(frame) for frame in frames[3:]], expected, rtol=0, atol=0)


def test_state_is_named_by_layer_and_tensor_and_empty_before_a_frame():
    stream = Stream(NETWORKS["two layers"](), batch_size=2)
    assert stream.state_dict() == {}
    stream(torch.randn(2, 3, 8, 8))
    shapes = {name: tuple(value.shape) for name, value in stream.state_dict().items()}
    assert shapes == dict.fromkeys(["state_0_h", "state_0_c", "state_1_h", "state_1_c"], (2, 12))
    stream.load_state_dict({})
    assert stream.state_dict() == {}


def test_state_dict_is_a_copy():
    stream, frame = Stream(network()), torch.randn(3, 8, 8)
    stream(frame)
    saved = stream.state_dict()
    stream.load_state_dict(saved)
    expected = stream(frame)
    stream.load_state_dict(saved)
    saved["state_0_h"].zero_()
    close(stream(frame), expected, rtol=0, atol=0)


def test_state_of_another_network_is_refused():
    stream = Stream(network("lstm"))
    stream(torch.randn(3, 8, 8))
    before = stream.state_dict()
    wrong = {
        r"expected the state \['state_0_h', 'state_0_c'\], got \['state_0_h'\]": {"state_0_h": torch.zeros(1, 12)},
        r"state_0_c of shape \(1, 12\), got \(1, 13\)": {
            "state_0_h": torch.zeros(1, 12),
            "state_0_c": torch.ones(1, 13),
        },
        r"state_0_h of shape \(1, 12\), got \(2, 12\)": {
            "state_0_h": torch.zeros(2, 12),
            "state_0_c": torch.ones(2, 12),
        },
        "pending frames": {**before, "pending": torch.zeros(1, 3, 2, 8, 8)},
    }
    for message, values in wrong.items():
        with pytest.raises(ValueError, match=message):
            stream.load_state_dict(values)
        close(stream.state_dict(), before)


# snippets


class SnippetNet(nn.Module):
    """A 3-D CNN over snippets of four frames."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc6, self.fc7 = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc7(torch.relu(self.fc6(torch.relu(self.conv(x)).mean((2, 3, 4)))))


@pytest.fixture
def snippet_net():
    net = prernn.convert(SnippetNet(), "fc6", image_size=(4, 8, 8)).eval()
    net.recipe = replace(net.recipe, transform=SPEC, labels=LABELS)
    return net


def test_snippets_collect_frames(snippet_net):
    frames, stream = pictures(9), Stream(snippet_net)
    outputs = [stream(frame) for frame in frames]
    assert [out is not None for out in outputs] == [False, False, False, True] * 2 + [False]
    clip = torch.stack([frame_transform(TransformSpec.from_dict(SPEC))(frame) for frame in frames[:8]], dim=1)
    expected = snippet_net(torch.stack(clip.split(4, dim=1))[None])[0][0].detach()
    close(torch.stack([outputs[3], outputs[7]]), expected, **FLOAT32)
    other = Stream(snippet_net)
    close(torch.stack([other(part) for part in clip.split(4, dim=1)]), expected, **FLOAT32)


def test_snippets_are_saved_half_full(snippet_net):
    frames, stream, other = pictures(8), Stream(snippet_net), Stream(snippet_net)
    for count, frame in enumerate(frames):
        if count in (2, 6):
            other.load_state_dict(stream.state_dict())
        if count in (4,):
            other.reset()
        out = stream(frame)
    assert stream.state_dict().keys() == {"state_0_h"}
    for frame in frames[6:]:
        last = other(frame)
    close(last, out, rtol=0, atol=0)


def test_wrong_snippets(snippet_net):
    stream = Stream(snippet_net, transform=lambda frame: frame.permute(2, 0, 1).float())
    stream(pictures(1)[0])
    with pytest.raises(ValueError, match=r"expected frames \(1, 3, 20, 24\) as before in this snippet"):
        stream(pictures(1, (10, 10))[0])
    with pytest.raises(ValueError, match=r"float \(3, D, H, W\), got torch.float32 \(3, 8, 8\)"):
        stream(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="less than 4 of them"):
        stream.load_state_dict({"pending": torch.zeros(1, 3, 4, 8, 8)})


# predictions on record


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    encoding.write_video(path, pictures(7, (24, 32)), fps=10)
    return path


def test_predictions_name_time_and_label(clip):
    net = network()
    found, stream = list(predictions(Stream(net), clip)), Stream(net)
    for index, (prediction, (time, frame)) in enumerate(zip(found, video.read_frames(clip), strict=True)):
        probabilities = stream.probabilities(frame)
        assert (prediction.index, prediction.time) == (index, pytest.approx(time))
        assert prediction.label == LABELS[probabilities.argmax()]
        assert prediction.probability == pytest.approx(probabilities.max().item())
        assert prediction.latency_ms > 0
        close(prediction.probabilities, probabilities, **FLOAT32)


def test_predictions_without_labels_and_with_wrong_ones(clip):
    net = network()
    net.recipe.labels = None
    assert {p.label for p in predictions(Stream(net), clip)} <= set("01234")
    net.recipe.labels = ["one", "two"]
    with pytest.raises(ValueError, match="expected 5 labels, one an output, got 2"):
        next(predictions(Stream(net), clip))
    with pytest.raises(ValueError, match="one stream for one source, got batch_size=2"):
        next(predictions(Stream(net, batch_size=2), clip))


def test_predictions_of_snippets(snippet_net, clip):
    (prediction,) = predictions(Stream(snippet_net), clip)
    assert (prediction.index, prediction.time) == (3, pytest.approx(0.3))


def prediction(index=0, label="a, b", probability=0.25):
    return Prediction(index, index / 10, label, probability, 12.345, torch.tensor([probability, 1 - probability]))


def test_csv_file(tmp_path):
    path = tmp_path / "out.csv"
    write_csv(path, (prediction(index) for index in range(3)))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert rows[1] == {
        "index": "1", "time_s": "0.100", "label": "a, b", "probability": "0.2500", "latency_ms": "12.35"
    }  # fmt: skip


def test_csv_file_is_complete_or_absent(tmp_path):
    path = tmp_path / "out.csv"
    with pytest.raises(KeyError):
        write_csv(path, (prediction({0: 0, 1: 1}[index]) for index in itertools.count()))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"not written: No such file or directory: .*/absent/out.csv"):
        write_csv(tmp_path / "absent" / "out.csv", [])


def test_csv_rows_appear_at_once_in_an_open_file():
    file, lines = io.StringIO(), []

    def endless():
        for index in itertools.count():
            lines.append(file.getvalue().count("\n"))
            if index == 3:
                raise KeyboardInterrupt
            yield prediction(index)

    with pytest.raises(KeyboardInterrupt):
        write_csv(file, endless())
    assert lines == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [(480, 640), (96, 96), (400, 60), (5, 7), (1, 1)])
@pytest.mark.parametrize(
    "label", ["fade in", "a label that is much too long for any frame that is not as wide as this"]
)
def test_annotate_any_size(size, label):
    frame = np.full((*size, 3), 128, np.uint8)
    drawn = annotate(frame, prediction(label=label))
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    assert (frame == 128).all()
    assert (drawn != 128).any()
    if min(size) > 50:
        assert (drawn[size[0] // 2] == 128).all()  # the middle stays free


def test_annotate_draws_a_bar_of_the_probability():
    frame = np.zeros((100, 200, 3), np.uint8)

    def green(share):
        row = annotate(frame, prediction(probability=share))[95].astype(int)
        return ((row[:, 1] - row[:, 0]) > 50).sum()

    assert green(1.0) == pytest.approx(2 * green(0.5), abs=3)
    assert green(0.0) <= 1
    assert green(float("nan")) == 0


@pytest.mark.parametrize("frame", [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)])
def test_annotate_wrong_frames(frame):
    with pytest.raises(ValueError, match=r"expected a frame uint8 \(H, W, 3\), got"):
        annotate(frame, prediction())


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_stream_video_in_one_pass(clip, tmp_path):
    seen, net = [], network()
    count = stream_video(net, clip, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", on_prediction=seen.append)
    assert (count, [p.index for p in seen]) == (7, list(range(7)))
    assert [row["label"] for row in read_rows(tmp_path / "a.csv")] == [p.label for p in seen]
    frames = [frame for _, frame in video.read_frames(tmp_path / "a.mp4")]
    assert (len(frames), frames[0].shape) == (7, (24, 32, 3))
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(10)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "a.csv", "a.mp4"}


def test_stream_video_stops_at_the_limit(clip, tmp_path):
    out = io.StringIO()
    assert stream_video(network(), clip, csv=out, video=tmp_path / "a.mp4", limit=3) == 3
    assert out.getvalue().count("\n") == 4
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 3
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        stream_video(network(), clip, limit=0)


def test_stream_video_goes_on_from_a_stream(clip):
    stream, seen = Stream(network()), []
    stream_video(stream, clip, on_prediction=seen.append)
    stream_video(stream, clip, on_prediction=seen.append)
    assert not torch.allclose(seen[0].probabilities, seen[7].probabilities)
    assert seen[7].index == 0


def test_stream_video_of_snippets_annotates_every_frame(snippet_net, clip, tmp_path):
    assert stream_video(snippet_net, clip, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4") == 7
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 7
    assert [row["index"] for row in read_rows(tmp_path / "a.csv")] == ["3"]


def test_source_that_breaks_off_leaves_what_came_before(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, picture in enumerate(pictures(3)):
        Image.fromarray(picture).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"broken")
    with pytest.raises(video.VideoError, match=r"3.png"):
        stream_video(network(), folder, csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", fps=5)
    assert len(read_rows(tmp_path / "a.csv")) == 3
    assert len(list(video.read_frames(tmp_path / "a.mp4"))) == 3
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(5)


def test_source_that_is_unreadable_leaves_nothing(tmp_path):
    with pytest.raises(video.VideoError, match="no such file"):
        stream_video(network(), tmp_path / "absent.mp4", csv=tmp_path / "a.csv", video=tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def camera(monkeypatch):
    """A source without end, of 8 frames a second, as "camera:0"; the list tells how often it was closed."""
    closed = []

    def read_frames(source, *, fps=25.0):
        try:
            yield from ((index / 8, picture) for index, picture in enumerate(itertools.cycle(pictures(3))))
        finally:
            closed.append(source)

    monkeypatch.setattr(video, "read_frames", read_frames)
    return closed


def test_live_source_keeps_its_pace(camera, tmp_path):
    stream_video(network(), "camera:0", video=tmp_path / "a.mp4", limit=20)
    assert camera == ["camera:0"]
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(8)
    assert stream_video(network(), "camera:0", video=tmp_path / "b.mp4", limit=1) == 1


@pytest.fixture
def listening():
    """Ctrl-C with Python's own handler: pytest's worker processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_live_source_with_complete_files(camera, tmp_path, listening):
    before, modes = listening, []

    def press(prediction):
        if prediction.index == 14:
            signal.raise_signal(signal.SIGINT)
            modes.append(signal.getsignal(signal.SIGINT))

    files = {"csv": tmp_path / "a.csv", "video": tmp_path / "a.mp4"}
    count = stream_video(network(), "camera:0", **files, on_prediction=press, limit=50)  # 50: not for ever if it fails
    assert count == len(read_rows(tmp_path / "a.csv")) == 15
    assert video.probe(tmp_path / "a.mp4").frames == 15
    assert modes == [before]  # a second one interrupts
    assert signal.getsignal(signal.SIGINT) is before
    assert camera == ["camera:0"]


def test_failing_receiver_leaves_no_files(camera, tmp_path):
    def fail(prediction):
        raise KeyError(prediction.index)

    with pytest.raises(KeyError):
        stream_video(network(), "camera:0", csv=tmp_path / "a.csv", video=tmp_path / "a.mp4", on_prediction=fail)
    assert list(tmp_path.iterdir()) == []
    assert camera == ["camera:0"]


def test_import_stays_light():
    imports = "import sys, prernn.streaming.stream, prernn.models.onnx; "
    code = imports + "print([m for m in ('av', 'onnx', 'PIL') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
