"""Action recognition: the task, its loss, scores and metrics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.conversion.recipe import Recipe
from prernn.media.encoding import write_video
from prernn.media.sampling import Sampling
from prernn.tasks import restore
from prernn.tasks.action.task import Action
from prernn.tasks.classification import clip_scores, masked_cross_entropy
from prernn.tasks.clips.clip_metrics import ClipMetrics

# ------------------------------------------------------------------------------------------------ task


SPEC = {"size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes; train and test folders, a video of 9 frames in each class."""
    root = tmp_path_factory.mktemp("folders")
    for part in ("train", "test"):
        for seed, name in enumerate(("down", "up")):
            (root / part / name).mkdir(parents=True)
            images = np.random.default_rng(seed).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)
            write_video(root / part / name / "a.mp4", images, 25)
    return root


def opened(root, **options):
    task = Action(**options)
    task.open(root, SPEC)
    return task


def test_the_task_reads_what_its_options_say(folders):
    task = opened(folders, sampling=Sampling(4), size=8)
    assert (task.labels, task.outputs) == (["down", "up"], 2)
    assert not task.has_validation
    _, up = task.records("test")
    item = task.read(up, None)
    assert item["input"].shape == (4, 3, 8, 8)
    assert item["label"] == 1
    assert task.transform["size"] == 8
    assert task.transform["std"] == (0.25,) * 3
    chance = torch.Generator().manual_seed(0)
    assert not torch.equal(task.read(up, chance)["input"], item["input"])


def test_views_are_clips_at_other_places(folders):
    task = opened(folders, sampling=Sampling(2, "random"), views=3)
    records = task.records("test")
    assert len(records) == 6
    videos = [task.read(record, None)["input"] for record in records[:3]]
    assert all(
        torch.equal(a, b) for a, b in zip(videos, [task.read(r, None)["input"] for r in records[:3]], strict=True)
    )
    assert not torch.equal(videos[0], videos[1])
    assert len(task.records("train")) == 2
    with pytest.raises(ValueError, match="expected views of 1"):
        Action(views=2, sampling=Sampling(4, "uniform"))


def test_a_checkpoints_recipe_restores_the_task(folders):
    task = opened(folders, stack=5)
    again = restore(task.noted(Recipe()))
    assert isinstance(again, Action)
    assert again.labels == task.labels
    assert again.transform == task.transform
    assert (again.stack, again.flow) == (5, task.flow)
    with pytest.raises(ValueError, match="expected a task among"):
        restore(Recipe(labels=["a"]))


def test_classes_of_a_subset_that_differ(folders, tmp_path):
    for part, names in (("train", "ab"), ("val", "ac")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "x.mp4").touch()
    with pytest.raises(ValueError, match="class 'c' has no videos"):
        opened(tmp_path)


def test_flow_wants_its_cache(folders):
    with pytest.raises(ValueError, match="expected flow_cache"):
        opened(folders, stream="flow")
    with pytest.raises(ValueError, match="expected a stack of at least 1"):
        Action(stack=0)


def test_report(folders, tmp_path):
    task = opened(folders)
    results = {"confusion": [[3, 1], [0, 2]], "class_accuracy": [0.75, 1.0], "clip_accuracy": 5 / 6}
    report = task.report(results, tmp_path)
    assert report["class_accuracy"] == {"down": 0.75, "up": 1.0}
    assert (report["labels"], report["confusion"]) == (["down", "up"], [[3, 1], [0, 2]])
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[1:] == ["down,4,3,0.7500,up", "up,2,2,1.0000,"]


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


# ------------------------------------------------------------------------------------------------ metrics


def random_batch(seed, count=6, steps=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, steps, classes, generator=generator)
    label = torch.randint(0, classes, (count,), generator=generator)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    return logits, {"label": label, "lengths": lengths, "path": [f"{seed}-{i}.mp4" for i in range(count)]}


def part_of(batch, rows):
    logits, rest = batch
    return logits[rows], {name: value[rows] for name, value in rest.items()}


def measure(*batches):
    metrics = ClipMetrics(3)
    for batch in batches:
        metrics.update(*batch)
    return metrics.compute()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999))
def test_metrics_counted_by_hand(seed):
    logits, rest = random_batch(seed)
    label, lengths = rest["label"], rest["lengths"]
    confusion, hits, total = torch.zeros(3, 3, dtype=torch.int64), 0, 0
    for x, y, n in zip(logits, label, lengths, strict=True):
        confusion[y, x[:n].softmax(-1).mean(0).argmax()] += 1
        hits += int((x[:n].argmax(-1) == y).sum())
        total += int(n)
    found = measure((logits, rest))
    assert torch.equal(found["confusion"], confusion)
    assert found["clip_accuracy"] == pytest.approx(confusion.diagonal().sum() / 6)
    assert found["frame_accuracy"] == pytest.approx(hits / total)
    for k in range(3):
        of_class = confusion[k].sum()
        if of_class:
            assert found["class_accuracy"][k] == pytest.approx(confusion[k, k] / of_class)
        else:
            assert found["class_accuracy"][k].isnan()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(0, 3), st.sampled_from([0.0, 99.0, float("nan")]))
def test_padding_changes_no_metric(seed, more, filler):
    logits, rest = random_batch(seed)
    padded = F.pad(logits, (0, 0, 0, more))
    padding = torch.arange(padded.shape[1]) >= rest["lengths"][:, None]
    padded = padded.masked_fill(padding[..., None], filler)
    assert_same(measure((padded, rest)), measure((logits, rest)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 5))
def test_batches_add_up(seed, at):
    whole = random_batch(seed)
    parts = [part_of(whole, slice(at)), part_of(whole, slice(at, None))]
    empty = part_of(whole, slice(0))
    assert_same(measure(parts[0], empty, parts[1]), measure(whole))


def test_reset_forgets():
    metrics = ClipMetrics(3)
    metrics.update(*random_batch(0))
    metrics.compute()
    metrics.reset()
    metrics.update(*random_batch(1))
    assert_same(metrics.compute(), measure(random_batch(1)))


def test_numbers_of_classes_that_do_not_fit():
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        ClipMetrics(1)
    with pytest.raises(ValueError, match="expected 4 classes, got 3"):
        ClipMetrics(4).update(*random_batch(0))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999))
def test_a_video_counts_by_the_mean_of_its_clips(seed):
    logits, rest = random_batch(seed, count=9)
    video = np.random.default_rng(seed).integers(0, 4, 9)
    label = torch.tensor([int(v) % 3 for v in video])
    batch = {**rest, "label": label, "path": [f"v{v}.mp4" for v in video]}
    hits = []
    for v in set(video.tolist()):
        rows = np.flatnonzero(video == v)
        scores = torch.stack([logits[r, : rest["lengths"][r]].softmax(-1).mean(0) for r in rows]).mean(0)
        hits.append(int(scores.argmax()) == v % 3)
    assert measure((logits, batch))["video_accuracy"] == pytest.approx(np.mean(hits))
    whole = (logits, batch)
    assert_same(measure(part_of(whole, slice(4)), part_of(whole, slice(4, None))), measure(whole))
