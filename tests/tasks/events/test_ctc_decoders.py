"""CTC decoders and scores against all paths, written out."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.tasks.events.ctc_decoders import BeamDecoder, Event, GreedyDecoder, label_scores, make_decoder


def collapse(path):
    """The labels of a path."""
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def spans(path):
    """(first step, step after the last) of each label of a path."""
    found, step = [], 0
    for label, run in itertools.groupby(path):
        length = len(list(run))
        if label != 0:
            found.append((step, step + length))
        step += length
    return found


def labellings(log_probs):
    """Probability of each labelling, and its most probable path, by all K ** T paths."""
    steps, outputs = log_probs.shape
    sums, best = {}, {}
    for path in itertools.product(range(outputs), repeat=steps):
        probability = math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
        labels = collapse(path)
        sums[labels] = sums.get(labels, 0.0) + probability
        if probability > best.get(labels, (0.0,))[0]:
            best[labels] = (probability, path)
    return sums, best


def exact():
    return BeamDecoder(None, certainty=1, patience=None)


@st.composite
def sequences(draw, steps=5, outputs=4):
    """Log-probabilities (T, K) in float64, some of them sharp or impossible."""
    shape = draw(st.integers(1, steps)), draw(st.integers(2, outputs))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.3, 2.0, 8.0]))
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    if draw(st.booleans()):
        scores[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = -math.inf
    return scores.log_softmax(-1)


def path_probs(path, outputs=4, sure=0.9):
    """Log-probabilities under which ``path`` is the most probable one."""
    probs = torch.full((len(path), outputs), (1 - sure) / (outputs - 1), dtype=torch.float64)
    probs[torch.arange(len(path)), torch.tensor(path)] = sure
    return probs.log()


decoders = st.one_of(
    st.builds(GreedyDecoder, st.sampled_from([0.0, 0.5])),
    st.builds(
        BeamDecoder,
        st.sampled_from([1, 2, 5, None]),
        certainty=st.sampled_from([0.51, 0.8, 1]),
        patience=st.sampled_from([1, 2, 4, None]),
    ),
)


# ---------------------------------------------------------------------------------------------------- greedy


@given(sequences(steps=8, outputs=5))
def test_greedy_is_the_best_path_collapsed_with_its_spans(log_probs):
    path = [max(range(log_probs.shape[1]), key=lambda k: log_probs[t, k].item()) for t in range(len(log_probs))]
    decoder = GreedyDecoder()
    assert tuple(decoder.decode(log_probs)) == collapse(path)
    ends = [event for event in decoder.events(log_probs) if event.kind == "end"]
    assert [(event.begin, event.end) for event in ends] == spans(path)
    probs = log_probs.exp()
    for event in ends:
        assert event.probability == pytest.approx(probs[event.begin : event.end, event.label].max().item())


def test_greedy_says_begin_and_end_as_soon_as_they_show():
    decoder = GreedyDecoder()
    given = [decoder.push(step) for step in path_probs([0, 2, 2, 1, 0, 1])]
    told = [[(e.kind, e.label, e.begin, e.end, e.step) for e in events] for events in given]
    assert told == [
        [],
        [("begin", 2, 1, None, 1)],
        [],
        [("end", 2, 1, 3, 3), ("begin", 1, 3, None, 3)],
        [("end", 1, 3, 4, 4)],
        [("begin", 1, 5, None, 5)],
    ]
    assert [(e.kind, e.begin, e.end, e.step) for e in decoder.finish()] == [("end", 5, 6, 6)]


def test_a_label_below_the_threshold_is_no_gesture():
    log_probs = torch.tensor([[0.4, 0.6], [0.1, 0.9], [0.4, 0.6]]).log()
    assert [(e.begin, e.end) for e in GreedyDecoder(0.7).events(log_probs) if e.kind == "end"] == [(1, 2)]
    assert [(e.begin, e.end) for e in GreedyDecoder().events(log_probs) if e.kind == "end"] == [(0, 3)]


# ------------------------------------------------------------------------------------------------------ beam


@settings(max_examples=60)
@given(sequences())
def test_a_beam_without_limit_finds_the_most_probable_labelling_and_its_best_path(log_probs):
    sums, best = labellings(log_probs)
    events = exact().events(log_probs)
    labels = tuple(event.label for event in events if event.kind == "begin")
    # probabilities, not labels, are compared: there may be two labellings of the same probability
    assert sums[labels] == pytest.approx(max(sums.values()), rel=1e-9)
    found = [(event.begin, event.end) for event in events if event.kind == "end"]
    path = [0] * len(log_probs)
    for label, (begin, end) in zip(labels, found, strict=True):
        path[begin:end] = [label] * (end - begin)
    assert collapse(path) == labels
    probability = math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    assert probability == pytest.approx(best[labels][0], rel=1e-9)


@st.composite
def sharp_sequences(draw):
    """Log-probabilities in which most outputs are impossible at most steps."""
    steps = draw(st.lists(st.sets(st.integers(0, 2), min_size=1, max_size=2), min_size=1, max_size=6))
    probs = torch.tensor([[float(k in allowed) for k in range(3)] for allowed in steps], dtype=torch.float64)
    return (probs / probs.sum(1, keepdim=True)).log()


@given(sharp_sequences())
def test_with_certainty_1_the_stream_gives_what_all_possible_labellings_share_and_no_more(log_probs):
    decoder, given = exact(), []
    for step, scores in enumerate(log_probs):
        given += [event.label for event in decoder.push(scores) if event.kind == "begin"]
        possible = [labels for labels, p in labellings(log_probs[: step + 1])[0].items() if p > 0]
        shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*possible, strict=False))
        assert given == [level[0] for level in shared]


def test_certainty_1_waits_for_what_is_as_good_as_impossible():
    log_probs = torch.tensor([[-2000.0, 0.0, -1000.0], [0.0, -5000.0, -5000.0]], dtype=torch.float64)
    decoder = exact()
    assert [decoder.push(scores) for scores in log_probs] == [[], []]
    assert [event.label for event in decoder.finish()] == [1, 1]


def test_beam_prefers_a_labelling_of_many_paths_to_the_best_path():
    # blank blank is the best path with 0.36; [1] has 0.64 in three paths
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64).log()
    assert GreedyDecoder().decode(log_probs) == []
    assert exact().decode(log_probs) == [1]


def test_beam_gives_a_label_once_the_share_is_reached_and_not_before():
    # of two steps of even odds only one path of four has no label; and one has it twice only from the third step on
    even = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    decoder = BeamDecoder(None, certainty=0.74, patience=None)
    assert decoder.push(even) == []
    [event] = decoder.push(even)
    assert (event.kind, event.label, event.begin, event.step) == ("begin", 1, 0, 1)
    assert event.probability == pytest.approx(0.75)
    stricter = BeamDecoder(None, certainty=0.76, patience=None)
    assert [stricter.push(even), stricter.push(even)] == [[], []]


def test_beam_tells_a_repeat_from_a_gesture_that_goes_on():
    labels = [event.label for event in BeamDecoder().events(path_probs([0, 1, 1, 0, 1, 0, 2])) if event.kind == "end"]
    assert labels == [1, 1, 2]
    found = [(e.begin, e.end) for e in BeamDecoder().events(path_probs([0, 1, 1, 0, 1, 0, 2])) if e.kind == "end"]
    assert found == [(1, 3), (4, 5), (6, 7)]


def test_patience_settles_an_open_question_so_that_later_gestures_come_through():
    torn = torch.tensor([[1e-6, 0.5, 0.5 - 1e-6, 1e-9]], dtype=torch.float64).log()
    later = path_probs([0, 0, 0, 3, 0, 0], sure=0.999)
    log_probs = torch.cat([torn, later])
    endless = BeamDecoder(certainty=0.9, patience=None)
    assert [event for scores in log_probs for event in endless.push(scores)] == []
    decoder = BeamDecoder(certainty=0.9, patience=3)
    events = [event for scores in log_probs for event in decoder.push(scores)]
    told = [(e.kind, e.label, e.begin, e.end, e.step) for e in events]
    assert told == [
        ("begin", 1, 0, None, 3),
        ("end", 1, 0, 1, 3),
        ("begin", 3, 4, None, 4),
        ("end", 3, 4, 5, 5),
    ]
    assert events[0].probability == pytest.approx(0.5, abs=0.01)


def test_patience_keeps_a_faint_label_from_adding_up_to_a_gesture():
    faint = torch.tensor([0.97, 0.03], dtype=torch.float64).log().expand(150, 2)
    assert BeamDecoder(patience=None).decode(faint) != []
    assert BeamDecoder(patience=12).decode(faint) == []


def test_a_long_stream_keeps_its_memory_and_its_digits():
    decoder = BeamDecoder(width=4, patience=5)
    cycle = path_probs([0, 1, 1, 0, 2, 0, 3, 3])
    begins = []
    for scores in cycle.repeat(100, 1):
        begins += [event.begin for event in decoder.push(scores) if event.kind == "begin"]
        assert all(len(labels) <= 7 for labels in decoder._beam)
        assert abs(next(iter(decoder._beam.values())).mass) < 1e-9
    assert begins == sorted(8 * n + start for n in range(100) for start in (1, 4, 6))


# ------------------------------------------------------------------------------------------- all decoders


@settings(max_examples=100)
@given(sequences(steps=12, outputs=4), decoders)
def test_events_alternate_in_order_and_are_never_taken_back(log_probs, decoder):
    online = [decoder.push(scores) for scores in log_probs]
    for step, events in enumerate(online):
        assert all(event.step == step for event in events)
        assert all(event.begin <= step for event in events)
    events = [event for group in online for event in group] + decoder.finish()
    assert [event.kind for event in events] == ["begin", "end"] * (len(events) // 2)
    free = 0
    for begin, end in zip(events[::2], events[1::2], strict=True):
        assert (begin.label, begin.begin) == (end.label, end.begin)
        assert begin.end is None
        assert free <= begin.begin <= end.end <= len(log_probs)
        assert begin.step <= end.step
        assert 0 <= begin.probability <= end.probability <= 1 + 1e-9
        free = end.end
    again = [event for scores in log_probs for event in decoder.push(scores)] + decoder.finish()
    assert again == events  # finish has made it new
    assert decoder.decode(log_probs) == [event.label for event in events[::2]]


@given(sequences(steps=8), decoders, st.data())
def test_a_copy_goes_on_as_the_decoder_does(log_probs, decoder, data):
    cut = data.draw(st.integers(0, len(log_probs)))
    for scores in log_probs[:cut]:
        decoder.push(scores)
    other = copy.deepcopy(decoder)
    rest = [decoder.push(scores) for scores in log_probs[cut:]] + [decoder.finish()]
    assert rest == [other.push(scores) for scores in log_probs[cut:]] + [other.finish()]


def test_decoders_by_name():
    assert make_decoder("beam", {"width": 3}).width == 3
    assert isinstance(make_decoder("greedy"), GreedyDecoder)
    with pytest.raises(ValueError, match=r"one of \['beam', 'greedy'\], got 'viterbi'"):
        make_decoder("viterbi")
    with pytest.raises(ValueError, match=r"decoder 'greedy': .*width"):
        make_decoder("greedy", {"width": 3})


@pytest.mark.parametrize("make", [GreedyDecoder, BeamDecoder])
@pytest.mark.parametrize("bad", [torch.zeros(1), torch.zeros(2, 3), torch.tensor([0.0, math.nan])])
def test_decoders_refuse_other_shapes_and_nan(make, bad):
    with pytest.raises(ValueError, match="expected log-probabilities"):
        make().push(bad)


def test_the_number_of_outputs_stays():
    decoder = GreedyDecoder()
    decoder.push(torch.zeros(3).log_softmax(-1))
    with pytest.raises(ValueError, match=r"\(3,\), got shape \(4,\)"):
        decoder.push(torch.zeros(4))
    with pytest.raises(ValueError, match=r"\(T, K\), got shape \(4,\)"):
        decoder.decode(torch.zeros(4))


@pytest.mark.parametrize("options", [{"width": 0}, {"certainty": 0.5}, {"certainty": 1.1}, {"patience": 0}])
def test_beam_refuses_numbers_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected .* got"):
        BeamDecoder(**options)


def test_greedy_refuses_a_threshold_out_of_range():
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1, got 2"):
        GreedyDecoder(2)


def test_events_are_plain_records():
    [event] = GreedyDecoder().push(torch.tensor([0.2, 0.8]).log())
    assert event == Event("begin", 1, 0, None, 0, pytest.approx(0.8))


# -------------------------------------------------------------------------------------------- label scores


@given(sequences())
def test_label_scores_are_the_probabilities_of_single_labels(log_probs):
    sums, _ = labellings(log_probs)
    wanted = torch.tensor([sums.get((k,), 0.0) for k in range(1, log_probs.shape[1])], dtype=torch.float64)
    torch.testing.assert_close(label_scores(log_probs).exp(), wanted, rtol=1e-9, atol=1e-12)


def test_label_scores_of_a_batch_ignore_padding_even_nan():
    log_probs = torch.randn(3, 6, 5, dtype=torch.float64).log_softmax(-1)
    lengths = torch.tensor([6, 1, 4])
    padded = log_probs.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = math.nan
    wanted = torch.stack([label_scores(log_probs[b, :n]) for b, n in enumerate(lengths)])
    torch.testing.assert_close(label_scores(padded, lengths), wanted)


def test_label_scores_agree_with_torch():
    log_probs = torch.randn(20, 6, dtype=torch.float64).log_softmax(-1)
    copies, ones = log_probs[:, None].expand(-1, 5, -1), torch.ones(5, dtype=torch.int64)
    loss = torch.nn.functional.ctc_loss(copies, torch.arange(1, 6)[:, None], 20 * ones, ones, reduction="none")
    torch.testing.assert_close(label_scores(log_probs), -loss)


@pytest.mark.parametrize(
    ("shape", "lengths"), [((3,), None), ((0, 4), None), ((2, 3, 1), None), ((2, 3, 4), [1, 4]), ((2, 3, 4), [1])]
)
def test_label_scores_refuse_what_does_not_fit(shape, lengths):
    with pytest.raises(ValueError, match="expected"):
        label_scores(torch.zeros(shape), None if lengths is None else torch.tensor(lengths))


ROWS = {
    "probabilities": [0.2, 0.3, 0.5],
    "logits": [3.0, -1.0, 2.0],
    "large": [1000.0, 2000.0, 0.0],
    "infinite": [math.inf, 0.0, -math.inf],
    "impossible": [-math.inf] * 3,
    "faint": [-1000.0, -2000.0, -1500.0],
    "not a number": [0.0, math.nan, -math.inf],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_that_are_no_log_probabilities(row):
    """After rows that are, too; a decoder that refuses one is as it was."""
    good, bad = path_probs([1, 2, 0], outputs=3), torch.tensor([row], dtype=torch.float64)
    for decoder in (GreedyDecoder(), BeamDecoder(), exact()):
        before = [event for step in good for event in decoder.push(step)]
        with pytest.raises(ValueError, match=r"step 3: expected log-probabilities, whose sum is 1, got \["):
            decoder.push(bad[0])
        assert before + decoder.finish() == decoder.events(good)
        with pytest.raises(ValueError, match="step 0: expected log-probabilities"):
            decoder.events(bad)
    if not any(map(math.isnan, row)):
        with pytest.raises(ValueError, match="expected log-probabilities, whose sum is 1 in every step"):
            label_scores(torch.cat([good, bad]))
        padded = torch.stack([torch.cat([good, bad]), path_probs([1, 1, 1, 1], outputs=3)])
        assert torch.equal(label_scores(padded, torch.tensor([3, 4]))[0], label_scores(good))  # padding may be anything


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_log_probabilities_of_few_digits(dtype):
    for scale in (0.1, 1, 10):
        rows = (torch.randn(20, 50) * scale).to(dtype).log_softmax(-1)
        GreedyDecoder().events(rows)
        label_scores(rows)


@pytest.mark.parametrize(
    "given", [torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool), [[0.0, -9]]]
)
def test_log_probabilities_are_a_tensor_of_floats(given):
    for use in (GreedyDecoder().events, BeamDecoder().events, lambda rows: BeamDecoder().push(rows[0]), label_scores):
        with pytest.raises(ValueError, match="expected log-probabilities as a tensor of floats, got"):
            use(given)
