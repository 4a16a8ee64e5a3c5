"""From a text to the letters that are heard in it."""

import unicodedata
from pathlib import Path

from prernn.media.video import VideoError

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
"""English: letters, the apostrophe and the space, 28 in all; CTC's blank is one more."""


def letters(text: str, alphabet: str) -> str:
    """A text in lower-case letters of the alphabet, with one space between words, without punctuation.

    Accents that are not in the alphabet are dropped. A hyphen counts as a space.

    Example:
        >>> letters("Ask her -- to bring\\nthese things, Zoë!", ALPHABET)
        'ask her to bring these things zoe'

    Raises:
        ValueError: a letter or digit that is not in the alphabet, or no letters at all.
    """
    found: list[str] = []
    for mark in unicodedata.normalize("NFC", text.lower().replace("\u2019", "'")):
        known = mark if mark in alphabet else _plain(mark)
        if known and all(part in alphabet for part in known):
            found.append(known)
        elif mark.isalnum():
            raise ValueError(f"expected letters among {alphabet!r}, got {mark!r}")
        elif mark.isspace() or unicodedata.category(mark) == "Pd":
            found.append(" ")
    said = " ".join("".join(found).split())
    if not said:
        raise ValueError("expected words, found none")
    return said


def _plain(letter: str) -> str:
    """A letter without its accents."""
    return "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))


def read_letters(path: str | Path, alphabet: str) -> str:
    """`letters` of a file in UTF-8.

    Raises:
        VideoError: no such file, bytes that are not UTF-8, and what `letters` raises, with the file's name.
    """
    try:
        return letters(Path(path).read_text(encoding="utf-8-sig"), alphabet)
    except OSError as error:
        raise VideoError(f"{path}: expected a text of what is said, found none") from error
    except ValueError as error:  # including those of UTF-8 decoding
        raise VideoError(f"{path}: {error}") from error
