"""Clip classification: lists on disk, data set, batches, loss and scores."""

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from prernn.tasks.action import (
    Clip,
    ClipDataset,
    LengthBucketSampler,
    class_folder,
    clip_scores,
    collate,
    masked_cross_entropy,
    ucf101,
)
from prernn.transforms import Sampling, TransformSpec, clip_transform
from prernn.video import VideoError, write_video

SHARED = Path(os.environ.get("PRERNN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPEC = TransformSpec(size=16)


def make_video(path, frames=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    write_video(path.with_suffix(".mp4"), images, 25)
    path.with_suffix(".mp4").rename(path)
    return str(path)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [Clip(make_video(root / f"{i}.mp4", frames=6 + 2 * i, seed=i), i % 2) for i in range(5)]


@pytest.fixture
def bad(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    return Clip(str(tmp_path / "bad.mp4"), 1)


def dataset(records, sampling=None, *, train=False, **options):
    return ClipDataset(records, sampling or Sampling(4), clip_transform(SPEC, train), train=train, **options)


# ------------------------------------------------------------------------------------------------ class folders


def test_class_folder_lists_classes_and_videos_in_order(tmp_path):
    for name in ("walk/b.mp4", "walk/a.AVI", "run/c.mkv", "run/notes.txt", "run/.hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "frames").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "frames" / "0.png")
    (tmp_path / "run" / "other").mkdir()
    (tmp_path / ".cache").mkdir()
    classes, records = class_folder(str(tmp_path))
    assert classes == ["run", "walk"]
    found = [(Path(path).relative_to(tmp_path).as_posix(), label) for path, label in records]
    assert found == [("run/c.mkv", 0), ("run/frames", 0), ("walk/a.AVI", 1), ("walk/b.mp4", 1)]


def test_class_folder_splits_share_their_labels(tmp_path):
    for name in ("train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4", "test/b/4.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert class_folder(tmp_path, "test") == (
        ["a", "b"],
        [Clip(str(tmp_path / "test/a/3.mp4"), 0), Clip(str(tmp_path / "test/b/4.mp4"), 1)],
    )
    with pytest.raises(ValueError, match=r"holds the splits .* expected split"):
        class_folder(tmp_path)
    with pytest.raises(ValueError, match="expected a folder for split 'val'"):
        class_folder(tmp_path, "val")
    (tmp_path / "test/a/3.mp4").unlink()
    (tmp_path / "test/a").rmdir()
    with pytest.raises(ValueError, match="class 'a' has no videos"):
        class_folder(tmp_path, "test")


def test_class_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="expected a folder"):
        class_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected one folder a class, found none"):
        class_folder(tmp_path)
    (tmp_path / "jump").mkdir()
    with pytest.raises(ValueError, match="class 'jump' has no videos"):
        class_folder(tmp_path)


# ------------------------------------------------------------------------------------------------ UCF101


@pytest.fixture
def ucf(tmp_path):
    """UCF101's layout: train lists have labels, test lists have none."""
    lists = {
        "classInd.txt": "1 Run\r\n2 ApplyLipstick\r\n",  # not in alphabetical order
        "trainlist01.txt": "Run/v_Run_g01_c01.avi 1\nApplyLipstick/v_x.avi 2\n\n",
        "testlist01.txt": "ApplyLipstick/v_y.avi\nRun/v_Run_g02_c01.avi\n",
    }
    (tmp_path / "ucfTrainTestlist").mkdir()
    for name, text in lists.items():
        (tmp_path / "ucfTrainTestlist" / name).write_text(text)
    for name in ("Run/v_Run_g01_c01.avi", "Run/v_Run_g02_c01.avi", "ApplyLipstick/v_x.avi", "ApplyLipstick/v_y.avi"):
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / name).touch()
    return tmp_path


def test_ucf101_lists(ucf):
    classes, train = ucf101(ucf, 1, "train")
    assert classes == ["Run", "ApplyLipstick"]
    assert train == [
        Clip(str(ucf / "UCF-101/Run/v_Run_g01_c01.avi"), 0),
        Clip(str(ucf / "UCF-101/ApplyLipstick/v_x.avi"), 1),
    ]
    assert [label for _, label in ucf101(str(ucf), 1, "test")[1]] == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "subset", "message"),
    [
        (
            "testlist01.txt",
            "Run/v_Run_g02_c01.avi\nRun/v_z.avi\n",
            "test",
            "testlist01.txt:2: file UCF-101/Run/v_z.avi is absent",
        ),
        ("testlist01.txt", "\nv_z.avi\n", "test", "testlist01.txt:2: expected '<Class>/<file>', got 'v_z.avi'"),
        ("testlist01.txt", "../Run/v_z.avi\n", "test", "testlist01.txt:1: expected '<Class>/<file>'"),
        ("testlist01.txt", "Fly/v_z.avi\n", "test", "testlist01.txt:1: class Fly is not in classInd.txt"),
        (
            "testlist01.txt",
            "Run/v_Run_g01_c01.avi\n" * 2,
            "test",
            "testlist01.txt:2: Run/v_Run_g01_c01.avi is listed twice",
        ),
        (
            "testlist01.txt",
            "Run/v_Run_g01_c01.avi 2\n",
            "test",
            "testlist01.txt:1: expected label 1 for class Run, got 2",
        ),
        ("testlist01.txt", " \n", "test", "testlist01.txt: expected at least one line, got none"),
        ("trainlist01.txt", "Run/v_Run_g01_c01.avi\n", "train", "trainlist01.txt:1: expected '<Class>/<file> <label>'"),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 1 7\n",
            "train",
            "trainlist01.txt:1: expected '<Class>/<file> <label>'",
        ),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 3\n",
            "train",
            "trainlist01.txt:1: expected a label from 1 to 2, got '3'",
        ),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 0\n",
            "train",
            "trainlist01.txt:1: expected a label from 1 to 2, got '0'",
        ),
        ("trainlist01.txt", "Run/v_Run_g01_c01.avi one\n", "train", "expected a label from 1 to 2, got 'one'"),
        (
            "trainlist01.txt",
            "Run/v_Run_g01_c01.avi 2\n",
            "train",
            "trainlist01.txt:1: expected label 1 for class Run, got 2",
        ),
        ("classInd.txt", "1 Run\n3 Jump\n", "test", "classInd.txt:2: expected '2 <Class>', got '3 Jump'"),
        ("classInd.txt", "1 Run\n2 Run\n", "test", "classInd.txt:2: class Run is listed twice"),
        ("classInd.txt", "Run 1\n", "test", "classInd.txt:1: expected '1 <Class>', got 'Run 1'"),
    ],
)
def test_ucf101_problems_are_named_with_their_line(ucf, name, text, subset, message):
    (ucf / "ucfTrainTestlist" / name).write_text(text)
    with pytest.raises(ValueError) as caught:
        ucf101(ucf, 1, subset)
    assert message in str(caught.value)


def test_ucf101_lists_that_are_not_there(ucf):
    with pytest.raises(ValueError, match=r"testlist03\.txt: list is absent"):
        ucf101(ucf, 3, "test")
    with pytest.raises(ValueError, match=r"classInd\.txt: list is absent"):
        ucf101(ucf / "UCF-101", 1, "test")
    with pytest.raises(ValueError, match='expected "train" or "test", got \'val\''):
        ucf101(ucf, 1, "val")


# ------------------------------------------------------------------------------------------------ data set


def test_items_of_the_data_set(records):
    item = dataset(records)[3]
    assert item["video"].shape == (4, 3, 16, 16)
    assert item["video"].dtype == torch.float32
    assert (item["label"], item["path"]) == (1, records[3].path)
    assert dataset(records, Sampling(None, "all")).lengths() == [6, 8, 10, 12, 14]
    assert dataset(records, Sampling(None, "all", fps=12.5)).lengths() == [3, 4, 5, 6, 7]
    assert dataset(records, Sampling(None, "all", fps=12.5))[2]["video"].shape[0] == 5


def videos(loader):
    return [video for batch in loader for video in batch["video"]]


def test_items_do_not_depend_on_workers_order_or_other_random_numbers(records):
    data = dataset(records, Sampling(3, "random"), train=True, seed=7)
    data.set_epoch(2)
    alone = [data[i]["video"] for i in range(5)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    backwards = [data[i]["video"] for i in reversed(range(5))][::-1]
    assert torch.equal(torch.get_rng_state(), before)  # others' random numbers are left alone
    in_workers = videos(DataLoader(data, 2, num_workers=2, collate_fn=collate))
    for a, b, c in zip(alone, backwards, in_workers, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_seed_epoch_and_index_each_change_the_draw(records):
    same = [records[4]] * 3
    first = dataset(same, Sampling(3, "random"), train=True, seed=1)
    second = dataset(same, Sampling(3, "random"), train=True, seed=2)
    draws = [first[0]["video"], first[1]["video"], second[0]["video"]]
    first.set_epoch(1)
    draws += [first[0]["video"]]
    for i in range(len(draws)):
        for j in range(i):
            assert not torch.equal(draws[i], draws[j])
    still = dataset(same, Sampling(3, "random"))
    assert torch.equal(still[0]["video"], still[1]["video"])  # evaluation draws nothing


def test_workers_that_stay_see_the_next_epoch(records):
    data = dataset(records, Sampling(3, "random"), train=True)
    loader = DataLoader(data, 5, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in range(2):
        data.set_epoch(epoch)
        assert torch.equal(next(iter(loader))["video"], collate([data[i] for i in range(5)])["video"])


def test_a_bad_video_raises_or_is_skipped_once(records, bad, monkeypatch):
    with pytest.raises(VideoError, match="not a video"):
        dataset([bad])[0]
    with pytest.raises(ValueError, match='expected "raise" or "skip"'):
        dataset([bad], on_error="ignore")
    data = dataset([*records[:2], bad], on_error="skip")
    with pytest.warns(RuntimeWarning, match=r"skipped .*bad\.mp4: not a video"):
        item = data[2]
    assert item["path"] == bad.path
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr("prernn.tasks.action.read_clip", None)  # it is not read again either
        assert data[2] == item
    assert list(data.skipped) == [bad.path]
    batch = collate([data[i] for i in range(3)])
    assert batch["paths"] == [records[0].path, records[1].path]
    assert batch["skipped"] == [(bad.path, data.skipped[bad.path])]
    assert pickle.loads(pickle.dumps(data)).skipped == data.skipped


def test_what_workers_skip_reaches_the_main_process(records, bad):
    data = dataset([*records, bad], on_error="skip")
    for batch in DataLoader(data, 2, num_workers=2, collate_fn=collate):
        data.note_skipped(batch)
    assert list(data.skipped) == [bad.path]


def test_lengths_skip_what_cannot_be_read(records, bad):
    with pytest.raises(VideoError):
        dataset([bad]).lengths()
    data = dataset([records[0], bad], on_error="skip")
    with pytest.warns(RuntimeWarning, match="skipped"):
        assert data.lengths() == [4, 0]


# ------------------------------------------------------------------------------------------------ batches


def item(length, label=0, size=4):
    return {"video": torch.ones(length, 3, size, size), "label": label, "path": f"{length}.mp4"}


def test_collate_pads_with_zeros_at_the_end():
    batch = collate([item(2, 5), item(4, 6), item(1, 7)])
    assert batch["video"].shape == (3, 4, 3, 4, 4)
    assert batch["lengths"].tolist() == [2, 4, 1]
    assert batch["lengths"].dtype == batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [5, 6, 7]
    assert batch["paths"] == ["2.mp4", "4.mp4", "1.mp4"]
    assert batch["video"].mean((2, 3, 4)).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_collate_of_skipped_items_only():
    batch = collate([{"path": "a.mp4", "reason": "a.mp4: empty file"}])
    assert batch["video"].shape[0] == len(batch["lengths"]) == len(batch["label"]) == len(batch["paths"]) == 0
    assert batch["video"].ndim == 5
    assert batch["skipped"] == [("a.mp4", "a.mp4: empty file")]


def test_collate_of_different_sizes():
    with pytest.raises(ValueError, match="expected frames of one shape"):
        collate([item(2), item(2, size=5)])


@settings(deadline=None)
@given(st.data())
def test_every_clip_comes_once_over_all_ranks(data):
    world = data.draw(st.integers(1, 5))
    lengths = data.draw(st.lists(st.integers(0, 50), min_size=world, max_size=120))
    size, pool, shuffle = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4)), data.draw(st.booleans())

    def epoch(number):
        samplers = [
            LengthBucketSampler(lengths, size, seed=3, shuffle=shuffle, pool=pool, rank=rank, world_size=world)
            for rank in range(world)
        ]
        for sampler in samplers:
            sampler.set_epoch(number)
        batches = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(part) for part in batches]
        return batches

    ranks = epoch(0)
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for part in ranks for batch in part]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    if size > 1 and len(lengths) >= 2 * world:
        assert max(sizes) <= size
    assert ranks == epoch(0)
    if not shuffle:
        assert ranks == epoch(1)


def test_buckets_cut_padding_and_shuffle():
    lengths = np.random.default_rng(0).integers(10, 200, 400).tolist()
    sampler = LengthBucketSampler(lengths, 8)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in sampler)
    assert sum(lengths) / padded > 0.95  # 0.6 in random batches
    first = list(sampler)
    sampler.set_epoch(1)
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in sampler}
    assert [max(lengths[i] for i in batch) for batch in first] != sorted(max(lengths[i] for i in b) for b in first)


def test_buckets_serve_a_loader(records):
    data = dataset(records, Sampling(None, "all"))
    loader = DataLoader(data, batch_sampler=LengthBucketSampler(data.lengths(), 2), collate_fn=collate)
    assert sorted(path for batch in loader for path in batch["paths"]) == sorted(clip.path for clip in records)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 1, "rank": 2, "world_size": 2}, {"batch_size": 1, "world_size": 4}]
)
def test_buckets_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"expected .* got"):
        LengthBucketSampler([1, 2, 3], **options)


# ------------------------------------------------------------------------------------------------ loss and scores


@st.composite
def batches(draw):
    count, steps, classes = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = 3 * torch.randn(count, steps, classes, generator=generator)
    lengths = torch.tensor(draw(st.lists(st.integers(1, steps), min_size=count, max_size=count)))
    label = torch.randint(0, classes, (count,), generator=generator)
    return logits, label, lengths


@settings(deadline=None)
@given(batches())
def test_loss_and_scores_clip_by_clip(batch):
    logits, label, lengths = batch
    clips = [(x[:n], y) for x, y, n in zip(logits, label, lengths, strict=True)]
    every = torch.stack([F.cross_entropy(x, y.expand(len(x))) for x, y in clips]).mean()
    last = torch.stack([F.cross_entropy(x[-1], y) for x, y in clips]).mean()
    torch.testing.assert_close(masked_cross_entropy(logits, label, lengths), every)
    torch.testing.assert_close(masked_cross_entropy(logits, label, lengths, steps="last"), last)
    torch.testing.assert_close(clip_scores(logits, lengths), torch.stack([x.softmax(-1).mean(0) for x, _ in clips]))
    torch.testing.assert_close(clip_scores(logits, lengths, "last"), torch.stack([x[-1].softmax(-1) for x, _ in clips]))


@settings(deadline=None)
@given(
    batches(),
    st.sampled_from([0.0, 1e4, float("inf"), float("nan")]),
    st.integers(0, 3),
    st.sampled_from(["all", "last"]),
)
def test_padding_changes_nothing(batch, filler, more, steps):
    logits, label, lengths = batch
    padded = F.pad(logits, (0, 0, 0, more))
    padding = torch.arange(padded.shape[1]) >= lengths[:, None]
    padded = padded.masked_fill(padding[..., None], filler).requires_grad_()
    logits.requires_grad_()
    loss = masked_cross_entropy(padded, label, lengths, steps=steps)
    expected = masked_cross_entropy(logits, label, lengths, steps=steps)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert torch.all(padded.grad[padding] == 0)
    torch.testing.assert_close(padded.grad[:, : logits.shape[1]], logits.grad)
    mode = "mean" if steps == "all" else "last"
    torch.testing.assert_close(clip_scores(padded, lengths, mode), clip_scores(logits, lengths, mode))


def test_an_empty_batch_gives_no_loss():
    none = torch.zeros(0, dtype=torch.int64)
    for steps in (0, 3):
        logits = torch.zeros(0, steps, 4, requires_grad=True)
        loss = masked_cross_entropy(logits, none, none)
        loss.backward()
        assert loss == 0
        assert clip_scores(logits, none).shape == clip_scores(logits, none, "last").shape == (0, 4)


@pytest.mark.parametrize("lengths", [[0, 2], [1, 4]])
def test_lengths_outside_the_batch(lengths):
    with pytest.raises(ValueError, match=f"lengths: expected 1 to 3, got \\[{lengths[0]}, {lengths[1]}\\]"):
        masked_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), torch.tensor(lengths))


def test_arguments_that_do_not_fit():
    logits, ones = torch.zeros(2, 3, 4), torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"logits \(B, T, K\)"):
        clip_scores(logits[0], ones)
    with pytest.raises(ValueError, match="label: expected shape"):
        masked_cross_entropy(logits, ones[:1], ones)
    with pytest.raises(ValueError, match='expected "all" or "last"'):
        masked_cross_entropy(logits, ones, ones, steps="first")
    with pytest.raises(ValueError, match='expected "mean" or "last"'):
        clip_scores(logits, ones, "max")


# ------------------------------------------------------------------------------------------------ shared clips


@pytest.mark.skipif(not (SHARED / "action-ucf101-layout").is_dir(), reason="the shared action clips are not here")
def test_shared_action_clips():
    root = SHARED / "action-ucf101-layout"
    for split, counts in ((1, (150, 48)), (2, (142, 56))):
        classes, train = ucf101(root, split, "train")
        assert classes == ["Jump", "Run", "Sit", "Stand", "Turn", "Walk"]
        test = ucf101(root, split, "test")[1]
        assert (len(train), len(test)) == counts
        assert not {clip.path for clip in train} & {clip.path for clip in test}
    assert {clip.path for clip in class_folder(root / "UCF-101")[1]} == {clip.path for clip in train + test}
    data = dataset(test[:6], Sampling(None, "all"))
    assert [len(data[i]["video"]) for i in range(6)] == data.lengths()
