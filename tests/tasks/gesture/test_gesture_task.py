"""Gestures in video: snippets, the CTC loss, predictions and files."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from footage import SHARED
from gesture_videos import SPEC, make_batch, make_list, opened, outputs_of, path_probability
from prernn.conversion.recipe import Recipe
from prernn.media.video import VideoError
from prernn.tasks.gesture.task import Gesture
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset

NVGESTURE = SHARED / "gesture-nvgesture-layout"


def shown(video):
    """Which frame each one of the snippets ``(T, C, D, H, W)`` is."""
    assert torch.equal(video.amin((1, 3, 4)), video.amax((1, 3, 4)))
    return (video[:, 0, :, 0, 0] * 255).round().int().tolist()


# ---------------------------------------------------------------------------------------------------- reading


def test_a_video_is_read_whole_in_snippets_without_overlap(root):
    task = opened(root)
    [record] = task.records("train")
    item = task.read(record, None)
    assert item["input"].shape == (6, 3, 4, 6, 6)
    assert shown(item["input"]) == [*([4 * t, 4 * t + 1, 4 * t + 2, 4 * t + 3] for t in range(5)), [20, 21, 21, 21]]
    assert item["target"].tolist() == [1, 3]
    assert item["intervals"].tolist() == [[2, 7], [13, 19]]
    assert (item["frames"], item["fps"], task.length(record)) == (22, 25.0, 6)


def test_a_video_has_the_label_of_its_one_gesture(root):
    """By which a few are drawn and a share is held out; two gestures have none."""
    make_list(root, "path:./a depth:sk_depth:2:7 color:sk_color:3:8 label:3", name="one.lst")
    found = []
    for name in ("train.lst", "one.lst"):
        task = opened(root, train_list=name)
        [record] = task.records("train")
        found.append(task.recording(record)[0])
    assert found == [0, 3]


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_last_snippet_counts_if_half_of_it_is_there(frames, snippet):
    task = Gesture(snippet=snippet)
    video = torch.arange(frames)[:, None, None, None].expand(-1, 3, 2, 2).float()
    made = task._snippets(video)
    wanted = [list(range(a, min(a + snippet, frames))) for a in range(0, frames, snippet)]
    if len(wanted) > 1 and len(wanted[-1]) < snippet / 2:
        wanted.pop()
    wanted[-1] += [frames - 1] * (snippet - len(wanted[-1]))
    steps = made.unsqueeze(2) if snippet == 1 else made
    assert steps[:, 0, :, 0, 0].tolist() == wanted
    assert task._steps(frames) == len(wanted)


@pytest.mark.parametrize(
    ("pad", "windows"), [(0, [(2, 7), (13, 19)]), (2, [(0, 9), (11, 21)]), (30, [(0, 10), (10, 22)])]
)
def test_a_window_is_an_interval_padded_up_to_half_the_way_to_its_neighbor(root, pad, windows):
    task = opened(root, window="gesture", pad=pad, snippet=1)
    records = task.records("train")
    assert [record.path for record in records] == [str(root / "a"), str(root / "a#2")]
    for record, (start, stop), (label, begin, end) in zip(records, windows, [(1, 2, 7), (3, 13, 19)], strict=True):
        item = task.read(record, None)
        assert item["input"].shape == (stop - start, 3, 6, 6)  # single frames have no D
        assert (item["input"][:, 0, 0, 0] * 255).round().tolist() == list(range(start, stop))
        assert (item["target"].tolist(), item["intervals"].tolist()) == ([label], [[begin - start, end - start]])
        assert item["frames"] == task.length(record) == stop - start


def test_training_crops_all_frames_alike_and_mirrors_only_when_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 40, (24, 32, 3))
    picture = (noise + 6 * np.arange(32)[None, :, None]).astype(np.uint8)  # brighter to the right
    (tmp_path / "a" / "sk_depth").mkdir(parents=True)
    for i in range(8):
        Image.fromarray(picture).save(tmp_path / "a" / "sk_depth" / f"{i}.png")
    make_list(tmp_path, "path:./a depth:sk_depth:1:7 label:2")
    rising = {}
    for flip in (False, True):
        task = opened(tmp_path, flip=flip)
        data = VideoDataset(task, task.records("train"), train=True)
        pictures = []
        for epoch in range(12):
            data.set_epoch(epoch)
            video = data[0]["input"].transpose(1, 2).flatten(0, 1)  # (F, C, H, W)
            assert torch.equal(video, video[:1].expand_as(video))
            assert torch.equal(data[0]["input"].transpose(1, 2).flatten(0, 1), video)
            pictures.append(video[0])
        assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 12
        rising[flip] = {bool(picture[:, :, -1].mean() > picture[:, :, 0].mean()) for picture in pictures}
    assert rising == {False: {True}, True: {True, False}}


def test_an_interval_beyond_the_end_names_list_line_and_video(root):
    make_list(root, "path:./a depth:sk_depth:2:7 label:1", "path:./a depth:sk_depth:9:23 label:3")
    task = opened(root)
    [record] = task.records("train")
    for use in (task.length, lambda record: task.read(record, None)):
        with pytest.raises(VideoError, match=r"train.lst:2: .* within the 22 frames of .*sk_depth, got 9:23"):
            use(record)


def test_depth_and_color_of_different_length_are_named(root):
    (root / "a" / "sk_color" / "21.png").unlink()
    for modality in ("depth", "color"):
        task = opened(root, modality=modality)
        with pytest.raises(VideoError, match=r"train.lst:3: .*one length, got 2[12] frames in .* and 2[12] in .*sk_"):
            task.length(task.records("train")[0])
    for frame in (root / "a" / "sk_color").iterdir():
        frame.unlink()
    (root / "a" / "sk_color").rmdir()
    task = opened(root)
    assert task.length(task.records("train")[0]) == 6  # one sensor alone is enough


def test_an_absent_video_can_be_left_out(root):
    make_list(root, "path:./b depth:sk_depth:2:7 label:1", "path:./a depth:sk_depth:2:7 label:3")
    task = opened(root)
    with pytest.raises(VideoError, match=r"train.lst:1: .*b/sk_depth.avi: no such file"):
        task.length(task.records("train")[0])
    data = VideoDataset(task, task.records("train"), on_error="skip")
    with pytest.warns(RuntimeWarning, match=r"skipped train.lst:1"):
        batch = collate([data[0], data[1]])
    assert batch["target"].tolist() == [[3]]


def test_more_gestures_than_ctc_can_tell_apart_are_named(root):
    make_list(root, "path:./a depth:sk_depth:2:4 label:1", "path:./a depth:sk_depth:5:8 label:1", name="train.lst")
    make_list(root, "path:./a depth:sk_depth:2:4 label:2", name="test.lst")
    task = opened(root, snippet=16)  # two snippets, but two equal gestures have a blank between them
    with pytest.raises(VideoError, match=r"train.lst:1: .*expected at least 3 snippets for its gestures, got 1"):
        task.read(task.records("train")[0], None)


def test_a_truncated_video_gives_what_decodes_where_that_is_tolerated(tmp_path):
    import av

    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    with av.open(str(tmp_path / "a" / "d.avi"), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", 25)
        stream.width = stream.height = 64
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    data = (tmp_path / "a" / "d.avi").read_bytes()
    (tmp_path / "a" / "d.avi").write_bytes(data[: len(data) // 2])
    make_list(tmp_path, "path:./a depth:d:3:9 label:1", "path:./a depth:d:10:58 label:2")
    task = opened(tmp_path)
    [record] = task.records("train")
    with pytest.raises(VideoError):
        task.read(record, None)
    item = task.read(record, None, tolerate_truncation=True)
    assert 10 < item["frames"] < 58
    assert item["target"].tolist() == [1, 2]
    assert item["intervals"].tolist() == [[3, 9], [10, item["frames"]]]


# ------------------------------------------------------------------------------------------------------- loss


def named(count):
    task = Gesture()
    task.labels = ["no gesture", *(f"g{k}" for k in range(1, count + 1))]
    return task


def test_the_loss_is_the_mean_of_the_labellings_log_likelihoods():
    batch = make_batch([[1, 3], [2], [2, 2]], [[[0, 1], [2, 3]], [[0, 4]], [[0, 1], [2, 3]]], [5, 2, 3], [40, 16, 24])
    out = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    scores = out.detach().log_softmax(-1)
    wanted = [path_probability(scores[0], [1, 3]), path_probability(scores[1, :2], [2])]
    wanted += [path_probability(scores[2, :3], [2, 2])]
    loss = named(3).loss(out, batch)
    torch.testing.assert_close(loss, -torch.tensor(wanted, dtype=torch.float64).log().mean())
    loss.backward()
    assert out.grad[1, 2:].abs().max() == 0
    assert out.grad[1, :2].abs().max() > 0


def test_padding_changes_neither_loss_nor_gradient_even_where_it_is_nan():
    batch = make_batch([[1], [2]], [[[0, 1]], [[0, 4]]], [5, 2], [40, 16])
    clean = torch.randn(2, 5, 3)
    broken = clean.clone()
    broken[1, 2:] = math.nan
    gradients = []
    for out in (clean.requires_grad_(), broken.requires_grad_()):
        named(2).loss(out, batch).backward()
        gradients.append(out.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_loss_is_float32_for_half_precision_and_0_for_an_empty_batch():
    batch = make_batch([[1]], [[[0, 1]]], [4], [32])
    out = torch.randn(1, 4, 3)
    loss = named(2).loss(out.bfloat16(), batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, named(2).loss(out.bfloat16().float(), batch))
    assert named(2).loss(torch.zeros(0, 0, 1), collate([{"path": "x", "reason": "y"}])) == 0


def test_a_network_that_follows_the_loss_gets_every_metric_right():
    torch.manual_seed(0)
    batch = make_batch([[1, 2], [3]], [[[8, 30], [40, 60]], [[16, 40]]], [10, 8], [80, 64])
    out = torch.zeros(2, 10, 4, requires_grad=True)
    task = named(3)
    optimizer = torch.optim.Adam([out], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(out, batch).backward()
        optimizer.step()
    metrics = task.metrics()
    metrics.update(out.detach(), batch)
    values = metrics.compute()
    assert (values["accuracy"], values["edit_distance"]) == (1, 0)


# -------------------------------------------------------------------------------------- predictions and files


def test_predictions_have_a_row_for_each_video():
    task = named(3)
    batch = make_batch([[1, 2], [3]], [[[5, 20], [36, 46]], [[10, 30]]], [10, 5], [78, 40])
    out = outputs_of([[0, 1, 1, 0, 0, 2, 0, 0, 0, 3], [0, 0, 0, 0, 0]], 4, 10)
    first, second = task.predictions(out, batch)
    assert first.pop("probability").count(";") == 1
    assert first == {
        "path": "0",
        "true": "g1; g2",
        "label": "g1; g2",
        "decoded": "g1; g2; g3",
        "begin_frame": "8; 40; 72",
        "end_frame": "24; 48; 78",
        "seen_frame": "16; 48; 78",
    }
    assert (second["true"], second["decoded"], second["seen_frame"]) == ("g3", "", "")
    assert float(second["probability"]) == pytest.approx(1 / 3, abs=1e-3)


def test_the_report_draws_and_tabulates(tmp_path):
    task = named(2)
    metrics = task.metrics()
    metrics.update(outputs_of([[0, 1, 0, 0]], 3, 4), make_batch([[2]], [[[0, 10]]], [4], [32]))
    results = task.report({name: value.tolist() for name, value in metrics.compute().items()}, tmp_path)
    with Image.open(tmp_path / "confusion.png") as image:
        assert min(image.size) > 200
    table = (tmp_path / "classes.csv").read_text().splitlines()
    assert len(table) == 3
    assert table[2].startswith("g2,1,0")
    assert results["class_accuracy"]["g2"] == 0
    assert (results["labels"], results["confusion"]) == (["g1", "g2"], [[0, 0], [1, 0]])


def test_a_task_comes_back_from_its_recipe(root):
    task = opened(root, modality="color", decoder="beam", decoder_options={"width": 3}, tolerance=5)
    recipe = Recipe.from_json(json.loads(json.dumps(task.noted(Recipe()).to_json())))
    assert recipe.labels == task.labels
    assert recipe.task.name == "gesture"
    again = Gesture(**recipe.task.options)
    assert (again.modality, again.snippet, again.tolerance) == ("color", 4, 5)
    assert again._decoder().decoder.width == 3


@pytest.mark.skipif(not NVGESTURE.is_dir(), reason="no shared data")
def test_the_shared_data_is_read():
    task = Gesture(size=16)
    task.open(NVGESTURE, SPEC)
    assert (len(task.records("train")), len(task.records("test"))) == (312, 65)
    assert task.outputs == 14
    item = task.read(task.records("test")[0], None)
    assert item["input"].shape == (10, 3, 8, 16, 16)
    assert (item["target"].tolist(), item["intervals"].tolist(), item["fps"]) == ([1], [[4, 62]], 30.0)
