"""States that go on in training: rows of clips, their weights, what is carried, and the whole way through ``fit``."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close
from prernn.commands.main import main
from prernn.tasks.action.task import Action
from prernn.tasks.classification import masked_cross_entropy, weighted_cross_entropy
from prernn.tasks.face.task import Face
from prernn.tasks.gesture.task import Gesture
from prernn.tasks.segments.task import Segments
from prernn.tasks.task import Task
from prernn.training.continuity import SINGLE_CLIPS, Continuity, Rows, RowSampler, carried, row_of
from prernn.training.learning import Learning
from prernn.training.module import VideoModule
from small_cnns import ResidualNet, SnippetNet, film, prepare, shake
from small_runs import config, render_parts, write


def clip(steps, label, path="a"):
    return {"input": torch.arange(float(steps)).view(-1, 1) + 100 * label, "label": label, "view": 0, "path": path}


def unread(path):
    return {"path": path, "reason": "broken"}


@given(st.integers(1, 40), st.floats(0, 0.99))
def test_weights_of_a_clip(steps, onset):
    for continuity in (Continuity(onset=onset), Continuity(onset="linear")):
        weights = continuity.weights(steps)
        assert weights.shape == (steps,)
        assert weights.mean().item() == pytest.approx(1)
        assert bool((weights.diff() >= 0).all())
        assert weights[-1] > 0
    kept = Continuity(onset=onset).weights(steps) > 0
    assert kept.sum() == max(1, steps - int(onset * steps + 1e-6)) or onset * steps % 1 < 1e-4
    assert Continuity(onset="linear").weights(4).tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])


def test_clips_that_follow_each_other_have_a_label_at_each_frame():
    row = row_of(Action(), [clip(2, 1), clip(4, 0, "b")], Continuity(clips=2, onset=0.5))
    assert row["label"].tolist() == [1, 1, 0, 0, 0, 0]
    assert row["input"].flatten().tolist() == [100, 101, 0, 1, 2, 3]
    assert row["weight"].tolist() == [0, 2, 0, 0, 2, 2]
    assert row["path"] == "a + b"
    warm = row_of(Action(), [clip(2, 1), clip(4, 0)], Continuity(clips=2, warm_up=True))
    assert warm["weight"].tolist() == [0, 0, 1, 1, 1, 1]


@given(st.floats(0.05, 1), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 5))
def test_clips_are_cut_at_random_points(cut, lengths, epoch):
    continuity = Continuity(clips=len(lengths), onset=0.5, cut=cut)
    items = [clip(steps, number, str(number)) for number, steps in enumerate(lengths)]
    rows = Rows(Action(), continuity, torch.tensor(epoch))
    batch, again = rows(items), rows(items)
    for key in ("input", "label", "weight", "lengths"):
        assert torch.equal(batch[key], again[key])  # whichever process makes the row
    begin = 0
    for number, item in enumerate(items):
        steps = int((batch["label"] == number).sum())
        assert 1 <= max(1, (1 - cut) * len(item["input"])) <= steps + 1e-9
        assert torch.equal(batch["input"][0, begin : begin + steps], item["input"][:steps])
        assert torch.equal(batch["weight"][0, begin : begin + steps], continuity.weights(len(item["input"]))[:steps])
        begin += steps
    assert batch["lengths"].tolist() == [begin]


def test_cuts_lie_elsewhere_in_each_epoch():
    epoch = torch.tensor(0)
    rows = Rows(Action(), Continuity(clips=2, onset=0.0, cut=0.5), epoch)
    lengths = set()
    for number in range(6):
        epoch.fill_(number)
        lengths.add(tuple(rows([clip(40, 0), clip(40, 1)])["weight"].sum(1).tolist()))
    assert len(lengths) > 3


def test_gestures_of_videos_that_follow_each_other():
    task = Gesture(snippet=4)
    items = [
        {
            "input": torch.zeros(steps, 3, 4, 2, 2),
            "target": torch.tensor([n + 1]),
            "intervals": torch.tensor([[2, 7]]),
            "frames": frames,
            "fps": 25.0,
        }
        for n, (steps, frames) in enumerate(((3, 11), (2, 8)))
    ]
    row = task.join(items)
    assert row["target"].tolist() == [1, 2]
    assert row["intervals"].tolist() == [[2, 7], [14, 19]]
    assert (row["frames"], len(row["input"])) == (20, 5)


def test_a_batch_keeps_its_rows_whatever_can_be_read():
    rows = Rows(Action(), Continuity(clips=2))
    batch = rows([clip(2, 1), unread("x"), unread("y"), unread("z"), clip(3, 0), clip(1, 1)])
    assert batch["lengths"].tolist() == [2, 2, 4]
    assert batch["weight"].sum(1).tolist() == [2, 0, 4]
    assert [path for path, _ in batch["skipped"]] == ["x", "y", "z"]
    assert batch["label"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert rows([unread("x"), unread("y")])["path"] == []


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_every_clip_comes_in_every_epoch_and_all_processes_have_as_many_rows(clips, rows, length, ranks, epoch):
    samplers = [RowSampler(clips, rows, length, seed=3, rank=rank, world_size=ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert {len(own) for own in batches} == {len(samplers[0])}
    assert all(len(batch) == rows * length for own in batches for batch in own)
    seen = [number for own in batches for batch in own for number in batch]
    assert set(seen) == set(range(clips))
    first = seen.count(seen[0])
    assert all(abs(seen.count(number) - first) <= 1 for number in range(clips))
    again = RowSampler(clips, rows, length, seed=3, world_size=ranks)
    again.set_epoch(epoch)
    assert list(again) == batches[0]


def state_of(rows=400):
    vector = torch.randn(rows, 8, requires_grad=True) * 2
    return ((vector, torch.randn(rows, 8, 2, 2)), (torch.ones(rows, 1),))


def test_what_is_carried():
    state = state_of()
    assert carried(state, Continuity()) is None
    assert carried(None, Continuity(carry=True)) is None
    assert carried((), Continuity(carry=True)) is None
    torch.manual_seed(0)
    kept = carried(state, Continuity(carry=True, reset=0.25))
    assert not kept[0][0].requires_grad
    going = kept[1][0][:, 0] == 1  # flags of an RCN's streams among them
    assert 0.65 < float(going.float().mean()) < 0.85
    for value, before in zip(kept[0], state[0], strict=True):
        close(value[going], before[going].detach())
        assert not value[~going].any()
    close(carried(state, Continuity(carry=True, reset=0.0)), torch.utils._pytree.tree_map(torch.detach, state))
    noisy = carried(state, Continuity(carry=True, reset=0.0, noise=0.1))
    assert 0.09 < float((noisy[0][0] - state[0][0]).detach().std()) < 0.11
    assert torch.equal(noisy[1][0], state[1][0])
    dropped = carried(state, Continuity(carry=True, reset=0.0, dropout=0.5))
    assert 0.45 < float((dropped[0][1] == 0).float().mean()) < 0.55
    assert torch.equal(dropped[1][0], state[1][0])


@torch.no_grad()
def test_weights_of_one_are_the_loss_of_before():
    logits, lengths = torch.randn(3, 5, 4, dtype=torch.float64), torch.tensor([5, 5, 5])
    label = torch.tensor([0, 3, 1])
    ones = torch.ones(3, 5)
    expected = masked_cross_entropy(logits, label, lengths)
    close(weighted_cross_entropy(logits, label[:, None].expand(3, 5), ones), expected)
    logits[1, 3:] = torch.nan
    ones[1, 3:] = 0
    assert weighted_cross_entropy(logits, label[:, None].expand(3, 5), ones).isfinite()
    assert weighted_cross_entropy(logits, label[:, None].expand(3, 5), 0 * ones) == 0
    with pytest.raises(ValueError, match=r"expected logits \(B, T, K\), labels and weights \(B, T\), got"):
        weighted_cross_entropy(logits, label, ones)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"clips": 0}, "clips: expected a whole number of at least 1, got 0"),
        ({"reset": 1.5}, "reset: expected a number from 0 to 1, got 1.5"),
        ({"onset": 1.0}, 'onset: expected "linear" or a share below 1'),
        ({"onset": -0.1}, "onset: expected a number from 0 to 1, got -0.1"),
        ({"clips": 1, "warm_up": True}, "warm_up: expected rows of several clips, got clips=1"),
        ({"cut": 1.1}, "cut: expected a number from 0 to 1, got 1.1"),
        ({"noise": float("nan")}, "noise: expected a number from 0 on"),
    ],
)
def test_bad_options(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Continuity(**options)


@pytest.mark.parametrize("make", [prernn.convert, prernn.traditional, prernn.convert_rcn])
@torch.no_grad()
def test_batches_that_are_carried_are_one_long_video(make):
    """Outputs of three batches of rows, one after the other, are those of each row's clips in one piece."""
    net = shake(make(prepare(ResidualNet()), image_size=(8, 8)))
    learning = Learning(continuity=Continuity(clips=2, carry=True, reset=0.0))
    module = VideoModule(None, learning, network=net)
    video = film(3, 14)
    state, outputs = None, []
    for part in video.split([4, 4, 6], 1):
        batch = {"input": part, "lengths": torch.full((3,), part.shape[1]), "weight": torch.ones(part.shape[:2])}
        outputs.append(module._training_outputs(batch))
    close(torch.cat(outputs, 1), net.eval()(video, state)[0])


def test_rows_of_unequal_length_while_batch_statistics_are_learned():
    """A shorter row is shown its last frame again, which its loss does not count, so that no statistics see zeros."""
    net = prernn.convert(prepare(ResidualNet()), image_size=(8, 8))
    module = VideoModule(
        None, Learning(frozen_statistics=False, continuity=Continuity(clips=2, carry=True)), network=net
    )
    video = film(2, 5)
    video[1, 3:] = 0  # padding
    batch = {"input": video, "lengths": torch.tensor([5, 3]), "weight": torch.ones(2, 5)}
    out = module.train()._training_outputs(batch)
    held = video.clone()
    held[1, 3:] = video[1, 2]
    other = VideoModule(None, module.learning, network=prernn.convert(prepare(ResidualNet()), image_size=(8, 8)))
    other.network.load_state_dict(net.state_dict())
    close(out, other.train().network(held)[0])
    assert module._state is not None


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return render_parts(tmp_path_factory.mktemp("videos"), {"train": 5, "test": 2})


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_resumed_run_is_an_unbroken_one(videos, tmp_path, workers):
    """With calibrated inputs, states that are carried, chance in them, and rows of unequal length."""
    runs = {}
    for name, epochs in (("whole", [3]), ("broken", [1, 3])):
        values = config(videos, tmp_path / name)
        values["model"]["recipe"] |= {"calibrate": True, "keep_activation": True}
        values["model"]["learning"]["continuity"] = {
            "clips": 2,
            "carry": True,
            "onset": 0.5,
            "noise": 0.1,
            "reset": 0.3,
            "cut": 0.5,
        }
        values["data"]["num_workers"] = workers
        values["data"]["task"]["init_args"]["sampling"] = {"frames": None, "rule": "all"}
        file = write(tmp_path / f"{name}.yaml", values)
        for number, last in enumerate(epochs):
            resume = ["--ckpt_path", "last"] if number else []
            assert main(["fit", "--config", file, "--trainer.max_epochs", str(last), *resume]) == 0
        runs[name] = prernn.load(tmp_path / name).state_dict()
    assert int(runs["whole"]["cnn.layer4.0.conv2.calibration.measured"]) == 1
    for key, value in runs["whole"].items():
        assert torch.equal(value, runs["broken"][key]), key
    assert main(["test", "--config", str(tmp_path / "whole" / "config.yaml")]) == 0
    assert "late_accuracy" in json.loads((tmp_path / "whole" / "metrics.json").read_text())


@pytest.mark.parametrize("continuity", [Continuity(onset=0.5), Continuity(clips=2), Continuity(carry=True)])
def test_networks_of_whole_clips_have_no_state_to_carry(continuity):
    net, task = prernn.framewise(prepare(SnippetNet()), image_size=(4, 8, 8)), Action()
    with pytest.raises(NotImplementedError, match=r"expected single clips for task 'action', got"):
        continuity.of(task, net)
    assert Continuity().of(task, net) == SINGLE_CLIPS


@pytest.mark.parametrize(
    ("continuity", "words"),
    [
        (SINGLE_CLIPS, "single clips, each from a zero state"),
        (
            Continuity().of(Action()),
            "rows of 2 clips, whose state carries over from batch to batch, no loss in the first 0.5 of each clip",
        ),
        (Continuity().of(Gesture()), "rows of 2 clips, whose state carries over from batch to batch"),
        (
            Continuity(clips=1, carry=False, onset="linear"),
            "single clips, each from a zero state, loss rising through each clip",
        ),
        (
            Continuity(clips=1, carry=False, onset=0, cut=0.5),
            "single clips, each from a zero state, up to 0.5 of a clip missing at its end",
        ),
    ],
)
def test_what_a_run_says_of_it(continuity, words):
    assert str(continuity) == words


class OwnTask(Task):
    """Has said nothing of rows."""

    name = "own"


def test_what_is_not_said_is_what_suits_the_task():
    rows = {"clips": 2, "carry": True}
    assert Continuity().of(Action()) == Continuity(**rows, onset=0.5)
    assert Continuity().of(Face()) == Continuity().of(Segments()) == Continuity(**rows, onset=0.0)
    assert Continuity().of(Gesture()) == Continuity(**rows, onset=0.0)
    assert Continuity().of(OwnTask()) == SINGLE_CLIPS
    assert SINGLE_CLIPS.plain
    assert not Continuity().of(Action()).plain
    assert Continuity(clips=3, reset=0.2).of(Action()) == Continuity(clips=3, carry=True, onset=0.5, reset=0.2)
    with pytest.raises(NotImplementedError, match="expected single clips for task 'own', got"):
        Continuity(carry=True).of(OwnTask())
    for weighs in ({"onset": 0.5}, {"onset": "linear"}, {"warm_up": True}, {"cut": 0.2}):
        with pytest.raises(NotImplementedError, match="expected none for task 'gesture', whose loss is of whole"):
            Continuity(**weighs).of(Gesture())


def test_every_loss_heeds_the_weights_of_frames():
    """Frames without weight, NaN among them, change nothing; a weight twice as large counts twice."""
    out = torch.randn(2, 4, 136, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 0]], dtype=torch.float64)
    lengths, points = torch.tensor([4, 3]), torch.randn(2, 4, 136, dtype=torch.float64)
    each = (out - points).square().sum(2) / 2
    face = {"points": points, "lengths": lengths, "weight": weight}
    expected = (each[0, 1] + each[0, 2] + 2 * each[0, 3]) / 4
    close(Face().loss(out, face), expected)
    label = torch.tensor([[0, 1, 2, 1], [1, 1, 1, 1]])
    each = torch.nn.functional.cross_entropy(out.transpose(1, 2), label, reduction="none")
    expected = (each[0, 1] + each[0, 2] + 2 * each[0, 3]) / 4
    warm = torch.zeros(2, dtype=torch.long)
    segments = Segments(background_weight=1.0)
    close(segments.loss(out, {"label": label, "lengths": lengths, "warm_up": warm, "weight": weight}), expected)
    target = torch.tensor([[1, 2], [3, 0]])
    gestures = {"target": target, "lengths": lengths}
    alone = Gesture().loss(out[:1], {name: value[:1] for name, value in gestures.items()})
    close(Gesture().loss(out, gestures | {"weight": weight}), alone)
    for task, batch in ((Face(), face), (segments, {**gestures, "label": label, "warm_up": warm, "weight": weight})):
        spoilt = out.detach().masked_fill((weight == 0)[..., None], torch.nan).requires_grad_()
        task.loss(spoilt, batch).backward()
        assert spoilt.grad.isfinite().all()
        assert spoilt.grad[0, 3].any()
        assert not spoilt.grad[1].any()
        assert task.loss(spoilt, {**batch, "weight": 0 * weight}) == 0
