"""The examples in docstrings run, and each public name opens with one."""

import doctest
import importlib
import pkgutil

import pytest

import prernn

SKIPPED = ("prernn.ops._kernels", "prernn.ops.triton", "prernn.ops.triton_kernels")
"""A shared library of C, and what needs Triton."""

NAMES = [m.name for m in pkgutil.walk_packages(prernn.__path__, "prernn.") if m.name not in SKIPPED]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples():
    """Every docstring with an example, by the name of what it documents."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for name in NAMES:
        for test in finder.find(importlib.import_module(name), name):
            if test.examples:
                found[test.name] = test
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(EXAMPLES[name], out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", prernn.__all__)
def test_each_public_name_opens_with_an_example(name):
    text = getattr(prernn, name).__doc__
    assert ">>> " in text
    assert "Args:" not in text[: text.index(">>> ")]
