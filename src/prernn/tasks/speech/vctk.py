"""VCTK's folders: sound, texts, speakers, and which speakers are for the test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOUND = ("wav48_silence_trimmed", "wav48")
"""Folders of sound, in version 0.92 and in earlier ones; the first that exists is used."""

MICROPHONES = ("_mic1", "")
"""Suffixes of a recording's name after that of its text; of two microphones the first is used."""

SUFFIXES = (".flac", ".wav")

HELD_OUT = 10
"""One speaker in this many is for the test by default, starting from the last in order of names."""


@dataclass(frozen=True)
class Utterance:
    """A recording and its text.

    Attributes:
        path: path of the sound.
        text: path of the file with what is said.
        speaker: who speaks.
    """

    path: str
    text: str
    speaker: str


def utterances(root: Path) -> dict[str, Utterance]:
    """All recordings below ``root`` by ``SPEAKER/NAME``, in the order of names.

    Raises:
        ValueError: no folder of sound, or no recordings in it.
    """
    folder = next((root / name for name in SOUND if (root / name).is_dir()), None)
    if folder is None:
        raise ValueError(f"{root}: expected VCTK's folders, {' or '.join(SOUND)}, and txt, found none of the first")
    found: dict[str, Utterance] = {}
    for path in sorted(folder.glob("*/*")):
        name = _name(path)
        if name is not None:
            key = f"{path.parent.name}/{name}"
            found[key] = Utterance(str(path), str(root / "txt" / f"{key}.txt"), path.parent.name)
    if not found:
        raise ValueError(f"{folder}: expected recordings SPEAKER/NAME.wav or .flac, found none")
    return found


def _name(path: Path) -> str | None:
    """A recording's name without its microphone; None for the other microphone, and for other files."""
    if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
        return None
    stem, found, microphone = path.stem.partition("_mic")
    return stem if found + microphone in MICROPHONES else None


def split(root: Path, test_speakers: Sequence[str] | None = None) -> dict[str, list[Utterance]]:
    """The recordings of "train" and "test".

    Args:
        root: the folder.
        test_speakers: speakers whose recordings are the test. None takes the lists ``train.txt`` and ``test.txt``, one
            ``SPEAKER/NAME`` per line, if both exist; otherwise every tenth speaker is for the test.

    Raises:
        ValueError: as in `utterances`; a listed recording, or a speaker, that does not exist; only one speaker.
    """
    known = utterances(root)
    lists = {part: root / f"{part}.txt" for part in ("train", "test")}
    there = [file for file in lists.values() if file.is_file()]
    if test_speakers is None and there:
        if len(there) == 1:
            raise ValueError(f"{root}: expected train.txt and test.txt, or neither, found only {there[0].name}")
        parts = {part: _listed(file, known) for part, file in lists.items()}
        if both := {one.path for one in parts["train"]} & {one.path for one in parts["test"]}:
            raise ValueError(f"{lists['test']}: expected recordings that are not in train.txt, got {min(both)} in both")
        return parts
    speakers = sorted({one.speaker for one in known.values()})
    if test_speakers is None:
        test_speakers = speakers[::-1][::HELD_OUT]
    if unknown := sorted(set(test_speakers) - set(speakers)):
        raise ValueError(f"test_speakers: expected some of {', '.join(speakers)}, got {', '.join(unknown)}")
    parts = {"train": [], "test": []}
    for one in known.values():
        parts["test" if one.speaker in test_speakers else "train"].append(one)
    if empty := [part for part, found in parts.items() if not found]:
        raise ValueError(f"{root}: expected speakers for training and for the test, got none for {empty[0]}")
    return parts


def _listed(file: Path, known: dict[str, Utterance]) -> list[Utterance]:
    found = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not (name := line.strip()):
            continue
        if name not in known:
            raise ValueError(f"{file}, line {number}: expected an existing recording, got {name!r:.80}")
        found.append(known[name])
    if not found:
        raise ValueError(f"{file}: expected recordings SPEAKER/NAME, a line each, found none")
    return found
