"""What a release says of itself: its version, its licenses, its changes, and what lies in its distributions."""

import importlib.metadata
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import prernn

ROOT = Path(__file__).parents[1]
PROJECTS = [tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in (".", "runtime")]
REQUIREMENTS = [
    Requirement(word)
    for project in PROJECTS
    for words in (project["dependencies"], *project.get("optional-dependencies", {}).values())
    for word in words
]


def test_every_place_says_the_same_version():
    (version,) = {project["version"] for project in PROJECTS}
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)  # semantic versioning
    assert prernn.__version__ == importlib.metadata.version("prernn") == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"\n## [{version}] - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_keeps_its_form():
    """Of keepachangelog.com 1.1.0: versions, the newest first, and in each the kinds of change."""
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line) for line in versions[1:])
    numbers = [tuple(map(int, re.findall(r"\d+", line)[:3])) for line in versions[1:]]
    assert numbers == sorted(numbers, reverse=True)
    kinds = {line[4:] for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_dependency_has_a_least_version():
    for requirement in REQUIREMENTS:
        assert any(part.operator == ">=" for part in requirement.specifier), requirement


def test_every_dependency_has_a_license():
    """``python release/licenses.py`` writes the table."""
    rows = [
        row.split(" | ") for row in (ROOT / "docs" / "licenses.md").read_text().splitlines() if row.startswith("| ")
    ]
    licenses = {row[0].strip("| *"): row[1] for row in rows}
    for requirement in REQUIREMENTS:
        assert canonicalize_name(requirement.name) in licenses, requirement
    assert not {name for name, license in licenses.items() if license.lower() in ("unknown", "")}


# what is built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheels and the sources of both distributions."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = ["uv", "build", "--all-packages", "--out-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "Failed to fetch" in done.stderr:
        pytest.skip(f"the build's own packages can't be had: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return folder


def tracked(folder):
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


@pytest.mark.slow
def test_wheels_have_the_package_and_nothing_else(built):
    (path,) = built.glob("prernn-*.whl")
    names = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    sources = {name[4:] for name in tracked("src") if not name.endswith((".c", ".h"))}
    sources |= {f"prernn/{name}" for name in tracked("configs")}
    assert names - {"prernn/ops/_kernels.so"} == sources  # page and py.typed are among these
    assert "-py3-none-" in path.name  # the library is opened by ctypes: any Python
    (runtime,) = built.glob("prernn_runtime-*-py3-none-any.whl")
    names = {name for name in zipfile.ZipFile(runtime).namelist() if ".dist-info/" not in name}
    assert names == {name[len("runtime/src/") :] for name in tracked("runtime/src")}
    for wheel in (path, runtime):
        assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_sources_have_all_that_a_build_needs(built):
    (path,) = built.glob("prernn-*.tar.gz")
    with tarfile.open(path) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert tracked("src") | tracked("configs") | {"CMakeLists.txt", "LICENSE", "README.md", "CITATION.cff"} <= names
    assert not [name for name in names if name.endswith((".png", ".so", "uv.lock"))]
