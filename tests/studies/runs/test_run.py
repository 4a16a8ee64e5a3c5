"""What is read of a run's folder, which videos its network is shown, and the weights of its kind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import prernn
from prernn.conversion.accounting import recurrent_parameters
from prernn.conversion.calibration import with_calibration
from prernn.conversion.recipe import Recipe
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.transforms import TransformSpec, clip_transform
from prernn.media.video import VideoError, read_clip
from prernn.models import checkpoint
from prernn.models.backbones import backbone
from prernn.models.describe import describe
from prernn.models.from_config import NetworkSpec
from prernn.studies.papers.bandrnn_talk import STRUCTURES
from prernn.studies.runs.run import BANDS, look_at, talk_bands, weight_grid
from prernn.studies.runs.videos import first_videos, video_batches
from small_cnns import FcNet, prepare

SPEC = {**TransformSpec(size=32).__dict__}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained network."""
    root = tmp_path_factory.mktemp("runs") / "pregru"
    net = NetworkSpec("timm/test_resnet", cell="gru").build(3)
    net.recipe = replace(net.recipe, labels=["a", "b", "c"], transform=SPEC)
    checkpoint.save(net, root)
    return root


@pytest.fixture
def folder(run, tmp_path):
    """A copy of it to write to."""
    (tmp_path / "model.safetensors").symlink_to(run / "model.safetensors")
    return tmp_path


def video(path, frames=5, seed=0):
    write_video(path, np.random.default_rng(seed).integers(0, 255, (frames, 40, 48, 3), dtype=np.uint8), 5)
    return path


# weights


@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [["fc7"], ["fc6", "fc7"]])
@pytest.mark.parametrize("top", [0, 2])
def test_the_grid_counts_what_conversion_introduces(cell, layers, top):
    def network(form, hidden):
        net = prernn.convert(prepare(FcNet()), layers, cell=cell, input=form, hidden=hidden, image_size=(8, 8))
        return prernn.traditional(net, cell=cell, num_layers=top) if top else net

    forms = {f"Pre{cell.upper()}": "gate"} | ({} if cell == "vrnn" else {f"Pre{cell.upper()}-SIH": "single"})
    expected = {
        hidden: {name: recurrent_parameters(network(form, hidden)).introduced for name, form in forms.items()}
        for hidden in BANDS
    }
    for own in (network("gate", "full"), network("single", "band:3")):
        assert weight_grid(own) == expected


def test_the_grid_gives_table_3():
    """PreRNN-SIH to PreRNN on VGG16: LSTM 0.18 and 0.57, GRU 0.20 and 0.60."""
    cnn = backbone("vgg16", device="meta")
    for cell, layer, ratio in (("lstm", "0", 0.18), ("lstm", "3", 0.57), ("gru", "0", 0.20), ("gru", "3", 0.60)):
        full = weight_grid(prernn.convert(cnn, f"classifier.{layer}", cell=cell))["full"]
        assert round(full[f"Pre{cell.upper()}-SIH"] / full[f"Pre{cell.upper()}"], 2) == ratio


def test_no_converted_layer_no_grid():
    assert weight_grid(prernn.traditional(prepare(FcNet()), image_size=(8, 8))) == {}
    assert weight_grid(prernn.framewise(prepare(FcNet()), image_size=(8, 8))) == {}
    mixed = prernn.convert(prernn.convert(prepare(FcNet()), "fc6", cell="lstm", image_size=(8, 8)), "fc7", cell="gru")
    assert weight_grid(mixed) == {}


def test_networks_in_words():
    cnn = prepare(FcNet())
    net = prernn.convert(cnn, ["fc6", "fc7"], cell="lstm", input="single", hidden="band:3", image_size=(8, 8))
    assert describe(net.recipe) == "PreLSTM-SIH at fc6, fc7, band:3"
    assert describe(with_calibration(net).recipe) == describe(net.recipe)
    deep = prernn.traditional(prernn.convert(cnn, cell="vrnn", pretrained=False, image_size=(8, 8)), cell="vrnn")
    assert describe(deep.recipe) == "PreVRNN at fc7, drawn anew + traditional VRNN, 1 layer"
    matched = prernn.traditional(cnn, hidden_size=7, num_layers=2, image_size=(8, 8))
    assert describe(matched.recipe) == "traditional GRU, 2 layers of 7"
    assert describe(prernn.framewise(cnn, image_size=(8, 8)).recipe) == "frame-wise"


# tables


def test_tables_are_read_and_may_be_absent(folder):
    run = look_at(folder, "x")
    assert (run.metrics, run.history, run.errors, run.gates, run.notes) == ({}, [], None, [], [])
    assert run.cells == ["GRU"]
    assert run.weights == run.grid["full"]["PreGRU"]
    (folder / "metrics.json").write_text(json.dumps({"auc": 0.5, "clips": 3, "good": True, "confusion": [[1]]}))
    (folder / "history.csv").write_text("epoch,train_loss,val_loss\n1,0.5,\n2,0.25,1\n")
    (folder / "ced.csv").write_text("error,share\n0,0\n0.08,1\n")
    run = look_at(folder, "x")
    assert run.metrics == {"auc": 0.5, "clips": 3}
    assert run.history == [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25, "val_loss": 1}]
    assert run.errors == ([0, 0.08], [0, 1])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("history.csv", "epoch,loss\n1,0.5\n2,low\n", r"history.csv:3: expected a number, got 'low' in column 'loss'"),
        ("history.csv", "epoch,loss\n1,0.5,7\n", r"history.csv:2: .*more values than columns"),
        ("history.csv", "loss\n0.5\n", r"history.csv:1: expected a column 'epoch'"),
        ("history.csv", "epoch,loss\n,0.5\n", r"history.csv:2: expected a number in column 'epoch', got none"),
        ("ced.csv", "error,part\n0,0\n", r"ced.csv:1: expected a column 'share'"),
        ("ced.csv", "", r"ced.csv:1: expected a column 'error'"),
        ("ced.csv", b"\xff\xfe\x00", r"ced.csv:1: expected a column 'error'"),
        ("metrics.json", "{", r"metrics.json: expected JSON"),
        ("metrics.json", b"\xff\xfe", r"metrics.json: expected JSON"),
        ("metrics.json", "[1]", r"metrics.json: expected a JSON object, got list"),
    ],
)
def test_a_table_that_is_none_is_named(folder, name, content, complaint):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=complaint):
        look_at(folder, "x")


def test_a_checkpoint_in_a_run_finds_the_runs_tables(folder):
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n")
    (folder / "checkpoints").mkdir()
    inner = folder / "checkpoints" / "best.safetensors"
    inner.symlink_to(folder / "model.safetensors")
    for path in (folder / "model.safetensors", inner):
        assert look_at(path, "x").history == [{"epoch": 1, "loss": 0.5}]


# videos


def test_videos_go_through_the_networks_own_transform(run, tmp_path):
    (tmp_path / "deep").mkdir()
    files = [video(tmp_path / "a.mp4"), video(tmp_path / "deep" / "b.mp4", 3, 1)]
    (tmp_path / "notes.txt").write_text("no video")
    net = checkpoint.load(run)
    whole, single = video_batches([tmp_path])(run, net), video_batches([files[1]])(run, net)
    prepare_clip = clip_transform(TransformSpec(size=32), train=False)
    expected = [prepare_clip(read_clip(file, Sampling(frames=None, rule="all"))) for file in files]
    for batches, clips in ((list(whole), expected), (list(single), expected[1:])):
        assert [batch["lengths"].tolist() for batch in batches] == [[len(clip)] for clip in clips]
        for batch, clip in zip(batches, clips, strict=True):
            torch.testing.assert_close(batch["input"], clip[None], rtol=0, atol=0)


def test_a_folder_of_frames_is_one_video(run, tmp_path):
    from PIL import Image

    for k in range(4):
        Image.new("RGB", (40, 40), (k, 0, 0)).save(tmp_path / f"{k}.png")
    (batch,) = video_batches([tmp_path])(run, checkpoint.load(run))
    assert batch["input"].shape == (1, 4, 3, 32, 32)


class Snippets:
    """Stands in for a network over snippets of 4 frames."""

    frame_shape, recipe = (3, 4, 32, 32), Recipe(transform=SPEC)


def test_snippets_are_whole_and_in_order(run, tmp_path):
    file = video(tmp_path / "a.mp4", 11)
    (plain,) = video_batches([file])(run, checkpoint.load(run))
    (batch,) = video_batches([file])(run, Snippets())
    assert batch["input"].shape == (1, 2, 3, 4, 32, 32)
    for step in range(2):
        for place in range(4):
            expected = plain["input"][0, 4 * step + place]
            torch.testing.assert_close(batch["input"][0, step, :, place], expected, rtol=0, atol=0)
    short = video(tmp_path / "short.mp4", 3)
    with pytest.raises(VideoError, match=r"short.mp4: expected at least a snippet of 4 frames, got 3"):
        list(video_batches([short])(run, Snippets()))


def test_bad_sources_are_said_at_once(tmp_path):
    with pytest.raises(VideoError, match="absent"):
        video_batches([tmp_path / "absent"])
    with pytest.raises(VideoError, match="expected videos or frames"):
        video_batches([tmp_path])


@pytest.mark.parametrize(
    ("shape", "transform"), [((20, 32, 32), SPEC), ((3, 32, 32), {**SPEC, "flow": True}), ((3, 32, 32), None)]
)
def test_a_network_that_sees_no_plain_color_is_noted(folder, tmp_path, shape, transform, monkeypatch):
    net = checkpoint.load(folder)
    net.frame_shape, net.recipe = shape, replace(net.recipe, transform=transform)
    monkeypatch.setattr(checkpoint, "load", lambda path: net)
    run = look_at(folder, "x", video_batches([video(tmp_path / "a.mp4")]))
    assert run.gates == []
    assert len(run.notes) == 1
    assert "color frames" in run.notes[0]


def test_no_videos_are_noted(folder):
    run = look_at(folder, "x", lambda folder, net: [])
    assert run.gates == []
    assert "at least one video" in run.notes[0]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9, None])
def test_first_videos(limit):
    drawn = []

    def batches():
        for first in (0, 2, 4):
            drawn.append(first)
            values = torch.arange(first, first + 2)
            yield {"input": values, "lengths": values + 10, "path": ["x", "y"]}
            yield {"path": [], "lengths": values[:0]}  # all skipped

    given = list(first_videos(batches(), limit))
    count = 6 if limit is None else min(limit, 6)
    assert torch.cat([batch["input"] for batch in given]).tolist() == list(range(count))
    assert torch.cat([batch["lengths"] for batch in given]).tolist() == list(range(10, 10 + count))
    assert len(drawn) == -(-count // 2)  # nothing is read that is not looked at


def test_bars_of_the_talks_size_have_the_talks_widths():
    assert talk_bands({2048}) == (*STRUCTURES, "full")
    for sizes in ({512}, {2048, 512}, set()):
        assert talk_bands(sizes) == BANDS
