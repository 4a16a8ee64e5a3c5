"""Videos evaluated in pieces, whose states go on: the outputs are those of the whole videos."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from prernn.training.batches import PieceSampler, collate
from prernn.training.evaluation import Onward, next_outputs, onward, whole_outputs
from small_cnns import FcNet

counts = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(counts=counts, size=st.integers(1, 4), processes=st.integers(1, 3))
def test_every_piece_comes_once_and_right_after_the_one_before_it(counts, size, processes):
    goes_on = [place > 0 for count in counts for place in range(count)]
    orders = [list(PieceSampler(goes_on, size, rank=rank, world_size=processes)) for rank in range(processes)]
    assert len({len(order) for order in orders}) == 1
    assert sorted(piece for order in orders for batch in order for piece in batch) == list(range(sum(counts)))
    for order in orders:
        before: list[int] = []
        for batch in order:
            assert len(batch) <= size
            assert all(piece - 1 in before for piece in batch if goes_on[piece])
            before = batch


@cache
def made(cell):
    torch.manual_seed(0)
    return prernn.convert(FcNet(), "fc6", cell=cell, outputs=3).double().eval()


@settings(max_examples=10)
@given(cell=st.sampled_from(["vrnn", "lstm", "gru"]), piece=st.integers(1, 9), size=st.integers(1, 4))
def test_pieces_of_any_length_give_the_outputs_of_the_whole_videos(cell, piece, size):
    net = made(cell)
    videos = [torch.randn(steps, *net.frame_shape, dtype=torch.float64) for steps in (9, 4, 7)]
    items, goes_on = [], []
    for number, video in enumerate(videos):
        for start in range(0, len(video), piece):
            goes_on.append(start > 0)
            items.append({"input": video[start : start + piece], "goes_on": int(start > 0), "path": str(number)})
    outputs, found = onward(net), {str(number): [] for number in range(3)}
    with torch.inference_mode():
        for numbers in PieceSampler(goes_on, size):
            batch = collate([items[number] for number in numbers])
            for path, row, steps in zip(batch["path"], outputs(batch), batch["lengths"].tolist(), strict=True):
                found[path].append(row[:steps])
        for number, video in enumerate(videos):
            torch.testing.assert_close(torch.cat(found[str(number)]), net(video[None])[0][0], rtol=0, atol=1e-12)


def test_a_piece_whose_video_was_not_in_the_batch_before_is_refused():
    net = made("gru")
    outputs = Onward(lambda batch, state: next_outputs(net, batch, state), lambda batch: whole_outputs(net, batch))
    item = {"input": torch.zeros(2, *net.frame_shape, dtype=torch.float64), "goes_on": 0, "path": "a"}
    outputs(collate([item]))
    outputs(collate([{**item, "goes_on": 1}]))
    with pytest.raises(ValueError, match=r"b: expected the piece before in the batch before, got \['a'\]"):
        outputs(collate([{**item, "goes_on": 1, "path": "b"}]))
    whole = {name: value for name, value in item.items() if name != "goes_on"}
    with torch.inference_mode():
        torch.testing.assert_close(outputs(collate([whole])), net(item["input"][None])[0])
