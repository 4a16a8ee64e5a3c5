"""A text in pieces: each word is foretold once in an epoch, from the one before it, and cuts move with the epoch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.tasks.language.pieces import SHORTEST, Cuts, pieces
from prernn.tasks.language.task import Language
from prernn.training.batches import PieceSampler
from prernn.training.data_module import VideoData


@settings(max_examples=200)
@given(
    streams=st.integers(1, 7),
    length=st.integers(4, 300),
    left=st.integers(0, 6),
    steps=st.integers(2, 40),
    spread=st.floats(0, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_cuts_go_through_each_stream_in_as_many_pieces_every_epoch(streams, length, left, steps, spread, seed):
    words = streams * length + min(left, streams - 1)
    even, drawn = Cuts.even(words, streams, steps), Cuts.drawn(words, streams, steps, spread, seed)
    for cuts in (even, drawn):
        assert cuts.bounds[0] == 0
        assert cuts.bounds[-1] == length
        assert len(cuts.bounds) == len(even.bounds)
        assert all(end - begin >= SHORTEST for begin, end in itertools.pairwise(cuts.bounds))
        assert 0 <= cuts.start < words
    assert drawn == Cuts.drawn(words, streams, steps, spread, seed)


def texts(folder, train=203, rest=23):
    """Three texts of words that are all different, so that a word says where it stands."""
    for name, count in (("train", train), ("valid", rest), ("test", rest)):
        words = [f"w{number}" for number in range(count)]
        (folder / f"x.{name}.txt").write_text(" ".join(words) + "\n")
    return folder


def data_of(root, **options):
    return VideoData(str(root), Language(**options), "words", batch_size=4, num_workers=0)


@pytest.mark.parametrize("spread", [0, 5])
def test_each_word_is_foretold_once_from_the_one_before(tmp_path, spread):
    data = data_of(texts(tmp_path), streams=4, steps=8, spread=spread)
    dataset, text = data.datasets["train"], data.task._text("train")
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        rows = {}
        for number, record in enumerate(dataset.records):
            item = dataset[number]
            assert item["goes_on"] == int(record.number > 0)
            assert item["way"] == record.row
            rows.setdefault(record.row, []).append(item)
        lengths = [[len(item["target"]) for item in row] for row in rows.values()]
        assert all(other == lengths[0] for other in lengths)  # pieces side by side are as long as each other
        targets = []
        for row in rows.values():
            inputs = torch.cat([item["input"][:, 0] for item in row])
            targets.append(torch.cat([item["target"] for item in row]))
            assert torch.equal(inputs[1:], targets[-1][:-1])  # pieces join without a gap
        follows = {int(a): int(b) for a, b in zip(text, text.roll(-1), strict=True)}
        foretold = torch.cat(targets).tolist()
        assert len(foretold) == len(set(foretold)) == 204 // 4 * 4  # once each
        assert all(follows[a] == b for row in targets for a, b in itertools.pairwise(row.tolist()))
        seen.append((lengths[0], foretold[0]))
    assert (seen[0] == seen[1]) == (spread == 0)
    dataset.set_epoch(0)
    assert dataset[0]["target"].tolist()[0] == seen[0][1]  # an epoch is what its number says


@pytest.mark.parametrize("test_steps", [2, 7, 23, 24, 100])
def test_evaluation_is_one_stream_through_the_whole_text(tmp_path, test_steps):
    data = data_of(texts(tmp_path), streams=4, steps=8, test_steps=test_steps)
    data.setup("fit")
    data.setup("test")
    for subset, name in (("val", "valid"), ("test", "test")):
        items = [data.datasets[subset][number] for number in range(len(data.datasets[subset]))]
        words = [data.task.labels[number] for item in items for number in item["target"].tolist()]
        assert words == [*(tmp_path / f"x.{name}.txt").read_text().split(), "<eos>"]
        inputs = [data.task.labels[number] for item in items for number in item["input"][:, 0].tolist()]
        assert inputs == ["<eos>", *words[:-1]]


def test_batches_are_streams_side_by_side():
    records = pieces("a", "train", 4, 3)
    batches = list(PieceSampler([record.number > 0 for record in records], 4))
    assert [{records[n].number for n in batch} for batch in batches] == [{0}, {1}, {2}]
    assert all({records[n].row for n in batch} == {0, 1, 2, 3} for batch in batches)
    shares = [list(PieceSampler([record.number > 0 for record in records], 4, rank=k, world_size=2)) for k in (0, 1)]
    assert [[records[n].row for n in share[0]] for share in shares] == [[0, 2], [1, 3]]
