"""The data set of a task, its batches, and batches of like length."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.media.transforms import TransformSpec
from prernn.media.video import VideoError
from prernn.tasks.action.lists import Clip
from prernn.tasks.action.task import Action
from prernn.training.batches import LengthBucketSampler, collate
from prernn.training.dataset import VideoDataset
from prernn.training.evaluation import evaluate
from prernn.training.loader import video_loader


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


def dataset(records, sampling=None, **options):
    task = Action(sampling=sampling or Sampling(4), size=16)
    task._list = lambda subset: (["a", "b"], records)
    task.open(".", {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    return VideoDataset(task, records, **options)


def test_items_of_the_data_set(records):
    item = dataset(records)[3]
    assert item["input"].shape == (4, 3, 16, 16)
    assert item["input"].dtype == torch.float32
    assert (item["label"], item["path"]) == (1, records[3].path)
    assert dataset(records, Sampling(None, "all")).lengths() == [6, 8, 10, 12, 14]
    assert dataset(records, Sampling(None, "all", fps=12.5)).lengths() == [3, 4, 5, 6, 7]
    assert dataset(records, Sampling(None, "all", fps=12.5))[2]["input"].shape[0] == 5


def videos(loader):
    return [video for batch in loader for video in batch["input"]]


def test_items_do_not_depend_on_workers_order_or_other_random_numbers(records):
    data = dataset(records, Sampling(3, "random"), train=True, seed=7)
    data.set_epoch(2)
    alone = [data[i]["input"] for i in range(5)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    backwards = [data[i]["input"] for i in reversed(range(5))][::-1]
    assert torch.equal(torch.get_rng_state(), before)  # others' random numbers are left alone
    in_workers = videos(DataLoader(data, 2, num_workers=2, collate_fn=collate))
    for a, b, c in zip(alone, backwards, in_workers, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_seed_epoch_and_index_each_change_the_draw(records):
    same = [records[4]] * 3
    first = dataset(same, Sampling(3, "random"), train=True, seed=1)
    second = dataset(same, Sampling(3, "random"), train=True, seed=2)
    draws = [first[0]["input"], first[1]["input"], second[0]["input"]]
    first.set_epoch(1)
    draws += [first[0]["input"]]
    for i in range(len(draws)):
        for j in range(i):
            assert not torch.equal(draws[i], draws[j])
    still = dataset(same, Sampling(3, "random"))
    assert torch.equal(still[0]["input"], still[1]["input"])  # evaluation draws nothing


def test_workers_that_stay_see_the_next_epoch(records):
    data = dataset(records, Sampling(3, "random"), train=True)
    loader = DataLoader(data, 5, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in range(2):
        data.set_epoch(epoch)
        assert torch.equal(next(iter(loader))["input"], collate([data[i] for i in range(5)])["input"])


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
        patch.setattr(data.task, "read", None)  # it is not read again either
        assert data[2] == item
    assert list(data.skipped) == [bad.path]
    batch = collate([data[i] for i in range(3)])
    assert batch["path"] == [records[0].path, records[1].path]
    assert batch["skipped"] == [(bad.path, data.skipped[bad.path])]
    del data.task._list  # a function of this test
    assert pickle.loads(pickle.dumps(data)).skipped == data.skipped


def test_what_workers_skip_reaches_the_main_process(records, bad):
    data = dataset([*records, bad], on_error="skip")
    for batch in DataLoader(data, 2, num_workers=2, collate_fn=collate):
        data.note_skipped(batch)
    assert list(data.skipped) == [bad.path]


def test_a_list_without_a_readable_video_is_an_error_with_the_first_reasons(records, bad, tmp_path):
    others = [Clip(str(tmp_path / f"{i}.mp4"), 0) for i in range(3)]
    data = dataset([bad, *others], on_error="skip")
    batches = list(DataLoader(data, 2, num_workers=2, collate_fn=collate))
    with pytest.raises(ValueError, match=r"^none of 4 videos could be read: .*bad\.mp4: not a video.*; .*and 1 more$"):
        evaluate(lambda batch: batch["input"], None, batches)
    with pytest.raises(ValueError, match=r"none of 2 videos could be read: .*1\.mp4: no such file"):
        evaluate(lambda batch: batch["input"], None, batches[1:])


def test_lengths_skip_what_cannot_be_read(records, bad):
    with pytest.raises(VideoError):
        dataset([bad], Sampling(None, "all")).lengths()
    data = dataset([records[0], bad], Sampling(4, "consecutive"), on_error="skip")
    with pytest.warns(RuntimeWarning, match="skipped"):
        assert data.lengths() == [4, 0]


def item(length, label=0, size=4):
    return {"input": torch.ones(length, 3, size, size), "label": label, "path": f"{length}.mp4"}


def test_collate_pads_with_zeros_at_the_end():
    batch = collate([item(2, 5), item(4, 6), item(1, 7)])
    assert batch["input"].shape == (3, 4, 3, 4, 4)
    assert batch["lengths"].tolist() == [2, 4, 1]
    assert batch["lengths"].dtype == batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [5, 6, 7]
    assert batch["path"] == ["2.mp4", "4.mp4", "1.mp4"]
    assert batch["input"].mean((2, 3, 4)).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_collate_of_skipped_items_only():
    batch = collate([{"path": "a.mp4", "reason": "a.mp4: empty file"}])
    assert len(batch["lengths"]) == len(batch["path"]) == 0
    assert batch["skipped"] == [("a.mp4", "a.mp4: empty file")]


def test_collate_joins_by_kind():
    items = [{"input": torch.zeros(n, 1, 2, 2), "box": torch.ones(n, 4), "n": n, "who": "x" * n} for n in (1, 3)]
    batch = collate([{**item, "path": "p"} for item in items])
    assert batch["box"].shape == (2, 3, 4)
    assert batch["box"].sum((1, 2)).tolist() == [4, 12]
    assert batch["n"].tolist() == [1, 3]
    assert batch["who"] == ["x", "xxx"]


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
    assert sorted(path for batch in loader for path in batch["path"]) == sorted(clip.path for clip in records)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 1, "rank": 2, "world_size": 2}, {"batch_size": 1, "world_size": 4}]
)
def test_buckets_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"expected .* got"):
        LengthBucketSampler([1, 2, 3], **options)


WORKER = """
import pickle, sys
loader = pickle.load(open(sys.argv[1], "rb"))
items = [loader[0][0], loader[1]([loader[0][0]]), loader[2](0)]
print(sorted({name.partition(".")[0] for name in sys.modules} & {"lightning", "torchmetrics", "timm", "matplotlib"}))
"""


def test_a_worker_that_is_spawned_reads_without_what_only_training_needs(records, tmp_path):
    """On macOS and Windows a worker imports what its data set names, and starts by so much later."""
    task = Action(sampling=Sampling(2), size=16)
    task.spec, task.labels = TransformSpec(size=16), ["class"]
    loader = video_loader(VideoDataset(task, records[:1]), LengthBucketSampler([1], 1), 2)
    parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
    (tmp_path / "worker").write_bytes(pickle.dumps(parts))
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "worker")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


class Processes(torch.utils.data.Dataset):
    """Items that say who read them."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"path": str(index), "input": torch.zeros(1, 1), "process": os.getpid()}


def test_workers_stay_from_one_epoch_to_the_next():
    loader = video_loader(Processes(), LengthBucketSampler([1] * 8, 2), 2)
    first, second = ({number for batch in loader for number in batch["process"].tolist()} for _ in range(2))
    assert first == second
    assert len(first) == 2
    assert os.getpid() not in first
