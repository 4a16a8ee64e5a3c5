"""``prernn record``: labeled clips from a camera or another source, for ``prernn fit``."""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from prernn.commands.arguments.command import Command, given, saying_warnings

PARTS = ("train", "test", "val")
"""The folders of a data set."""

TIMED = {"seconds": 3.0, "times": 10, "pause": 2.0}
"""The defaults of ``--label``."""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn record``."""
    add = parser.add_argument
    add("source", help="camera:0, rtsp/http URL, named pipe, - for standard input, video file or folder of frames")
    add("--to", required=True, help="folder of the data set; clips go to TO/train/LABEL/0001.mp4 and so on")
    add("--part", choices=PARTS, default="train", help="which part of the data set (default train)")
    add("--label", help="record clips of this label on a timer")
    add("--seconds", type=float, help=f"length of each clip (default {TIMED['seconds']:g})")
    add("--times", type=int, help=f"number of clips (default {TIMED['times']})")
    add("--pause", type=float, help=f"seconds before each clip, counted down (default {TIMED['pause']:g})")
    add("--timeout", type=float, help="seconds without a frame after which a live source counts as lost (default 10)")
    add(
        "--keys",
        help="record by keys, such as w=wave,p=point: each starts and ends a clip of its label, any other key quits",
    )


def run(options: Namespace) -> None:
    """Records, and reports at the end, for whatever reason it comes, which clips there are."""
    from prernn.streaming.recording import Footage, clip_folder, record_keys, record_times

    timed = given(options, *TIMED)
    if (options.label is None) == (options.keys is None):
        raise ValueError("expected --label, for clips by the clock, or --keys, for clips by keys")
    if options.keys is not None and timed:
        raise ValueError(f"--{next(iter(timed))}: expected only with --label, got it with --keys")
    if options.keys is not None and options.source == "-":
        raise ValueError("--keys: expected standard input to be the keyboard, got the video from it")
    labels = {"": options.label} if options.keys is None else keys_in(options.keys)
    folders = {key: clip_folder(options.to, options.part, label) for key, label in labels.items()}
    clips: list[Path] = []
    with saying_warnings(), contextlib.ExitStack() as stack:
        # the keyboard first: an impossible option should not turn on the camera
        key = stack.enter_context(terminal_keys()) if options.keys is not None else None
        footage = stack.enter_context(contextlib.closing(Footage(options.source, options.timeout)))
        stack.callback(lambda: _say_written(clips, footage.rate, str(footage.counts)))
        say = stack.enter_context(_shown())
        if key is None:
            recording = record_times(footage, folders[""], **{**TIMED, **timed}, say=say)
        else:
            recording = record_keys(footage, folders, key, say)
        for path in recording:
            clips.append(path)
    if not clips:
        print("prernn: no clip was recorded", file=sys.stderr)


def keys_in(text: str) -> dict[str, str]:
    """Labels by key, from ``w=wave,p=point``.

    Raises:
        ValueError: the text has another form, or a key has several letters or is given twice.
    """
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    keys = {key: label for key, _, label in pairs}
    if len(keys) < len(pairs) or any(len(key) != 1 or not label for key, _, label in pairs):
        raise ValueError(f"--keys: expected one letter each, such as w=wave,p=point, got {text!r}")
    return keys


@contextlib.contextmanager
def terminal_keys() -> Iterator[Callable[[], str | None]]:
    """Yields a function that returns the key pressed since the last call, without waiting for Return; None for none.

    Raises:
        ValueError: standard input is not a terminal.
        NotImplementedError: the system has no termios.
    """
    import os
    import select

    try:
        import termios
        import tty
    except ImportError:
        raise NotImplementedError("--keys: expected a terminal of Unix; --label records by the clock") from None
    if not sys.stdin.isatty():
        raise ValueError("--keys: expected a terminal to read keys from, got none; --label records by the clock")
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def key() -> str | None:
        if not select.select([number], [], [], 0)[0]:
            return None
        pressed = os.read(number, 32).decode(errors="ignore")  # an arrow key sends several bytes
        return pressed[:1]  # empty at the end of input, which is not the key of any label

    try:
        tty.setcbreak(number)
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a line in place of the previous one."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        latest = ""

        def say(line: str) -> None:
            nonlocal latest
            if line != latest:
                latest = line
                live.update(Text(line), refresh=True)

        yield say


def _say_written(clips: list[Path], rate: float, odd: str) -> None:
    """Prints one line per label: how many clips there are now, and where."""
    folders = dict.fromkeys(path.parent for path in clips)
    for folder in folders:
        names = [path.name for path in clips if path.parent == folder]
        which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        count = f"{len(names)} clip{'s' * (len(names) > 1)}"
        print(f"prernn: {count} of {folder.name} at {rate:.4g} frames a second: {folder}, {which}", file=sys.stderr)
    if odd:
        print(f"prernn: of the source's frames {odd}", file=sys.stderr)


RECORD = Command("record labeled clips from a camera, to train on", run, add_arguments)
