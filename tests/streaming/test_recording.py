"""Clips recorded from a source: how many, of what, at what rate, and what is left where it ends early."""

import itertools
import os

import pytest

from prernn.commands import record
from prernn.commands.main import main
from prernn.media.video import probe, read_frames
from prernn.streaming.recording import Footage, clip_folder, next_free, record_keys
from prernn.streaming.sources import source
from prernn.tasks.action.lists import class_folder
from video_files import encode, grey, level


@pytest.fixture
def camera(monkeypatch):
    """Makes of times a live source, "camera:0", whose frame k is of grey level k // 5; gives its closings."""
    closed = []

    def play(times, size=lambda number: (24, 32), end=None):
        def read(address, reading):
            before, shift = 0.0, 0.0
            try:
                for number, stamp in enumerate(times):
                    if stamp + shift < before:  # mended, and said
                        reading.on_jump(before - stamp - shift)
                        shift = before + 0.1 - stamp
                    before = stamp + shift
                    yield before, lambda number=number: grey(number // 5 % 30, *size(number))
                if end is not None:
                    raise end
            finally:
                closed.append(address)

        monkeypatch.setattr(source, "read_pictures", read)
        return closed

    return play


def ten(count):
    """Times of a source of 10 frames a second."""
    return (number / 10 for number in range(count))


def levels(path):
    return [level(image) for _, image in read_frames(path)]


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


TIMED = ["record", "camera:0", "--label", "wave", "--seconds", "1", "--pause", "0.5"]


def test_clips_by_the_clock_are_what_fit_reads(camera, tmp_path, capsys):
    closed = camera(ten(10_000))
    for words in (["--times", "3"], ["--times", "1", "--part", "test"], ["--times", "2", "--label", "point"]):
        assert main([*TIMED, "--to", str(tmp_path), *words]) == 0
    assert files(tmp_path) == [
        *[f"test/wave/{number:04d}.mp4" for number in (1,)],
        *[f"train/point/{number:04d}.mp4" for number in (1, 2)],
        *[f"train/wave/{number:04d}.mp4" for number in (1, 2, 3)],
    ]
    labels, clips = class_folder(tmp_path, "train")
    assert (labels, len(clips)) == (["point", "wave"], 5)
    assert closed == ["camera:0"] * 3
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (f"prernn: 3 clips of wave at 10 frames a second: {tmp_path}/train/wave, 0001.mp4 to 0003.mp4")


def test_a_clip_is_as_long_as_asked_after_its_pause(camera, tmp_path):
    camera(ten(10_000))
    assert main([*TIMED, "--times", "3", "--to", str(tmp_path)]) == 0
    # 5 frames of pause and one that ends it, then 10 of the clip
    first = [6, 22, 38]
    for number, start in enumerate(first, 1):
        path = tmp_path / "train" / "wave" / f"{number:04d}.mp4"
        assert probe(path).fps == pytest.approx(10)
        assert levels(path) == [k // 5 for k in range(start, start + 10)]


def test_a_camera_that_falters_gives_clips_in_true_time(camera, tmp_path):
    """Every third frame from the fortieth on is lost."""
    camera(number / 10 for number in range(1000) if number < 40 or number % 3)
    words = ["--times", "2", "--seconds", "6", "--to", str(tmp_path)]
    assert main([*TIMED, *words]) == 0
    assert len(levels(tmp_path / "train/wave/0002.mp4")) == 60


def test_nothing_is_overwritten(camera, tmp_path):
    folder = tmp_path / "train" / "wave"
    folder.mkdir(parents=True)
    for name in ("0002.mp4", "0007.avi", "notes.txt", "12a.mp4"):
        (folder / name).write_text(name)
    camera(ten(1000))
    assert main([*TIMED, "--times", "2", "--to", str(tmp_path)]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "0002.mp4", "0007.avi", "notes.txt", "12a.mp4", "0008.mp4", "0009.mp4"
    }  # fmt: skip
    assert (folder / "0002.mp4").read_text() == "0002.mp4"
    assert next_free(folder).name == "0010.mp4"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_what_is_cut_short_is_left_out(camera, tmp_path, capsys, stop):
    """Ctrl-C, or the source's end, within the second clip."""
    closed = camera(ten(27), end=stop)
    code = main([*TIMED, "--times", "5", "--to", str(tmp_path)])
    said = capsys.readouterr().err
    assert files(tmp_path) == ["train/wave/0001.mp4"]
    assert "1 clip of wave" in said
    assert closed == ["camera:0"]
    assert code == (130 if stop else 2)
    assert stop or "camera:0: ended before the last clip was whole" in said


def test_frames_of_another_size_are_scaled(camera, tmp_path):
    camera(ten(100), size=lambda number: (24, 32) if number < 10 else (48, 64))
    assert main([*TIMED, "--times", "1", "--to", str(tmp_path)]) == 0
    assert {image.shape for _, image in read_frames(tmp_path / "train/wave/0001.mp4")} == {(24, 32, 3)}


def test_odd_stamps_are_counted_and_no_crash(camera, tmp_path, capsys):
    camera(number / 10 if number < 30 else number / 10 - 2 for number in range(100))
    assert main([*TIMED, "--times", "3", "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "jump back" in said
    assert "of the source's frames 1 jumps back in time" in said
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_any_source_is_recorded_at_its_rate(tmp_path, kind):
    if kind == "file":
        path, rate = encode(tmp_path / "a.mp4", [grey(i % 30) for i in range(60)], rate=12), 12
    else:
        from PIL import Image

        path, rate = tmp_path / "frames", 25
        path.mkdir()
        for number in range(80):
            Image.fromarray(grey(number % 30)).save(path / f"{number}.png")
    words = ["record", str(path), "--to", str(tmp_path / "out"), "--label", "a", "--times", "2", "--pause", "0.2"]
    assert main([*words, "--seconds", "1"]) == 0
    for clip in files(tmp_path / "out"):
        assert probe(tmp_path / "out" / clip).fps == pytest.approx(rate)
        assert len(levels(tmp_path / "out" / clip)) == rate


def keyboard(presses):
    """A keyboard on which keys are pressed at some of the times when it is asked, counted from 0."""
    asked = itertools.count()
    return lambda: presses.get(next(asked))


def recorded(tmp_path, presses):
    folders = {"w": clip_folder(tmp_path, "train", "wave"), "p": clip_folder(tmp_path, "train", "point")}
    paths = list(record_keys(Footage("camera:0"), folders, keyboard(presses), lambda line: None))
    return [(path.parent.name, path.name, len(levels(path))) for path in paths]


def test_a_key_starts_and_ends_a_clip(camera, tmp_path):
    camera(ten(200))
    presses = {3: "w", 10: "w", 20: "p", 31: "w", 40: "w", 50: "q", 55: "w"}
    clips = [("wave", "0001.mp4", 7), ("point", "0001.mp4", 11), ("wave", "0002.mp4", 9)]
    assert recorded(tmp_path, presses) == clips
    assert levels(tmp_path / "train/wave/0001.mp4") == [k // 5 for k in range(3, 10)]
    assert levels(tmp_path / "train/wave/0002.mp4") == [k // 5 for k in range(31, 40)]


@pytest.mark.parametrize(
    ("presses", "clips"),
    [
        ({}, []),
        ({0: "q"}, []),
        ({2: "w", 3: "w"}, [1]),
        ({2: "w", 8: "q"}, [6]),
        ({2: "w", 8: ""}, [6]),
        ({30: "w"}, [10]),
    ],
    ids=str,
)
def test_another_key_and_the_end_of_the_source_end_it(camera, tmp_path, presses, clips):
    camera(ten(40))
    assert [length for _, _, length in recorded(tmp_path, presses)] == clips


def test_keys_from_the_command_line(camera, tmp_path, monkeypatch, capsys):
    import contextlib

    camera(ten(100))
    monkeypatch.setattr(record, "terminal_keys", lambda: contextlib.nullcontext(keyboard({2: "w", 9: "w", 12: "x"})))
    assert main(["record", "camera:0", "--to", str(tmp_path), "--keys", "w=wave, p=point"]) == 0
    assert files(tmp_path) == ["train/wave/0001.mp4"]
    assert "1 clip of wave at 10 frames a second" in capsys.readouterr().err


def test_keys_of_a_terminal(monkeypatch):
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with record.terminal_keys() as key:
            assert key() is None
            os.write(master, b"w")
            assert next(pressed for pressed in iter(key, 0) if pressed) == "w"
            os.write(master, b"\x1b[A")  # an arrow
            assert next(pressed for pressed in iter(key, 0) if pressed) == "\x1b"
            assert key() is None
    os.close(master)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "expected --label, for clips by the clock, or --keys"),
        ("--label a --keys a=b", "expected --label, for clips by the clock, or --keys"),
        ("--keys a=b --seconds 3", "--seconds: expected only with --label"),
        ("--keys wave", "one letter each, such as w=wave,p=point, got 'wave'"),
        ("--keys w=wave,w=point", "one letter each"),
        ("--keys wo=wave", "one letter each"),
        ("--keys w=wave", "a terminal to read keys from, got none"),
        ("--label ../up", "label: expected a name that a folder can have, got '../up'"),
        ("--label .hidden", "label: expected a name"),
        ("--label a --seconds 0", "expected seconds above 0, times from 1"),
        ("--label a --seconds nan", "expected seconds above 0, times from 1"),
        ("--label a --times 0", "expected seconds above 0, times from 1"),
        ("--label a --pause -1", "a pause from 0"),
        ("--label a --part tset", "did you mean test?"),
    ],
)
def test_mistakes_are_one_line(camera, tmp_path, capsys, words, complaint):
    camera(ten(100))
    assert main(["record", "camera:0", "--to", str(tmp_path), *words.split()]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in said
    assert files(tmp_path) == []


def test_sources_that_are_none(tmp_path, capsys):
    assert main(["record", "absent.mp4", "--to", str(tmp_path), "--label", "a"]) == 2
    assert "absent.mp4: no such file" in capsys.readouterr().err
    assert main(["record", "-", "--to", str(tmp_path), "--keys", "a=b"]) == 2
    assert "expected standard input to be the keyboard" in capsys.readouterr().err


def test_the_rate_of_a_live_source_is_that_of_its_first_frames(camera):
    for times, rate in (
        ([number / 30 for number in range(40)], 30),
        ([0.0, 0.9, *(1 + number / 30 for number in range(40))], 30),  # slow to begin
        ([0.0] * 40, 25),  # no clock
        ([0.0], 25),
    ):
        camera(times)
        assert Footage("camera:0").rate == pytest.approx(rate)
