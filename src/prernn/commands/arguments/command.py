"""What every command consists of: a line of help, its options, and a function."""

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from prernn.layers.names import close_to


@dataclass(frozen=True)
class Command:
    """One word after ``prernn``.

    Attributes:
        help: what it does, in one line.
        run: does it, with the options as they were given.
        add_arguments: adds its options to a parser. It imports nothing heavy, because help must appear at once. None
            if argparse does not parse them: ``run`` then gets ``options.command``, and everything that follows it as
            ``options.words``.
        options: further arguments of its parser, such as ``usage``.
        passes_on: whether ``run`` gets the words that are not among its options as ``options.words``, because they
            belong to another command.
    """

    help: str
    run: Callable[[argparse.Namespace], None]
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    options: dict[str, Any] | None = None
    passes_on: bool = False


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as the other errors do; ``passes_on`` as in `Command`."""

    passes_on = False

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """As in argparse, but an unknown word is an error here, where the options it may have meant are known."""
        known, rest = super().parse_known_args(*arguments, **options)
        if self.passes_on:
            known.words = [word for word in rest if word != "--"]
            return known, []
        if rest:
            odd = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
            near = close_to(odd, self._option_string_actions) if odd.startswith("-") else ""
            self.error(f"unknown {'option' if odd.startswith('-') else 'word'} {odd}{near}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        """Raises ValueError with the message, and with the choice closest to a wrong one."""
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += close_to(wrong[1], re.findall(r"[\w.:-]+", wrong[2]))
        raise ValueError(f"{message} (see {self.prog} --help)")


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options that were given, for a function that has its own defaults."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


@contextlib.contextmanager
def saying_warnings() -> Iterator[None]:
    """Shows warnings as lines for a user, without the place in the source where they were raised."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *place, **more: print(f"prernn: {message}", file=sys.stderr)
        yield
