"""Text as numbers: the vocabulary, and the number of each word of a file."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

END = "<eos>"
"""Stands at the end of each line."""

UNKNOWN = "<unk>"
"""Stands for words that are not in the vocabulary, if the vocabulary has it."""


class TextError(ValueError):
    """A text that can't be used; the message names the file, and the line if one line is at fault."""


def words_of(path: str | Path) -> Iterator[str]:
    """The words of a file, separated by spaces, and `END` after each line; empty lines have no words.

    Raises:
        TextError: a file that can't be read, is not UTF-8, or has no words.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from words_in(file, path)
    except OSError as error:
        raise TextError(f"{path}: can't be read: {error.strerror or error}") from error


def words_in(lines: Iterable[str], where: str | Path) -> Iterator[str]:
    """Like `words_of`, for lines; ``where``, their source, is named in errors."""
    found = False
    try:
        for line in lines:
            if words := line.split():
                found = True
                yield from words
                yield END
    except UnicodeDecodeError as error:
        raise TextError(f"{where}: expected text in UTF-8, found the byte 0x{error.object[error.start]:02x}") from error
    if not found:
        raise TextError(f"{where}: expected text, found no word")


def vocabulary(path: str | Path, most: int | None = None) -> list[str]:
    """The different words of a file, the most frequent first; equally frequent words in alphabetical order.

    Args:
        path: path of a text.
        most: maximum number of words; rarer ones are replaced by `UNKNOWN`, which is one of them.

    Raises:
        TextError: as in `words_of`.
    """
    counts = Counter(words_of(path))
    names = sorted(counts, key=lambda word: (-counts[word], word))
    if most is None or len(names) <= most:
        return names
    kept = [name for name in names if name not in (UNKNOWN, END)][: max(0, most - 2)]
    return [END, UNKNOWN, *kept]


def numbers(path: str | Path, names: Sequence[str]) -> Tensor:
    """The number in ``names`` of each word of a file, int64 ``(N,)``.

    Raises:
        TextError: as in `words_of`; a word not in the vocabulary, if that has no `UNKNOWN`.
    """
    known = {name: number for number, name in enumerate(names)}
    return torch.tensor(list(encode(words_of(path), known, path)), dtype=torch.int64)


def encode(words: Iterator[str] | Sequence[str], known: dict[str, int], where: str | Path) -> Iterator[int]:
    """Numbers of words; ``where``, their source, is named in the TextError for an unknown word."""
    other = known.get(UNKNOWN)
    for word in words:
        number = known.get(word, other)
        if number is None:
            raise TextError(f"{where}: expected words of the training text, which has no {UNKNOWN}, found {word!r}")
        yield number
