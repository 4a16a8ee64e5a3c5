"""What rows, streams and the command say of frames that were lost and of connections that were made again."""

import csv
import io
import json
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from live_servers import LiveServer, numbered
from prernn.commands.main import main
from prernn.media.source import VideoError
from prernn.models import checkpoint
from prernn.models.from_config import NetworkSpec
from prernn.streaming.pace import Pace
from prernn.streaming.prediction import predictions
from prernn.streaming.resets import Cut, Idle
from prernn.streaming.rows import json_rows
from prernn.streaming.sources.frames import SourceFrame
from prernn.streaming.sources.moments import moments
from prernn.streaming.sources.source import Source
from prernn.streaming.stream import Stream
from prernn.streaming.watch import watch
from prernn.tasks.action.watcher import stream_video
from streamed_networks import network, pictures

LOST = VideoError("camera:0: lost")
ABSENT = VideoError("camera:0: cannot open this camera: No such device")
FAST = {"reconnect": 1, "back_off": (0.01, 0.05)}

pytestmark = pytest.mark.filterwarnings("ignore:camera", "ignore:the network does not say")


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("drop", ["none", "every:3", "oldest"])
def test_rows_add_up_to_what_was_lost(play, drop):
    play([number / 10 for number in range(7)], [number / 10 for number in range(8)], [ABSENT])
    source, out = Source("camera:0", drop=drop, **FAST), io.StringIO()
    with pytest.raises(VideoError, match="for good"):
        stream_video(network(), source, csv=out)
    rows = table(out.getvalue())
    assert list(rows[0]) == ["frame", "time_s", "label", "probability", "latency_ms", "dropped", "reconnected"]
    assert len(rows) == source.counts.shown
    after = 1 if drop == "every:3" else 0  # of eight frames the last comes after the last that is shown
    assert sum(int(row["dropped"]) for row in rows) == source.counts.dropped - after
    assert sum(int(row["reconnected"]) for row in rows) == source.counts.reconnected == 1
    times = [float(row["time_s"]) for row in rows]
    assert times == sorted(times)


def test_rows_of_what_can_lose_nothing_are_as_ever(clip, play):
    out = io.StringIO()
    stream_video(network(), clip, csv=out)
    assert out.getvalue().splitlines()[0] == "frame,time_s,label,probability,latency_ms"
    out = io.StringIO()
    stream_video(network(), Source(clip, drop="every:2"), csv=out)
    assert [row["dropped"] for row in table(out.getvalue())] == ["0", "1", "1", "1"]


def test_predictions_tell_it_too(play):
    play([0.0, 0.1, 0.2], [0.0, 0.1, 0.2, 0.3], [ABSENT])
    found = predictions(Stream(network()), Source("camera:0", drop="every:2", **FAST))
    seen = [(p.dropped, p.reconnected) for p in until_lost(found)]
    assert seen == [(0, 0), (1, 0), (0, 1), (1, 0)]


def until_lost(found):
    try:
        yield from found
    except VideoError:
        return


def test_snippets_tell_what_was_lost_since_the_one_before(play, snippet_net):
    play([number / 10 for number in range(16)])
    found = list(predictions(Stream(snippet_net), Source("camera:0", drop="every:2", reconnect="never")))
    assert [p.dropped for p in found] == [3, 4]  # four frames a snippet, and one left out before each but the first


class Sayer:
    """A watcher whose rows are dicts, one every second frame."""

    def __init__(self):
        self.gaps = []

    def see(self, index, time, frame):
        self.index = index
        return [{"frame": index}] if index % 2 else []

    def interrupted(self):
        self.gaps.append(self.index + 1)

    def finish(self):
        return [{"frame": "last"}]

    def draw(self, frame):
        return frame


def test_rows_that_are_dicts_have_it_where_there_is_something(play):
    play([0.0, 0.1, 0.2], [number / 10 for number in range(6)], [ABSENT])
    out, watcher, rows = io.StringIO(), Sayer(), []
    with pytest.raises(VideoError):
        watch(watcher, Source("camera:0", drop="none", **FAST), rows=json_rows(out, lost=True), on_row=rows.append)
    assert rows == [
        {"frame": 1}, {"frame": 3, "reconnected": 1}, {"frame": 5}, {"frame": 7}, {"frame": "last"}
    ]  # fmt: skip
    written = [json.loads(line) for line in out.getvalue().splitlines()]
    assert written == [{"frame": row["frame"], "dropped": 0, "reconnected": row.get("reconnected", 0)} for row in rows]
    assert watcher.gaps == [3]


def test_dicts_of_what_can_lose_nothing_are_as_ever(clip):
    out = io.StringIO()
    watch(Sayer(), clip, rows=json_rows(out))
    assert "dropped" not in out.getvalue()


def test_a_clock_that_leaves_out_frames_loses_none_of_what_they_say():
    """A source of three times the network's rate is lost twice, each time before a frame that the clock drops."""
    frames = [SourceFrame(k, k / 30, numbered(k), dropped=k % 3, reconnected=k in (10, 20)) for k in range(30)]
    seen = list(moments(frames, Pace(10.0)))
    assert len(seen) == 10
    assert sum(moment.dropped for moment in seen) == sum(frame.dropped for frame in frames[:28])
    assert [k for k, moment in enumerate(seen) if moment.reconnected] == [4, 7]


def test_dropped_frames_are_held_by_the_clock():
    """Every third frame is lost: the network sees a picture a tick all the same, and times stay true."""
    frames = [SourceFrame(k, k / 10, numbered(k)) for k in range(60) if k < 30 or k % 3]
    pace = Pace(10.0)
    seen = list(moments(frames, pace))
    assert [moment.time for moment in seen] == pytest.approx([k / 10 for k in range(60)])
    assert pace.counts.held == 10


def test_jumps_are_counted_by_the_clock():
    frames = [SourceFrame(k, k / 10, numbered(k), jumps=(2.0, 1.0) if k == 5 else ()) for k in range(9)]
    pace = Pace(10.0)
    with pytest.warns(RuntimeWarning, match="jump back, by 2 s"):
        list(moments(frames, pace))
    assert pace.counts.back == 2


def test_a_lost_connection_is_a_cut_and_for_idleness_a_matter_of_time():
    still = torch.zeros(16, 16, 3)
    cut, idle = Cut(), Idle(2.0)
    assert [cut.due(still, k / 10) for k in range(3)] == [False] * 3
    cut.interrupted()
    idle.due(still, 0.0)
    idle.interrupted()
    assert [cut.due(still, 1.0), cut.due(still, 1.1)] == [True, False]
    assert [idle.due(still, 1.0), idle.due(still + 50, 1.1), idle.due(still, 3.2)] == [False, False, True]


@pytest.mark.parametrize("reset", ["never", "cut", "idle:0.5", "idle:60", "every:8"])
def test_the_state_after_a_reconnection(play, reset):
    """Begins anew for "cut", and for "idle" where the gap was that long."""
    shown = pictures(1, (24, 32))[0]
    play([(number / 10, shown) for number in range(3)], [(0.0, shown), (0.1, shown)], [ABSENT])
    net = network()
    source = Source("camera:0", drop="none", reconnect=1, back_off=(0.6, 0.6))
    outputs = [p.probabilities for p in until_lost(predictions(Stream(net, reset=reset), source, rate="source"))]
    anew = torch.equal(outputs[3], Stream(net).probabilities(shown))
    assert anew == (reset in ("cut", "idle:0.5"))


@pytest.fixture
def listening():
    """Ctrl-C with Python's own handler: pytest's worker processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_source_that_hangs(listening, tmp_path):
    """No frame comes any more; files are whole, and it takes no second."""
    with LiveServer(40) as server:
        source, seen = Source(server.url, timeout=60), []

        def press():
            time.sleep(0.3)
            pressed.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        pressed = []

        def note(prediction):
            seen.append(prediction)
            if len(seen) == 10:
                server.frozen.set()
                threading.Thread(target=press, daemon=True).start()

        count = stream_video(network(), source, csv=tmp_path / "a.csv", on_prediction=note)
        assert time.monotonic() - pressed[0] < 3
        assert count == len(seen) == len(table((tmp_path / "a.csv").read_text()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained network."""
    root = tmp_path_factory.mktemp("run")
    net = NetworkSpec("timm/test_resnet", cell="gru", input="single").build(2)
    spec = {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    net.recipe = replace(net.recipe, labels=["left", "right"], transform=spec, rate=20.0)
    checkpoint.save(net, root)
    return root


def test_the_command_says_what_happened_to_the_source(run, capsys, monkeypatch):
    server, taken, take = LiveServer(40), [], Source.__next__

    def killed_after_twenty(source):
        taken.append(take(source))
        if len(taken) == 20:
            server.kill()
        return taken[-1]

    monkeypatch.setattr(Source, "__next__", killed_after_twenty)
    words = ["stream", server.url, "--checkpoint", str(run), "--drop", "every:2", "--reconnect", "1", "--timeout", "2"]
    code = main(words)
    out, err = capsys.readouterr()
    rows, said = table(out), err.splitlines()
    assert code == 2
    assert len(rows) > 10
    assert sum(int(row["dropped"]) for row in rows) >= len(rows) - 2
    assert any(line.startswith(f"prernn: {server.url}: lost at") for line in said[:-1])
    assert "and for good after a try" in said[-1]


def test_the_command_counts_in_its_last_lines(run, capsys):
    with LiveServer(40) as server:
        code = main(["stream", server.url, "--checkpoint", str(run), "--drop", "every:2", "--limit", "12"])
    out, err = capsys.readouterr()
    assert code == 0
    assert len(table(out)) == 12
    assert "frames dropped" in err
    assert err.splitlines()[-1].startswith("prernn: 12 frames at 20 frames a second")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--drop newest", "drop: expected none, oldest or every:N with N above 0, got 'newest'"),
        ("--timeout 0", "timeout: expected seconds above 0, got 0"),
        ("--reconnect often", "reconnect: expected a number of tries from 0 on, never or always, got 'often'"),
        ("--reconnect 3", "reconnect: expected a source that can be opened again"),
    ],
)
def test_mistakes_are_one_line(run, clip, capsys, words, complaint):
    assert main(["stream", str(clip), "--checkpoint", str(run), *words.split()]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in said
