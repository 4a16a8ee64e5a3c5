"""A page of pictures and tables as one self-contained HTML file."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body { font-family: system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
img { max-width: 100%; }
figure { margin: 2em 0; }
figcaption { color: #555; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9em; }
th, td { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(title: str, body: Sequence[str], notes: Sequence[str] = ()) -> str:
    """A complete page made of parts that are already HTML; ``title`` and ``notes`` are plain text."""
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>\n" if notes else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join([body[0], listed, *body[1:]] if body else [listed])
        + "\n</body>\n</html>\n"
    )


def picture(path: Path, title: str, text: str, tables: Sequence[str] = ()) -> str:
    """A PNG, embedded in the page, with a heading, a caption and links to table files next to the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in [path.name, *tables])
    return (
        f"<h2>{escape(title)}</h2>\n<figure>\n"
        f'<img src="data:image/png;base64,{data}" alt="{escape(title)}"/>\n'
        f"<figcaption>{escape(text)} Files: {links}</figcaption>\n</figure>"
    )


def table(rows: Sequence[dict[str, Any]], *, link: str = "") -> str:
    """A table of plain data with the first row's keys as the header, and a link to a file that holds the rows."""
    if not rows:
        return ""
    file = f'\n<p>File: <a href="{escape(link)}">{escape(link)}</a></p>' if link else ""
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    lines = "".join(f"<tr>{''.join(_value(value) for value in row.values())}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>{file}'


def _value(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    kind = ' class="number"' if re.fullmatch(r"[-\d.,e+]+", text) else ""
    return f"<td{kind}>{escape(text)}</td>"
