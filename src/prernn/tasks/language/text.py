"""Text as numbers: which words there are, and the number of each word of a file."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

END = "<eos>"
"""Stands at the end of each line."""

UNKNOWN = "<unk>"
"""Stands for words that are not in the vocabulary, where the vocabulary has it."""


class TextError(ValueError):
    """A text that can't be used; names the file, and the line where it is one line's fault."""


def words_of(path: str | Path) -> Iterator[str]:
    """The words of a file, which stand between spaces, and `END` behind each line; empty lines have none.

    Raises:
        TextError: a file that can't be read, is no UTF-8, or has no word.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from words_in(file, path)
    except OSError as error:
        raise TextError(f"{path}: can't be read: {error.strerror or error}") from error


def words_in(lines: Iterable[str], where: str | Path) -> Iterator[str]:
    """As `words_of`, of lines; ``where`` they are from stands in errors."""
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
    """The different words of a file, the most frequent first, those as frequent as each other in alphabetical order.

    Args:
        path: of a text.
        most: words at most; for those that are rarer stands `UNKNOWN`, which is one of them.

    Raises:
        TextError: as `words_of`.
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
        TextError: as `words_of`; a word that is not in the vocabulary, which has no `UNKNOWN`.
    """
    known = {name: number for number, name in enumerate(names)}
    return torch.tensor(list(encode(words_of(path), known, path)), dtype=torch.int64)


def encode(words: Iterator[str] | Sequence[str], known: dict[str, int], where: str | Path) -> Iterator[int]:
    """Numbers of words; ``where`` they are from stands in the TextError for one that is not known."""
    other = known.get(UNKNOWN)
    for word in words:
        number = known.get(word, other)
        if number is None:
            raise TextError(f"{where}: expected words of the training text, which has no {UNKNOWN}, found {word!r}")
        yield number
