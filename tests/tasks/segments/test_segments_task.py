"""Untrimmed videos as items: pieces, labels at frames, loss; and from lists to events on the command line."""

import csv
import json
import math

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st

import prernn
from prernn.commands.main import main
from prernn.media.video import VideoError
from prernn.streaming.events import EventRule
from prernn.tasks import restore
from prernn.tasks.segments.loss import frame_cross_entropy
from prernn.tasks.segments.places import draw_place, free_places, piece_places
from prernn.training.batches import collate
from untrimmed_videos import PLACES, make_videos, opened, write_list


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("untrimmed"))


def test_evaluation_reads_every_step_once_after_its_warm_up(root):
    task = opened(root)
    assert task.labels == ["background", "bright", "dark"]
    records = task.records("test")
    assert [(record.path[-5:], record.view) for record in records] == [
        (f"{n}.mp4", v) for n in (0, 1) for v in range(3)
    ]
    items = [task.read(record, None) for record in records[:3]]
    assert [(item["start"], item["warm_up"], len(item["input"])) for item in items] == [
        (0, 0, 16),
        (16, 8, 24),
        (32, 8, 16),
    ]
    label = torch.cat([item["label"][item["warm_up"] :] for item in items])
    truth = torch.zeros(40, dtype=torch.int64)
    for begin, end, name in PLACES["test"][0]:
        truth[begin:end] = task.labels.index(name)
    assert torch.equal(label, truth)
    level = torch.cat([item["input"][item["warm_up"] :].mean((1, 2, 3)) for item in items])
    assert torch.equal(level > 0.7, truth == 1)
    assert torch.equal(level < 0.3, truth == 2)
    assert [task.length(record) for record in records[:2]] == [16, 24]


def test_a_slower_rate_takes_the_frames_nearest_to_it(root):
    task = opened(root, fps=5)
    item = task.read(task.records("test")[0], None)
    assert (item["rate"], len(item["input"])) == (5, 16)
    assert item["label"].nonzero().flatten().tolist() == [3, 4, 5, 6, 12, 13, 14, 15]


def test_training_pieces_differ_by_epoch_and_agree_with_their_labels(root):
    task = opened(root)
    records = task.records("train")
    assert len(records) == 9
    items = [task.read(records[0], torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert len({item["start"] for item in items}) > 1
    for item in items:
        level = item["input"].mean((1, 2, 3))
        assert torch.equal(level > 0.7, item["label"] == 1)
        assert len(item["input"]) == 16
    assert {task.recording(record)[1] for record in records[:3]} == {records[0].path}
    assert [piece.view for piece in task.evaluated(records[1:2])] == [0, 1, 2]
    assert task.examples(records) == {"bright": 3, "dark": 2}


@given(
    steps=st.integers(1, 60),
    piece=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=6, unique=True).map(sorted),
    share=st.sampled_from((0.0, 1.0)),
    seed=st.integers(0, 99),
)
def test_a_place_holds_a_segment_or_none_as_asked(steps, piece, cuts, share, seed):
    segments = [(a, min(b, steps), 1) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < steps]
    place = draw_place(steps, piece, segments, share, torch.Generator().manual_seed(seed))
    assert 0 <= place <= max(0, steps - piece)
    inside = {step for a, b, _ in segments for step in range(a, b)}
    meets = bool(inside & set(range(place, place + piece)))
    last = max(0, steps - piece)
    clear = [p for p in range(last + 1) if not inside & set(range(p, p + piece))]
    assert [p for a, b in free_places(last, piece, segments) for p in range(a, b)] == clear
    assert meets == (bool(segments) if share or not clear else False)
    pieces = piece_places(steps, piece)
    assert [step for a, b in pieces for step in range(a, b)] == list(range(steps))


@pytest.mark.parametrize("background", [1.0, 0.25, "balanced"])
def test_the_loss_weighs_background_and_leaves_out_what_does_not_count(background):
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 3, generator=chance, dtype=torch.float64)
    label = torch.tensor([[0, 0, 1, 1, 0, 2], [0, 0, 0, 1, 0, 0]])
    counted = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    weight = {"balanced": 4 / 2 / 5}.get(background, background)  # 4 frames of 2 classes, 5 of background
    wanted = []
    for row in range(2):
        each = [
            F.cross_entropy(logits[row, t], label[row, t]) * (weight if label[row, t] == 0 else 1)
            for t in range(6)
            if counted[row, t]
        ]
        wanted.append(sum(each) / len(each))
    spoilt = logits.masked_fill(~counted[..., None], math.nan)
    torch.testing.assert_close(
        frame_cross_entropy(spoilt, label, counted, background=background), sum(wanted) / 2, rtol=1e-6, atol=0
    )
    with pytest.raises(ValueError, match=r"label and counted \(B, T\)"):
        frame_cross_entropy(logits, label[:, :3], counted)


def test_metrics_put_pieces_together_in_any_order(root):
    task = opened(root, events=EventRule(least=0.0))
    items = [{**task.read(record, None), "path": record.path} for record in task.records("test")]
    whole, shuffled = task.metrics(), task.metrics()
    for batch in (collate(items[:4]), collate(items[4:])):
        whole.update(9 * F.one_hot(batch["label"], 3).float(), batch)
    for i in (5, 1, 3, 0, 2, 4):
        batch = collate([items[i]])
        shuffled.update(9 * F.one_hot(batch["label"], 3).float(), batch)
    one, other = whole.compute(), shuffled.compute()
    assert all(torch.equal(one[name], other[name]) for name in one)
    perfect = {"frame_map", "frame_cmap", "frame_accuracy", "event_f1_10", "event_f1_50", "mean_iou", "answered"}
    assert {name for name in one if one[name].ndim == 0 and float(one[name]) == 1} >= perfect
    assert float(one["delay"]) == 0
    assert one["confusion"].sum() == 80


@pytest.mark.parametrize(
    ("row", "said"),
    [("test/0.mp4,0,1,jump", "got 'jump'"), ("test/0.mp4,0,1,background", "the name of what lies between")],
)
def test_labels_that_training_does_not_have(root, tmp_path, row, said):
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(root / part)
    write_list(tmp_path / "train.csv", (root / "train.csv").read_text().splitlines()[1:])
    write_list(tmp_path / "test.csv", [row])
    with pytest.raises(ValueError, match=rf"test\.csv:2: .*{said}"):
        opened(tmp_path).records("test")


def test_a_segment_beyond_the_end_of_its_video_is_named_when_it_is_read(root, tmp_path):
    (tmp_path / "train").symlink_to(root / "train")
    write_list(tmp_path / "train.csv", ["train/0.mp4,0,9,bright", "train/1.mp4,0,1,dark"])
    task = opened(tmp_path)
    bad = task.records("train")[0]
    for look in (task.probe, task.length, lambda record: task.read(record, None)):
        with pytest.raises(VideoError, match=r"train\.csv:2: expected a segment within the 4\.000 s of .*got 0 to 9"):
            look(bad)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"piece": 0}, "piece"), ({"warm_up": -1}, "warm_up"), ({"share": 2}, "share"), ({"fps": 0}, "fps")],
)
def test_options_that_make_no_sense(root, options, said):
    with pytest.raises(ValueError, match=said):
        opened(root, **options)


# ------------------------------------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    task = {"piece": 16, "size": 32, "scale": [0.9, 1.0], "background_weight": "balanced"}
    task["events"] = {"least": 0.15}
    values = {
        "seed_everything": 0,
        "model": {
            "recipe": {"backbone": "timm/test_resnet", "cell": "gru", "input": "single", "hidden": "diagonal"},
            "learning": {"lr": 0.1, "pretrained_lr": 0.03, "frozen_statistics": False},
        },
        "data": {
            "root": str(root),
            "task": {"class_path": "prernn.tasks.Segments", "init_args": task},
            "batch_size": 3,
            "num_workers": 0,
            "holdout": 0,
        },
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 15,
            "check_val_every_n_epoch": 15,
            "gradient_clip_val": 1.0,
            "default_root_dir": str(folder / "run"),
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    for command in ("fit", "test", "predict"):
        assert main([command, "--config", str(folder / "config.yaml")]) == 0
    return folder / "run"


def rows_of(path):
    with open(path) as lines:
        return list(csv.DictReader(lines))


def test_untrimmed_videos_are_learned_tested_and_predicted(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["frame_map"] > 0.7
    assert metrics["event_f1_10"] > 0.5
    assert list(metrics["average_precision"]) == ["bright", "dark"]
    rows = rows_of(run / "predictions.csv")
    assert set(rows[0]) == {"path", "label", "start_s", "end_s", "score"}
    assert {row["path"][-5:] for row in rows} == {"0.mp4", "1.mp4"}
    kept = restore(prernn.load(run).recipe)
    assert (kept.labels, kept.events) == (["background", "bright", "dark"], EventRule(least=0.15))


def test_a_stream_gives_the_events_that_prediction_gives(root, run, tmp_path, capsys):
    clip = str(root / "test" / "0.mp4")
    capsys.readouterr()
    arguments = ["stream", clip, "--checkpoint", str(run), "--events", str(tmp_path / "events.csv")]
    assert main([*arguments, "--video", str(tmp_path / "out.mp4")]) == 0
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == 41
    assert "events.csv" in out.err
    streamed = [(row["label"], row["start_s"], row["end_s"], row["score"]) for row in rows_of(tmp_path / "events.csv")]
    # of three pieces, each of which goes on from the one before
    predicted = [row for row in rows_of(run / "predictions.csv") if row["path"].endswith("0.mp4")]
    assert streamed
    for row, event in zip(predicted, streamed, strict=True):
        assert (row["label"], row["start_s"], row["end_s"]) == event[:3]
        assert float(row["score"]) == pytest.approx(float(event[3]), abs=2e-4)


def test_rows_that_are_bad_end_the_command_with_one_line(root, run, tmp_path, capsys):
    (tmp_path / "train").symlink_to(root / "train")
    write_list(tmp_path / "train.csv", ["train/0.mp4,0,2,bright", "train/0.mp4,1,3,dark"])
    config = str(run.parent / "config.yaml")
    assert main(["fit", "--config", config, "--data.root", str(tmp_path)]) == 2
    assert "train.csv:3: expected segments that don't overlap" in capsys.readouterr().err.splitlines()[-1]
