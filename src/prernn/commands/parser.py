"""The parser of the command line, which complains in one line."""

import argparse


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as the other errors do."""

    def error(self, message: str):
        """Raises ValueError with the message."""
        raise ValueError(f"{message} (see {self.prog} --help)")
