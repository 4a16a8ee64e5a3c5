"""Many streams through one network: each says what it would say alone, whoever else is there."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prernn
from equations import close
from exported_networks import KINDS, size_of, some_frames
from prernn.layers.cells import CELLS
from prernn.streaming.stream import Stream
from prernn.streaming.stream_batch import StreamBatch
from small_cnns import FcNet, PlainNet, SnippetNet, prepare, shake
from strategies import SPECS
from streamed_networks import FLOAT32, SPEC, network, pictures

SMALL = {"image_size": (8, 8)}
DONE = ["join", "leave", "reset", "interrupted", "load", *["step"] * 6]
ACTIONS = st.lists(st.tuples(st.sampled_from(DONE), st.integers(0, 2**16)), max_size=40)
"""What happens to streams, each with a number that says to which of them."""


class Alone:
    """Does with a stream of its own for each number what is done with the batch, and compares."""

    def __init__(self, net, frame_of, timed=False, tolerance=None, **options):
        self.batch, self.alone = StreamBatch(net, **options), {}
        self.make, self.frame_of, self.timed = lambda: Stream(net, **options), frame_of, timed
        self.seed, self.tolerance, self.said = 0, tolerance or {}, 0

    def do(self, action, choice):
        numbers = list(self.alone)
        if action == "join" or not numbers:
            self.alone[self.batch.join()] = self.make()
        elif action == "step":
            self.step([number for place, number in enumerate(numbers) if choice >> place & 1])
        else:
            getattr(self, action)(numbers[choice % len(numbers)], numbers[choice // 7 % len(numbers)])

    def step(self, numbers):
        frames = {number: self.frame_of(self.seed + place) for place, number in enumerate(numbers)}
        times = dict.fromkeys(numbers, self.seed / 5) if self.timed else None
        self.seed += len(numbers)
        got = self.batch.step(frames, times)
        assert list(got) == numbers
        for number, out in got.items():
            expected = self.alone[number](frames[number], times and times[number])
            assert (out is None) == (expected is None)
            if expected is not None:
                close(out, expected, **self.tolerance)
                self.said += 1

    def leave(self, number, _):
        self.batch.leave(number)
        del self.alone[number]

    def reset(self, number, _):
        self.batch.reset(number)
        self.alone[number].reset()

    def interrupted(self, number, _):
        self.batch.interrupted(number)
        self.alone[number].interrupted()

    def load(self, number, other):
        """One goes on where another is."""
        self.batch.load_state_dict(number, self.alone[other].state_dict())
        self.alone[number].load_state_dict(self.batch.state_dict(other))


def in_turns(alone):
    """A fixed order of everything, for the laws over all combinations."""
    for action, choice in [("join", 0), ("step", 1), ("join", 0), ("step", 3), ("step", 2), ("join", 0), ("step", 7)]:
        alone.do(action, choice)
    for action, choice in [("reset", 1), ("interrupted", 0), ("step", 5), ("load", 2), ("step", 7), ("leave", 0)]:
        alone.do(action, choice)
    for action, choice in [("step", 3), ("step", 3)]:
        alone.do(action, choice)
    assert alone.said >= 10


@pytest.mark.parametrize(("cell", "spec"), itertools.product(CELLS, SPECS))
def test_each_says_what_it_says_alone(cell, spec):
    net = shake(prernn.convert(prepare(FcNet()), ["fc6", "fc7"], cell=cell, hidden=spec, **SMALL)).eval()
    in_turns(
        Alone(net, lambda seed: torch.randn(net.frame_shape, generator=torch.Generator().manual_seed(seed)).double())
    )


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=8, deadline=None)
@given(actions=ACTIONS)
def test_in_any_order(name, actions):
    net = KINDS[name]().double()
    frames = some_frames(net, 1, 64, size_of(name))[0]
    frames = frames if frames.dtype == torch.int64 else frames.double()
    alone = Alone(net, lambda seed: frames[seed % 64])
    for action, choice in actions:
        alone.do(action, choice)


@pytest.mark.parametrize("reset", ["never", "every:4", "cut", "idle:0.5"])
@settings(max_examples=8, deadline=None)
@given(actions=ACTIONS)
def test_each_starts_anew_by_its_own_pictures(reset, actions):
    net, shown = network().double(), pictures(12)
    shown[::3] = shown[::3] // 8  # dark ones, so that there are cuts
    alone = Alone(net, lambda seed: shown[seed % 12], reset=reset, timed=True)
    for action, choice in actions:
        alone.do(action, choice)


@settings(max_examples=8, deadline=None)
@given(actions=ACTIONS)
def test_snippets_are_each_streams_own(actions):
    net = shake(prernn.convert(prepare(SnippetNet()), "fc6", image_size=(4, 8, 8))).eval()
    shown = pictures(9)
    alone = Alone(net, lambda seed: shown[seed % 9], transform=SPEC)
    for action, choice in actions:
        alone.do(action, choice)


def test_frames_of_other_sizes_are_grouped():
    """A recurrent map is as large as the frame: streams of two sizes go on side by side."""
    net = prernn.convert_rcn(prepare(PlainNet())).eval()
    streams, sizes = StreamBatch(net), [(8, 8), (12, 8), (8, 8), (12, 8), (8, 8)]
    alone = {streams.join(): Stream(net) for _ in sizes}
    for _ in range(3):
        frames = {n: torch.randn(3, *size, dtype=torch.float64) for n, size in zip(alone, sizes, strict=True)}
        expected = {n: alone[n](frame) for n, frame in frames.items()}
        close(streams.step(frames), expected)


def test_streams_of_one_size_are_one_step(monkeypatch):
    net, batches = network(), []
    streams = StreamBatch(net)
    step = streams._runs.step
    monkeypatch.setattr(streams._runs, "step", lambda frame, state: (batches.append(len(frame)), step(frame, state))[1])
    numbers = [streams.join() for _ in range(4)]
    streams.step(dict.fromkeys(numbers, torch.zeros(3, 8, 8)))
    late = streams.join()  # without a state yet
    streams.step({late: torch.zeros(3, 8, 8), numbers[0]: torch.zeros(3, 8, 8)})
    assert batches == [4, 2]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_in_other_engines(engine):
    pytest.importorskip("onnxscript")
    pytest.importorskip(engine)
    net = network()
    frames = [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(40)]
    in_turns(Alone(net, lambda seed: frames[seed], engine=engine, tolerance={"rtol": 1e-4, "atol": 1e-5}))


def test_a_stream_comes_from_elsewhere_and_goes_elsewhere():
    net, frames = network(), torch.randn(6, 3, 8, 8)
    stream = Stream(net)
    whole = [stream(frame) for frame in frames]
    first, streams = Stream(net), StreamBatch(net)
    said = [first(frame) for frame in frames[:2]]
    streams.step({streams.join(): frames[5]})
    number = streams.join(first.state_dict())
    said += [streams.step({number: frame})[number] for frame in frames[2:4]]
    last = Stream(net)
    last.load_state_dict(streams.state_dict(number))
    said += [last(frame) for frame in frames[4:]]
    close(said, whole, **FLOAT32)


def test_a_frame_that_does_not_fit_changes_nothing():
    net = network()
    streams, alone = StreamBatch(net, reset="cut"), Stream(net, reset="cut")
    good, bad = streams.join(), streams.join()
    shown = pictures(6)
    for picture in shown[:3]:
        expected = alone(picture)
        with pytest.raises(ValueError, match=r"stream 1: frame: expected uint8 \(H, W, 3\)"):
            streams.step({good: picture, bad: np.zeros((5, 5), np.uint8)})
        close(streams.step({good: picture})[good], expected, **FLOAT32)
    with pytest.raises(NotImplementedError, match="stream 1: a reset by what the picture shows"):
        streams.step({good: shown[3], bad: torch.zeros(3, 8, 8)})
    close(streams.step({good: shown[3]})[good], alone(shown[3]), **FLOAT32)


def test_numbers_of_streams():
    streams = StreamBatch(network())
    first, second = streams.join(), streams.join()
    streams.leave(first)
    third = streams.join()
    assert len({first, second, third}) == 3
    assert list(streams) == [second, third]
    assert len(streams) == 2
    assert third in streams
    assert first not in streams
    assert streams.step({}) == {}
    for call in (streams.leave, streams.reset, streams.state_dict, lambda n: streams.step({n: torch.zeros(3, 8, 8)})):
        with pytest.raises(ValueError, match=r"a stream that has joined, one of \[1, 2\], got 0"):
            call(first)


def test_bad_options_are_refused_before_anyone_joins():
    with pytest.raises(ValueError, match="reset: expected never"):
        StreamBatch(network(), reset="sometimes")
    with pytest.raises(ValueError, match="expected engine to be one of"):
        StreamBatch(network(), engine="steam")


def test_one_that_diverges_says_so_and_the_others_do_not():
    net = network()
    streams = StreamBatch(net)
    ill, well = streams.join(), streams.join()
    big = torch.full((3, 8, 8), 3e38)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = streams.step({ill: big, well: torch.zeros(3, 8, 8)})
    assert answers[well].isfinite().all()
    assert len([w for w in caught if "diverged" in str(w.message)]) == (not answers[ill].isfinite().all())
