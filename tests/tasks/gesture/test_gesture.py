"""Gestures in video: NVGesture's lists, snippets, the CTC loss and the metrics of a stream."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from footage import SHARED
from prernn.conversion.recipe import Recipe
from prernn.media.video import VideoError
from prernn.tasks.ctc import BeamDecoder, Event, GreedyDecoder
from prernn.tasks.gesture.metrics import GestureMetrics, detections, part_cuts, seen_frames
from prernn.tasks.gesture.task import Gesture
from prernn.training.batches import collate
from prernn.training.dataset import VideoDataset

NVGESTURE = SHARED / "gesture-nvgesture-layout"
SPEC = {"size": 6, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LISTS = {"train_list": "train.lst", "test_list": "test.lst"}


def make_frames(folder, frames):
    """A folder of frames; frame i is grey of value i."""
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(np.full((8, 10), i, np.uint8)).save(folder / f"{i}.png")


def make_list(root, *lines, name="train.lst"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def opened(root, **options):
    task = Gesture(**{**LISTS, "snippet": 4, **options})
    task.open(root, SPEC)
    return task


@pytest.fixture
def root(tmp_path):
    """One recording of 22 frames with two gestures, depth and colour."""
    make_frames(tmp_path / "a" / "sk_depth", 22)
    make_frames(tmp_path / "a" / "sk_color", 22)
    make_list(
        tmp_path,
        "path:./a depth:sk_depth:13:19 color:sk_color:14:20 label:3 ",
        "",
        "path:./a depth:sk_depth:2:7 color:sk_color:3:8 label:1",
    )
    return tmp_path


def shown(video):
    """Which frame each one of the snippets ``(T, C, D, H, W)`` is."""
    assert torch.equal(video.amin((1, 3, 4)), video.amax((1, 3, 4)))
    return (video[:, 0, :, 0, 0] * 255).round().int().tolist()


# ------------------------------------------------------------------------------------------------------ lists


def test_a_line_of_nvgesture_is_read_for_every_sensor(tmp_path):
    line = (
        "path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:139:219 "
        "duo_left:duo_left:161:254 label:2 "
    )
    make_list(tmp_path, line)
    folder = tmp_path / "Video_data" / "class_01" / "subject13_r0"
    wanted = {"depth": ("sk_depth", 138, 218), "color": ("sk_color", 139, 219)}
    wanted |= {name: (name, 161, 254) for name in ("duo_left", "duo_right", "duo_disparity")}
    for modality, (name, begin, end) in wanted.items():
        [video] = opened(tmp_path, modality=modality).records("train")
        assert video.path == str(folder)  # the same for all sensors, whose outputs are fused
        assert video.file == str(folder / f"{name}.avi")
        assert [tuple(sign) for sign in video.signs] == [(2, begin, end, "train.lst:1")]
        twin = {"depth": "sk_color", "color": "sk_depth"}.get(modality)
        assert video.twin == (twin and str(folder / f"{twin}.avi"))


def test_lines_of_one_recording_are_its_gestures_in_order_of_time(root):
    [video] = opened(root).records("train")
    assert [tuple(sign) for sign in video.signs] == [(1, 2, 7, "train.lst:3"), (3, 13, 19, "train.lst:1")]


def test_names_come_from_classes_txt_else_from_the_labels_in_all_lists(root):
    make_list(root, "path:./a depth:sk_depth:1:2 label:5", name="test.lst")
    assert opened(root).labels == ["no gesture", *(f"gesture {k}" for k in range(1, 6))]
    (root / "classes.txt").write_text("1 one (static)\n2 tap\n3 swipe left\n4 four\n5 five\n")
    task = opened(root)
    assert task.labels == ["no gesture", "one (static)", "tap", "swipe left", "four", "five"]
    assert task.outputs == 6


def test_subsets_have_their_lists_and_validation_falls_back_on_the_test_list(root, tmp_path):
    make_list(root, "path:./b depth:sk_depth:1:2 label:1", name="test.lst")
    make_list(tmp_path / "elsewhere", "path:./c depth:sk_depth:1:2 label:2", name="val.lst")
    names = {name: [Path(v.path).name for v in opened(root).records(name)] for name in ("train", "val", "test")}
    assert names == {"train": ["a"], "val": ["b"], "test": ["b"]}
    own = opened(root, val_list=str(tmp_path / "elsewhere" / "val.lst")).records("val")
    assert [video.path for video in own] == [str(root / "c")]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("path:./b depth:sk_depth:1 label:1", "train.lst:2: expected 'path:.*', got 'depth:sk_depth:1'"),
        ("path:./b depth:sk_depth:1:x label:1", "train.lst:2: expected 'path:.*', got 'depth:sk_depth:1:x'"),
        ("path:./b depth:sk_depth:1:9 label:0", "train.lst:2: expected 'path:.*', got 'label:0'"),
        ("path:./b depth:sk_depth:1:9", "train.lst:2: expected 'path:.*', got 'path:./b"),
        ("depth:sk_depth:1:9 label:1", "train.lst:2: expected 'path:.*', got 'depth"),
        ("path:./b label:1", "train.lst:2: expected 'path:.*', got 'path"),
        ("path:./b depth:sk_depth:9:9 label:1", "train.lst:2: expected BEGIN below END, got 'depth:sk_depth:9:9'"),
        ("path:./b color:sk_color:1:9 label:1", r"train.lst:2: expected the sensor 'depth', got \['color'\]"),
        ("path:./b depth:sk_depth:1:9 label:4", "train.lst:2: expected a label from 1 to 3, got 4"),
        ("path:./a depth:sk_depth:6:9 label:2", "train.lst:2: .*don't overlap, got 6:9 beside 2:7 of train.lst:1"),
        ("path:./a depth:sk_depth:2:7 label:1", "train.lst:2: .*don't overlap"),
        ("path:./a depth:other:8:9 label:1", "train.lst:2: expected .*sk_depth.avi as in train.lst:1, got .*other.avi"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, wrong):
    make_list(tmp_path, "path:./a depth:sk_depth:2:7 label:1", line)
    (tmp_path / "classes.txt").write_text("1 a\n2 b\n3 c\n")
    with pytest.raises(ValueError, match=wrong):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["1 a\n3 b\n", "a\n", "1\n", "1 a\n2 a\n", "1 no gesture\n2 b\n", "\n"])
def test_names_that_do_not_fit_are_named(root, text):
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=r"classes.txt:?.*: expected"):
        opened(root)


def test_absent_lists_and_a_single_gesture_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a list train.lst or test.lst, found none"):
        opened(tmp_path)
    make_list(tmp_path, "path:./a depth:d:1:2 label:1")
    with pytest.raises(ValueError, match="at least 2 gestures"):
        opened(tmp_path)
    make_list(tmp_path, "path:./a depth:d:1:2 label:2")
    with pytest.raises(ValueError, match=r"test.lst: list is absent"):
        opened(tmp_path).records("test")


@pytest.mark.parametrize(
    "options", [{"window": "none"}, {"snippet": 0}, {"pad": -1}, {"tolerance": -1}, {"decoder": "viterbi"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Gesture(**options)


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
def test_a_window_is_an_interval_padded_up_to_half_the_way_to_its_neighbour(root, pad, windows):
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


def test_depth_and_colour_of_different_length_are_named(root):
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


def make_batch(target, intervals, lengths, frames, *, fps=30.0):
    videos = [torch.zeros(n, 1) for n in lengths]
    items = zip(videos, target, intervals, frames, strict=True)
    return collate(
        [
            {
                "input": video,
                "target": torch.tensor(labels),
                "intervals": torch.tensor(spans),
                "frames": count,
                "fps": fps,
                "path": str(i),
            }
            for i, (video, labels, spans, count) in enumerate(items)
        ]
    )


def path_probability(log_probs, labels):
    """Probability of a labelling, by all its paths."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [k for k, _ in itertools.groupby(path) if k] == labels:
            total += math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    return total


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


# ---------------------------------------------------------------------------------------------------- metrics


def outputs_of(paths, outputs, steps):
    """Outputs (B, T, K) under which these paths are the most probable ones; padding speaks of label 1."""
    out = torch.zeros(len(paths), steps, outputs)
    out[:, :, 1] = 9.0
    for video, path in enumerate(paths):
        out[video, : len(path)] = 0.0
        out[video, torch.arange(len(path)), torch.tensor(path)] = 6.0
    return out


def test_metrics_of_a_case_by_hand():
    # snippets of 8 frames: an event of step s is seen at frame 8 (s + 1)
    paths = [[0, 1, 1, 0, 0, 2, 2, 0, 3, 0], [0, 0, 2, 2, 0]]
    batch = make_batch([[1, 2], [3]], [[[5, 20], [36, 46]], [[10, 30]]], [10, 5], [80, 40])
    metrics = GestureMetrics(3, GreedyDecoder(), snippet=8, tolerance=4)
    metrics.update(outputs_of(paths, 4, 10), batch)
    values = metrics.compute()
    # 1 is seen at 16, 11 frames after its begin; 2 at 48, 12 after; 3 and the other video's 2 are false alarms
    assert values["detected"] == pytest.approx(2 / 3)
    assert values["delay"] == pytest.approx((11 + 12) / 2)
    assert values["false_alarms"] == pytest.approx(2 / (120 / 30 / 60))
    assert values["edit_distance"] == pytest.approx(2 / 3)  # 3 is inserted, 3 is replaced
    # cut at frame 28: [0 1 1 0] is 1, the rest is 2 rather than 3, and the other video 2
    assert values["confusion"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert torch.equal(values["class_accuracy"], torch.tensor([1.0, 1.0, 0.0]))


def test_a_tolerance_of_frames_decides_what_a_late_event_is():
    batch = make_batch([[1]], [[[0, 10]]], [4], [32])
    found = {}
    for tolerance in (5, 6):
        metrics = GestureMetrics(2, GreedyDecoder(), snippet=8, tolerance=tolerance)
        metrics.update(outputs_of([[0, 1, 0, 0]], 3, 4), batch)  # seen at frame 16
        found[tolerance] = float(metrics.compute()["detected"])
    assert found == {5: 0.0, 6: 1.0}


def brute_edit_distance(first, second):
    if not first or not second:
        return len(first) + len(second)
    same = first[0] == second[0]
    return min(
        brute_edit_distance(first[1:], second) + 1,
        brute_edit_distance(first, second[1:]) + 1,
        brute_edit_distance(first[1:], second[1:]) + (not same),
    )


@st.composite
def annotated(draw):
    """Random outputs and annotation of a few videos."""
    videos = draw(st.integers(1, 4))
    lengths = [draw(st.integers(3, 7)) for _ in range(videos)]
    target, intervals = [], []
    for length in lengths:
        count = draw(st.integers(1, 2))
        cuts = sorted(draw(st.sets(st.integers(0, 4 * length), min_size=2 * count, max_size=2 * count)))
        intervals.append([cuts[2 * n : 2 * n + 2] for n in range(count)])
        target.append([draw(st.integers(1, 3)) for _ in range(count)])
    frames = [4 * length - draw(st.integers(0, 2)) for length in lengths]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    out = torch.randn(videos, max(lengths), 4, generator=generator, dtype=torch.float64) * 3
    return out, make_batch(target, intervals, lengths, frames)


@given(annotated())
def test_metrics_are_those_of_a_slow_count(case):
    out, batch = case
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    edits = gestures = hits = delay = alarms = 0
    for video, length in enumerate(batch["lengths"].tolist()):
        scores = out[video, :length].log_softmax(-1)
        true = [k for k in batch["target"][video].tolist() if k]
        spans = batch["intervals"][video].tolist()[: len(true)]
        middles = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(spans)]
        middle = min(max(round(middles[0] / 4), 1), length - 1) if middles else length
        for part, label in zip((scores[:middle], scores[middle:]), true, strict=False):
            chances = [path_probability(part, [k]) for k in (1, 2, 3)]
            confusion[label - 1, chances.index(max(chances))] += 1
        path = scores.argmax(-1).tolist()
        events = [(k, step) for step, k in enumerate(path) if k and (step == 0 or path[step - 1] != k)]
        edits += brute_edit_distance([k for k, _ in events], true)
        gestures += len(true)
        free = [True] * len(true)
        for k, step in events:
            seen = min(4 * (step + 1), int(batch["frames"][video]))
            fits = [n for n in range(len(true)) if free[n] and true[n] == k and spans[n][0] < seen <= spans[n][1] + 4]
            if fits:
                free[fits[0]] = False
                hits, delay = hits + 1, delay + seen - spans[fits[0]][0]
            else:
                alarms += 1
    metrics = GestureMetrics(3, GreedyDecoder(), snippet=4, tolerance=4)
    metrics.update(out, batch)
    values = {name: value.tolist() for name, value in metrics.compute().items()}
    assert values["confusion"] == confusion.tolist()
    assert values["edit_distance"] == pytest.approx(edits / gestures)
    assert values["detected"] == pytest.approx(hits / gestures)
    assert values["delay"] == pytest.approx(delay / hits if hits else math.nan, nan_ok=True)
    assert values["false_alarms"] == pytest.approx(alarms / (int(batch["frames"].sum()) / 30 / 60))


@given(annotated())
def test_metrics_add_up_over_batches_and_take_logs_of_probabilities_for_outputs(case):
    out, batch = case
    decoder = BeamDecoder(4, certainty=0.8, patience=3)
    whole, parts = (GestureMetrics(3, decoder, snippet=4) for _ in range(2))
    whole.update(out.softmax(-1).log(), batch)
    for video in range(len(out)):
        rows = {key: value[video : video + 1] for key, value in batch.items() if key != "skipped"}
        parts.update(out[video : video + 1], rows)
    parts.update(out[:0], {"path": [], "lengths": torch.zeros(0, dtype=torch.int64)})
    first, second = whole.compute(), parts.compute()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], equal_nan=True)
    whole.reset()
    whole.update(out, batch)
    for name, value in whole.compute().items():
        torch.testing.assert_close(value, first[name], equal_nan=True)


def test_outputs_of_a_network_that_has_diverged_count_as_no_gesture():
    batch = make_batch([[2]], [[[0, 10]]], [4], [32])
    metrics = GestureMetrics(2, GreedyDecoder())
    metrics.update(torch.full((1, 4, 3), math.nan), batch)
    values = metrics.compute()
    assert (values["detected"], values["false_alarms"], values["edit_distance"]) == (0, 0, 1)
    assert math.isnan(values["delay"])


def test_metrics_refuse_other_outputs():
    with pytest.raises(ValueError, match="expected 3 outputs, got 4"):
        GestureMetrics(2, GreedyDecoder()).update(torch.zeros(1, 4, 4), {})
    with pytest.raises(ValueError, match="at least 2, got 1"):
        GestureMetrics(1, GreedyDecoder())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 10), st.integers(1, 9))
def test_parts_have_a_step_each_and_end_with_the_video(widths, more, snippet):
    ends = list(itertools.accumulate(widths))
    intervals = [(end - width, end) for end, width in zip(ends, widths, strict=True)]
    steps = len(widths) + more
    cuts = part_cuts(intervals, steps, snippet)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, steps, len(widths) + 1)
    assert all(before < after for before, after in itertools.pairwise(cuts))


def test_parts_are_cut_halfway_between_neighbours():
    assert part_cuts([(0, 10), (30, 40), (64, 80)], 10, 8) == [0, 2, 6, 10]


def test_an_event_detects_the_first_gesture_that_is_left():
    intervals = [(0, 10), (12, 20)]
    assert detections([(1, 8), (1, 16)], [1, 1], intervals, 8) == [8, 4]
    assert detections([(1, 16), (1, 18)], [1, 1], intervals, 8) == [16, 6]
    assert detections([(1, 8), (1, 9)], [1, 1], intervals, 0) == [8]
    assert detections([(2, 8)], [1, 1], intervals, 8) == []
    assert seen_frames(Event("begin", 1, 0, None, 3, 1.0), 8, 30) == 30


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


def test_a_task_comes_back_from_its_recipe(root):
    task = opened(root, modality="color", decoder="beam", decoder_options={"width": 3}, tolerance=5)
    recipe = Recipe.from_json(json.loads(json.dumps(task.noted(Recipe()).to_json())))
    assert recipe.labels == task.labels
    assert recipe.task.name == "gesture"
    again = Gesture(**recipe.task.options)
    assert (again.modality, again.snippet, again.tolerance) == ("color", 4, 5)
    assert again._decoder().width == 3


@pytest.mark.skipif(not NVGESTURE.is_dir(), reason="no shared data")
def test_the_shared_data_is_read():
    task = Gesture(size=16)
    task.open(NVGESTURE, SPEC)
    assert (len(task.records("train")), len(task.records("test"))) == (312, 65)
    assert task.outputs == 14
    item = task.read(task.records("test")[0], None)
    assert item["input"].shape == (10, 3, 8, 16, 16)
    assert (item["target"].tolist(), item["intervals"].tolist(), item["fps"]) == ([1], [[4, 62]], 30.0)
