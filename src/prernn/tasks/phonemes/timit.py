"""TIMIT's folders: recordings with the phonemes in them, who speaks, and which phonemes count as one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prernn.media.video import VideoError

FOLDED = {
    "ao": "aa",
    "ax": "ah",
    "ax-h": "ah",
    "axr": "er",
    "hv": "hh",
    "ix": "ih",
    "el": "l",
    "em": "m",
    "en": "n",
    "nx": "n",
    "eng": "ng",
    "zh": "sh",
    "ux": "uw",
    **dict.fromkeys(("pcl", "tcl", "kcl", "bcl", "dcl", "gcl", "h#", "pau", "epi"), "sil"),
}
"""TIMIT's symbols, of 61, that count as another (Lee and Hon, "Speaker-independent phone recognition using hidden
Markov models", IEEE Trans. ASSP 37, 1989); 39 remain, with ``sil`` for all silences."""

LEFT_OUT = "q"
"""The glottal stop, which is ignored."""

PHONES = frozenset(
    [
        "aa",
        "ae",
        "ah",
        "ao",
        "aw",
        "ax",
        "ax-h",
        "axr",
        "ay",
        "b",
        "bcl",
        "ch",
        "d",
        "dcl",
        "dh",
        "dx",
        "eh",
        "el",
        "em",
        "en",
        "eng",
        "epi",
        "er",
        "ey",
        "f",
        "g",
        "gcl",
        "h#",
        "hh",
        "hv",
        "ih",
        "ix",
        "iy",
        "jh",
        "k",
        "kcl",
        "l",
        "m",
        "n",
        "ng",
        "nx",
        "ow",
        "oy",
        "p",
        "pau",
        "pcl",
        "q",
        "r",
        "s",
        "sh",
        "t",
        "tcl",
        "th",
        "uh",
        "uw",
        "ux",
        "v",
        "w",
        "y",
        "z",
        "zh",
    ]
)
"""TIMIT's 61 symbols."""

CORE = frozenset(
    [
        "MDAB0",
        "MWBT0",
        "FELC0",
        "MTAS1",
        "MWEW0",
        "FPAS0",
        "MJMP0",
        "MLNT0",
        "FPKT0",
        "MLLL0",
        "MTLS0",
        "FJLM0",
        "MBPM0",
        "MKLT0",
        "FNLP0",
        "MCMJ0",
        "MJDH0",
        "FMGD0",
        "MGRT0",
        "MNJM0",
        "FDHC0",
        "MJLN0",
        "MPAM0",
        "FMLD0",
    ]
)
"""Speakers of the core test set, two men and a woman from each region (TIMIT's documentation, ``testset.doc``)."""


class Segment(NamedTuple):
    """Samples ``begin`` to ``end - 1`` are of a phoneme."""

    begin: int
    end: int
    label: str


@dataclass(frozen=True)
class Recording:
    """A sentence that someone says.

    Attributes:
        path: of the sound.
        labels: file of the segments; None if there is none.
        speaker: who speaks.
    """

    path: str
    labels: str | None
    speaker: str


def recordings(root: Path, part: str) -> list[Recording]:
    """The recordings below ``root/TRAIN`` or ``root/TEST``, in upper or lower case, in the order of their paths.

    The ``sa`` sentences, which all speakers say, are excluded. A speaker is a folder.

    Raises:
        ValueError: no such folder, or an empty one.
    """
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() == part]
    if not folders:
        raise ValueError(f"{root}: expected the folder {part.upper()}, found none")
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() == ".wav" and not re.match(r"(?i)sa\d", path.name):
            found.append(Recording(str(path), _labels_of(path), path.parent.name.upper()))
    if not found:
        raise ValueError(f"{folders[0]}: expected recordings SPEAKER/NAME.WAV with NAME.PHN, found none")
    return found


def _labels_of(path: Path) -> str | None:
    names = (path.with_suffix(suffix) for suffix in (".PHN", ".phn"))
    return next((str(name) for name in names if name.is_file()), None)


def segments(recording: Recording) -> list[Segment]:
    """The phonemes of a recording, in order.

    Raises:
        VideoError: no label file, or a malformed one; the message names file and line.
    """
    if recording.labels is None:
        raise VideoError(f"{recording.path}: expected labels in {Path(recording.path).with_suffix('.PHN')}, found none")
    found: list[Segment] = []
    try:
        lines = Path(recording.labels).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{recording.labels}: can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, parts = f"{recording.labels}:{number}", line.split()
        if len(parts) != 3 or not parts[0].isdecimal() or not parts[1].isdecimal():
            raise VideoError(f"{where}: expected BEGIN END PHONEME, begin and end in samples, got {line!r}")
        begin, end = int(parts[0]), int(parts[1])
        if end <= begin or (found and begin < found[-1].end):
            raise VideoError(f"{where}: expected a segment after the previous one, got {line!r}")
        found.append(Segment(begin, end, parts[2]))
    if not found:
        raise VideoError(f"{recording.labels}: expected segments, found none")
    return found


def folded(label: str) -> str | None:
    """The class that one of TIMIT's symbols counts as; None for none."""
    return None if label == LEFT_OUT else FOLDED.get(label, label)
