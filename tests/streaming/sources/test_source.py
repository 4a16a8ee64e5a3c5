"""A source that is lost and comes back, without a network: fake cameras, files and named pipes."""

import gc
import itertools
import os
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import prernn
from live_servers import await_end_of_reading, number_of, numbered
from prernn.media.source import VideoError
from prernn.media.video import read_frames
from prernn.streaming.sources import source as module
from prernn.streaming.sources.clock import Clock
from prernn.streaming.sources.reading import Arrived
from prernn.streaming.sources.source import MOST_LEFT, Source
from video_files import encode, grey, level

FAST = {"back_off": (0.01, 0.05)}
LOST = VideoError("camera:0: truncated or damaged after so many frames: Input/output error")
ABSENT = VideoError("camera:0: cannot open this camera: No such device")


def tenths(count):
    return [number / 10 for number in range(count)]


def drained(source):
    """A source's frames before its error, and the error."""
    frames = []
    try:
        for frame in source:
            frames.append(frame)
    except VideoError as error:
        return frames, str(error)
    return frames, None


@pytest.fixture
def files(tmp_path):
    """A video and a folder of frames of the same pictures."""
    (tmp_path / "frames").mkdir()
    for number in range(12):
        Image.fromarray(grey(number)).save(tmp_path / "frames" / f"{number}.png")
    return encode(tmp_path / "a.mp4", [grey(number) for number in range(12)]), tmp_path / "frames"


def test_a_file_is_read_as_ever(files):
    for path in files:
        with prernn.Source(path) as source:
            frames = list(source)
        assert source.lossless
        assert [frame.index for frame in frames] == list(range(12))
        for frame, (stamp, picture) in zip(frames, read_frames(path), strict=True):
            assert frame.time == stamp
            assert np.array_equal(frame.picture, picture)
        assert (source.counts.read, source.counts.shown, str(source.counts)) == (12, 12, "")


@pytest.mark.parametrize("every", [1, 2, 5, 20])
def test_every_nth_frame_of_a_file(files, every):
    for path in files:
        source = Source(path, drop=f"every:{every}")
        frames = list(source)
        assert [level(frame.picture) for frame in frames] == list(range(0, 12, every))
        assert [frame.dropped for frame in frames] == [0, *[every - 1] * (len(frames) - 1)]
        assert (source.counts.read, source.counts.dropped) == (12, 12 - len(frames))


def test_what_is_read_ahead_is_not_counted_when_it_is_left(files):
    with Source(files[0], queue=3) as source:
        frame = next(source)
        time.sleep(0.1)
    assert (frame.index, source.counts.read, source.counts.shown, source.counts.dropped) == (0, 1, 1, 0)
    assert list(source) == []


def test_a_source_that_is_forgotten_leaves_no_thread(files):
    source = Source(files[0])
    next(source)
    del source
    gc.collect()  # the fixture waits for the thread


@pytest.mark.parametrize("options", [{}, {"drop": "none"}, {"drop": "every:2"}, {"drop": "oldest", "queue": 3}])
def test_a_lost_source_comes_back(play, options):
    opened = play([*tenths(5), LOST], [ABSENT], [*tenths(3)], [*tenths(2), LOST], [*tenths(9)], [ABSENT])
    source = Source("camera:0", timeout=5, reconnect=2, **FAST, **options)
    with pytest.warns(RuntimeWarning, match="camera:0: lost at .* connecting again"):
        frames, error = drained(source)
    assert "for good after 2 tries: cannot open this camera" in error
    assert len(opened) == 7
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert sum(frame.reconnected for frame in frames) == source.counts.reconnected == 3
    assert source.counts.tries == 6
    assert sum(frame.dropped for frame in frames) <= source.counts.dropped  # "every:2" leaves out some after the last
    assert source.counts.read == source.counts.shown + source.counts.dropped
    assert len(frames) == source.counts.shown


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    drop=st.sampled_from(["none", "oldest", "every:2", "every:3"]),
    queue=st.integers(1, 4),
    errors=st.booleans(),
)
def test_laws_over_reconnections(play, lengths, drop, queue, errors):
    """Frames come in order and once, times never run back, and what was read was shown or dropped, however often."""
    lengths = [lengths[0] + 1, *lengths[1:]]  # one that never gave a frame is not tried again
    play(*[[*tenths(length), *([LOST] if errors else [])] for length in lengths], [ABSENT])
    source = Source("camera:0", drop=drop, queue=queue, reconnect=8, back_off=(0.001, 0.002))
    with pytest.warns(RuntimeWarning), pytest.raises(VideoError, match="and for good after 8 tries"):
        list(source)
    assert source.counts.read == source.counts.shown + source.counts.dropped == sum(lengths)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    drop=st.sampled_from(["none", "oldest", "every:2", "every:3"]),
    queue=st.integers(1, 4),
)
def test_laws_of_each_frame(play, lengths, drop, queue):
    play(*[tenths(length) for length in lengths], [ABSENT])
    source = Source("camera:0", drop=drop, queue=queue, reconnect=1, back_off=(0.001, 0.002))
    with pytest.warns(RuntimeWarning):
        frames, error = drained(source)
    assert "for good after a try" in error
    starts = np.cumsum([0, *lengths])
    assert [number_of(frame.picture) for frame in frames] == [
        frame.index - starts[np.searchsorted(starts, frame.index, side="right") - 1] for frame in frames
    ]
    assert [frame.dropped for frame in frames] == list(np.diff([-1, *[frame.index for frame in frames]]) - 1)
    assert all(later.time >= earlier.time for earlier, later in itertools.pairwise(frames))
    if drop == "none":
        assert [frame.index for frame in frames] == list(range(sum(lengths)))
    if drop == "oldest":  # the newest of each connection is kept
        assert {end - 1 for end in starts[1:]} <= {frame.index for frame in frames}


def test_times_go_on_with_the_gap_of_real_time(play):
    play(tenths(3), [0.0, Sleep(0.1), 0.1, Sleep(0.1), 0.2])
    with Source("camera:0", drop="none", back_off=(0.3, 1)) as source, pytest.warns(RuntimeWarning, match="back after"):
        frames = [next(source) for _ in range(6)]
    times = [frame.time for frame in frames]
    assert times[:3] == [0, 0.1, 0.2]
    gap = frames[3].arrived - frames[2].arrived
    assert gap >= 0.3
    assert times[3:] == pytest.approx([0.2 + gap, 0.3 + gap, 0.4 + gap])


class Sleep(NamedTuple):
    """What a fake camera waits for."""

    seconds: float

    def wait(self):
        time.sleep(self.seconds)


def test_frames_that_come_at_once_after_a_reconnection_do_not_make_time_run_ahead(play):
    """FFmpeg looks at some seconds of a stream when it opens it, then gives them: three seconds come in no time."""
    burst = [0.0, *tenths(30), Sleep(0.1), 3.0, Sleep(0.1), 3.1]
    play([0.0, 0.1, LOST], burst)
    with Source("camera:0", drop="none", **FAST) as source, pytest.warns(RuntimeWarning, match="back after"):
        frames = [next(source) for _ in range(35)]
    waited = frames[-1].arrived - frames[1].arrived
    assert frames[-1].time - frames[1].time == pytest.approx(waited, abs=0.05)
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert times[-1] - times[-2] == pytest.approx(0.1)


def test_a_file_that_is_written_into_a_pipe_twice_keeps_its_time():
    clock, at = Clock(bursts=False), 100.0
    times = []
    for connection in range(2):
        for number in range(5):
            at += 0.001
            times.append(clock.time_of(Arrived(number, number / 10, numbered(0), at), connection > 0 and number == 0))
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.401, 0.501, 0.601, 0.701, 0.801])


def test_a_source_is_given_up_after_so_many_tries(play):
    opened = play([*tenths(2), LOST], [ABSENT])
    source = Source("camera:0", reconnect=3, drop="none", back_off=(0.01, 0.02))
    assert [next(source).index, next(source).index] == [0, 1]
    message = r"^camera:0: lost at 0\.1 s, and for good after 3 tries: cannot open"
    with pytest.warns(RuntimeWarning), pytest.raises(VideoError, match=message):
        next(source)
    assert len(opened) == 4
    assert source.counts.tries == 3
    assert next(source, None) is None


def test_tries_count_from_the_latest_frame(play):
    opened = play(*[[0.0, LOST], [ABSENT]] * 6, [ABSENT])
    with pytest.warns(RuntimeWarning), pytest.raises(VideoError, match="for good after 2 tries"):
        for _ in Source("camera:0", reconnect=2, back_off=(0.001, 0.002)):
            pass
    assert len(opened) == 13


@pytest.mark.parametrize("connection", [[ABSENT], [LOST], []])
def test_what_never_gave_a_frame_is_not_tried_again(play, connection):
    opened = play(connection)
    with pytest.raises(VideoError, match="camera:0: "):
        next(Source("camera:0"))
    assert len(opened) == 1


def test_never_is_as_it_was(play):
    play([*tenths(2), LOST])
    source = Source("camera:0", drop="none", reconnect="never")
    assert [next(source).index, next(source).index] == [0, 1]
    with pytest.raises(VideoError, match="damaged after so many frames"):
        next(source)
    play(tenths(4))
    assert len(list(Source("camera:0", drop="none", reconnect="never"))) == 4  # the end is the end


def test_an_error_that_is_no_video_error_is_not_tried_again(play):
    opened = play([*tenths(2), KeyError("a bug")])
    with pytest.raises(KeyError, match="a bug"):
        list(Source("camera:0", drop="none"))
    assert len(opened) == 1


def test_a_reader_that_hangs_is_left_behind_and_delivers_nothing(play):
    """As a driver that blocks: it wakes up at last, and its frames go nowhere."""
    driver = threading.Event()
    play([*tenths(3), driver, *[9.0] * 50], tenths(40))
    source = Source("camera:0", drop="none", timeout=0.2, back_off=(0.05, 0.1))
    before = [next(source) for _ in range(3)]
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"lost at 0\.2 s, connecting again: no frame for 0\.2 s"):
        after = [next(source)]
    assert 0.2 <= time.monotonic() - start < 1.5
    driver.set()
    time.sleep(0.05)
    after += [next(source) for _ in range(39)]
    source.close()
    assert [number_of(frame.picture) for frame in (*before, *after)] == [0, 1, 2, *range(40)]
    assert [frame.index for frame in (*before, *after)] == list(range(43))
    counts = source.counts
    assert (counts.timeouts, counts.abandoned, counts.reconnected, counts.dropped) == (1, 1, 1, 0)
    assert str(counts) == (
        "reconnected once, 1 try to connect again, no frame for too long once, 1 reader left hanging"
    )


def test_so_many_readers_may_hang(play, monkeypatch):
    monkeypatch.setattr(module, "OPENING", 0.0)
    driver = threading.Event()
    opened = play([0.0, driver])
    source = Source("camera:0", timeout=0.05, reconnect="always", back_off=(0.01, 0.01))
    try:
        with pytest.warns(RuntimeWarning), pytest.raises(VideoError, match="5 readers hang in its driver or socket"):
            for _ in source:
                pass
        assert len(opened) == source.counts.abandoned == MOST_LEFT + 1
    finally:
        driver.set()


@pytest.mark.filterwarnings("ignore:camera")
def test_waiting_can_be_stopped(play):
    """In a read that hangs and in a pause between tries, as Ctrl-C does."""
    driver = threading.Event()
    try:
        for connections in ([[0.0, driver]], [[0.0, LOST], [ABSENT]]):
            play(*connections)
            source = Source("camera:0", reconnect="always", back_off=(60, 60))
            next(source)
            threading.Timer(0.2, source.stop).start()
            start = time.monotonic()
            assert next(source, None) is None
            assert time.monotonic() - start < 3
    finally:
        driver.set()


def test_sizes_may_change(play, tmp_path):
    play([(0.0, numbered(1)), (0.1, numbered(2, 96, 128)), (0.2, numbered(3, 96, 128)), (0.3, numbered(4))])
    frames = list(source := Source("camera:0", drop="none", reconnect="never"))
    assert [frame.resized for frame in frames] == [False, True, False, True]
    assert (source.counts.resized, str(source.counts)) == (2, "its size changed 2 times")


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".mpg", "mpeg2video"), (".h264", "libx264")])
def test_a_file_may_change_its_size(tmp_path, suffix, codec):
    from fractions import Fraction

    parts = [
        encode(tmp_path / f"{n}{suffix}", [grey(i, *size) for i in range(6)], codec=codec, aspect=Fraction(aspect))
        for n, (size, aspect) in enumerate((((48, 64), "4/3"), ((96, 128), "1"), ((48, 64), "1")))
    ]
    path = tmp_path / f"all{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(source := Source(path))
    if codec == "libx264":  # MPEG-2 knows the aspects of screens alone
        shapes = [frame.picture.shape[:2] for frame in frames]
        assert shapes == [(48, 85)] * 6 + [(96, 128)] * 6 + [(48, 64)] * 6
    assert len(frames) >= 15
    assert source.counts.resized == 2


def test_a_folder_may_change_its_size(files):
    Image.fromarray(grey(3, 20, 20)).save(files[1] / "3.png")
    source = Source(files[1])
    assert [level(frame.picture) for frame in source] == list(range(12))
    assert source.counts.resized == 2


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def write(pipe, data, hold):
    """Writes into a pipe and keeps it open."""

    def run():
        with open(pipe, "wb") as file:
            file.write(data)
            file.flush()
            hold.wait()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@needs_pipes
def test_a_pipe_whose_writer_hangs(pipe, tmp_path):
    """FFmpeg would block in read(2), which no time limit of its own ends: the thread goes while the writer hangs."""
    data = encode(tmp_path / "a.ts", [grey(i % 30) for i in range(200)], options={"bf": "0"}).read_bytes()
    hold = threading.Event()
    writer = write(pipe, data, hold)
    source = Source(pipe, timeout=0.4)
    try:
        frames, error = drained(source)
        assert error == f"{pipe}: no frame for 0.4 s"
        assert 0.4 <= time.monotonic() - frames[-1].arrived < 2
        levels = [level(frame.picture) for frame in frames]
        assert len(levels) > 100
        assert levels == [number % 30 for number in range(len(levels))]
        await_end_of_reading()
    finally:
        hold.set()
        writer.join(5)


@needs_pipes
def test_a_pipe_can_be_opened_again_when_asked(pipe, tmp_path):
    data = encode(tmp_path / "a.ts", [grey(i) for i in range(9)]).read_bytes()
    done = threading.Event()
    done.set()
    source = Source(pipe, reconnect=5, back_off=(0.05, 0.1))
    write(pipe, data, done)
    levels = [level(next(source).picture) for _ in range(9)]
    await_end_of_reading()  # else the second writer may find the first reader, and its frames would be lost
    write(pipe, data, done)
    with pytest.warns(RuntimeWarning, match="it ended"):
        levels += [level(next(source).picture) for _ in range(9)]
    source.close()
    assert levels == [*range(9)] * 2
    assert source.counts.reconnected == 1


@needs_pipes
def test_a_pipe_that_nobody_writes(pipe, monkeypatch):
    monkeypatch.setattr(module, "OPENING", 0.2)
    with pytest.raises(VideoError, match=r"pipe: no frame for 0\.2 s"):
        next(Source(pipe, timeout=0.1))
    await_end_of_reading()


@needs_pipes
def test_a_pipe_whose_writer_comes_late_and_leaves_early(pipe, tmp_path):
    data = encode(tmp_path / "a.ts", [grey(i) for i in range(9)]).read_bytes()
    source = Source(pipe)
    threading.Timer(0.5, lambda: pipe.write_bytes(data)).start()
    assert [level(frame.picture) for frame in source] == [*range(9)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"drop": "newest"}, "drop: expected none, oldest or every:N"),
        ({"queue": 0}, "queue: expected a whole number of at least 1, got 0"),
        ({"timeout": 0}, "timeout: expected seconds above 0, got 0"),
        ({"timeout": float("nan")}, "timeout: expected seconds above 0"),
        ({"reconnect": -1}, "reconnect: expected a number of tries from 0 on, never or always, got -1"),
        ({"reconnect": "often"}, "never or always, got 'often'"),
        ({"reconnect": 1.5}, "never or always, got 1.5"),
    ],
)
def test_mistakes(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Source("camera:0", **options)


def test_what_cannot_be_opened_again(files):
    for address in (*files, "-"):
        with pytest.raises(ValueError, match="expected a source that can be opened again, got"):
            Source(address, reconnect=2)
    with pytest.raises(VideoError, match="no such file"):
        Source("absent.mp4")
