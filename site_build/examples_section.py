"""Docstrings here open their example with ``Example:``, which the site shows as code, as it does ``Examples:``."""

import re
from typing import Any

import griffe


class ExamplesSection(griffe.Extension):
    """Names the section as griffe does."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Is called for every object that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
