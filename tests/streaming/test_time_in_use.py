"""A clock and a reset from end to end: rows of fast and slow sources, latency, shots in the tasks' watchers."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from prernn.commands.main import main
from prernn.conversion.recipe import KeptTask
from prernn.media import encoding, video
from prernn.media.flow import FlowSettings
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.streaming.pace import Pace
from prernn.streaming.prediction import predictions
from prernn.streaming.stream import Stream
from prernn.streaming.watch import watch
from prernn.tasks.action.watcher import ClassWatcher, stream_video
from prernn.tasks.gesture.watcher import GestureWatcher
from streamed_networks import LABELS, network, pictures
from video_files import encode, grey


def rated(rate, **options):
    net = network(**options)
    net.recipe = replace(net.recipe, rate=rate)
    return net


def rows(net, source, **options):
    """Lines of the stream of a source, without the latency."""
    out = io.StringIO()
    stream_video(net, source, csv=out, **options)
    return [line.rpartition(",")[0] for line in out.getvalue().splitlines()]


@pytest.fixture
def at_rates(tmp_path):
    """The same twelve pictures at 10 frames a second, and held at 20 and 30."""
    for times in (1, 2, 3):
        frames = [Image.fromarray(picture) for picture in pictures(12, (24, 32)).repeat(times, 0)]
        (tmp_path / f"x{times}").mkdir()
        for number, frame in enumerate(frames):
            frame.save(tmp_path / f"x{times}" / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("times", [2, 3])
def test_rows_of_a_faster_source_are_those_of_the_networks_own_rate(at_rates, times):
    net = rated(10.0)
    fast = rows(net, at_rates / f"x{times}", fps=10.0 * times)
    assert fast == rows(net, at_rates / "x1", fps=10.0) == rows(net, at_rates / "x1", rate="source", fps=10.0)
    slow, quick = (list(predictions(Stream(net), at_rates / f"x{count}", fps=10.0 * count)) for count in (1, times))
    assert all(torch.equal(a.probabilities, b.probabilities) for a, b in zip(slow, quick, strict=True))
    assert len(rows(net, at_rates / f"x{times}", rate="source")) == 12 * times + 1


def test_a_held_frame_has_the_number_and_time_of_its_tick(at_rates):
    net = rated(20.0)
    seen = list(predictions(Stream(net), at_rates / "x1", fps=10.0))
    assert [p.index for p in seen] == list(range(23))
    assert [p.time for p in seen] == pytest.approx([number / 20 for number in range(23)])
    again = list(predictions(Stream(net), at_rates / "x2", rate="source"))
    assert all(torch.equal(a.probabilities, b.probabilities) for a, b in zip(seen, again, strict=False))


def test_a_folder_that_says_no_rate_is_taken_at_the_networks(at_rates):
    assert [p.time for p in predictions(Stream(rated(5.0)), at_rates / "x1")] == pytest.approx(
        [number / 5 for number in range(12)]
    )


def test_an_annotated_video_has_the_rate_of_the_clock(at_rates, tmp_path):
    assert stream_video(rated(10.0), at_rates / "x3", fps=30.0, video=tmp_path / "a.mp4") == 12
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(10)
    assert stream_video(rated(10.0), at_rates / "x3", fps=30.0, limit=5) == 5


def test_stamps_that_jump_back_in_a_file_are_counted(tmp_path):
    first, second = (encode(tmp_path / f"{k}.ts", [grey(i) for i in range(10)], rate=10) for k in (1, 2))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    pace = Pace(10)
    with pytest.warns(RuntimeWarning, match="time stamps that jump back"):
        count = watch(ClassWatcher(rated(10)), joined, pace=pace)
    assert (count, pace.counts.back) == (20, 1)


class FakeClock:
    """``perf_counter`` that goes on only when someone works."""

    now = 0.0

    def __call__(self):
        return self.now

    def work(self, milliseconds, result):
        self.now += milliseconds / 1e3
        return result


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    for module in ("prernn.streaming.prediction", "prernn.tasks.action.watcher", "prernn.tasks.gesture.watcher"):
        monkeypatch.setattr(f"{module}.perf_counter", clock)
    return clock


def working(net, clock, milliseconds):
    """The network, each step of which takes so long."""
    step = net.step
    net.step = lambda *arguments: clock.work(milliseconds, step(*arguments))
    return net


def test_latency_counts_flow_transform_and_network(clock, monkeypatch, at_rates):
    monkeypatch.setattr("prernn.tasks.action.watcher._flow_of", lambda net: lambda frame: clock.work(27, frame))
    watcher = ClassWatcher(working(network(), clock, 19))
    for number, picture in enumerate(pictures(3)):
        clock.work(1000, None)  # decoding
        (row,) = watcher.see(number, number / 10, picture)
        assert row.latency_ms == pytest.approx(46)
    seen = predictions(Stream(working(network(), clock, 5)), at_rates / "x1", rate="source")
    assert [p.latency_ms for p in seen] == pytest.approx([5] * 12)


SHOTS = np.concatenate([np.full((6, 24, 32, 3), 30, np.uint8), np.full((6, 24, 32, 3), 200, np.uint8)])


def test_flow_starts_anew_at_a_cut(monkeypatch):
    made = []
    monkeypatch.setattr("prernn.tasks.action.watcher._flow_of", lambda net: made.append(0) or (lambda frame: frame))
    color, flow = network(), network()
    watcher = ClassWatcher(Stream(color, reset="cut"), Stream(flow, reset="never"))
    for number, frame in enumerate(SHOTS):
        watcher.see(number, number / 10, frame)
    assert len(made) == 2 + 1  # one a stream, and one more for the stream that starts anew


def flow_network(reset):
    """A network of the flow stream, stacks of two."""
    cnn = NetworkSpec("timm/test_resnet", cell="gru", input="single", channels=4).build(5)
    spec = {"size": 16, "mean": [0.5], "std": [0.2], "flow": True}
    options = {"stream": "flow", "stack": 2, "flow": {**FlowSettings(short_side=16).__dict__}}
    cnn.recipe = replace(cnn.recipe, labels=LABELS, transform=spec, task=KeptTask("action", options), reset=reset)
    return cnn.eval()


def test_a_flow_stream_is_as_a_new_one_after_a_cut():
    net = flow_network("cut")
    watcher, fresh = ClassWatcher(net), ClassWatcher(Stream(net, reset="never"))
    seen = [watcher.see(number, number / 10, frame)[0] for number, frame in enumerate(SHOTS)]
    again = [fresh.see(number, number / 10, frame)[0] for number, frame in enumerate(SHOTS[6:])]
    for row, other in zip(seen[6:], again, strict=True):
        assert torch.equal(row.probabilities, other.probabilities)


def test_a_snippet_of_gestures_begins_at_the_cut(snippet_net):
    snippet_net.recipe = replace(snippet_net.recipe, labels=["none", *LABELS[1:]], reset="cut")
    watcher = GestureWatcher(snippet_net)
    for number, frame in enumerate(SHOTS):
        watcher.see(number, number / 10, frame)
    assert [start for start, _ in watcher._starts] == [0, 6]  # frames 4 and 5 made no snippet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained network of 5 frames a second."""
    root = tmp_path_factory.mktemp("run")
    net = NetworkSpec("timm/test_resnet", cell="gru", input="single").build(2)
    spec = {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    net.recipe = replace(net.recipe, labels=["left", "right"], transform=spec, rate=5.0)
    checkpoint.save(net, root)
    return root


def lines(capsys, *words):
    code = main(["stream", *map(str, words)])
    out, err = capsys.readouterr()
    return code, list(csv.reader(out.splitlines())), err.strip().splitlines()


def test_the_command_says_what_became_of_the_frames(run, tmp_path, capsys):
    encoding.write_video(tmp_path / "a.mp4", pictures(9, (48, 64)), 10)
    words = (tmp_path / "a.mp4", "--checkpoint", run)
    code, table, said = lines(capsys, *words)
    assert code == 0
    assert [row[:2] for row in table[1:]] == [[str(k), f"{k / 5:.3f}"] for k in range(5)]
    assert said == [f"prernn: 5 frames at 5 frames a second (4 dropped) with {run}/model.safetensors"]
    code, table, said = lines(capsys, *words, "--fps", "source")
    assert (len(table), said[0].split(" with ")[0]) == (10, "prernn: 9 frames")
    code, table, said = lines(capsys, *words, "--fps", "20", "--reset", "every:4")
    assert said[0].split(" with ")[0] == "prernn: 17 frames at 20 frames a second (8 held)"
    for wrong in ("fast", "0", "nan", "-3"):
        code, table, said = lines(capsys, *words, "--fps", wrong)
        assert (code, len(said)) == (2, 1)
        assert "frames a second" in said[0]
    code, table, said = lines(capsys, *words, "--reset", "often")
    assert (code, said) == (2, [said[0]])
    assert "reset: expected never, cut, idle:SECONDS with more than 0, or every:N" in said[0]


def test_without_a_rate_the_command_says_so_once(run, tmp_path, capsys):
    net = checkpoint.load(run)
    net.recipe = replace(net.recipe, rate=None)
    checkpoint.save(net, tmp_path / "unknown")
    encoding.write_video(tmp_path / "a.mp4", pictures(3, (48, 64)), 10)
    code, table, said = lines(capsys, tmp_path / "a.mp4", "--checkpoint", tmp_path / "unknown")
    assert (code, len(table), len(said)) == (0, 4, 2)
    assert said[0].startswith("prernn: the network does not say at what rate it was trained")
    code, _, said = lines(capsys, tmp_path / "a.mp4", "--checkpoint", tmp_path / "unknown", "--fps", "source")
    assert (code, len(said)) == (0, 1)
