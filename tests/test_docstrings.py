"""The examples in the docstrings of public names are run, each as it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import pytest_elastic

PARTS = [
    name
    for _, name, _ in pkgutil.iter_modules(pytest_elastic.__path__, "pytest_elastic.")
    if name != "pytest_elastic.plugin"
]
PARTS += ["pytest_elastic.replays.bridge"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(part: str) -> list[doctest.DocTest]:
    """Those of the part's docstring and of all that it exports, each once."""
    module = importlib.import_module(part)
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for name in ["", *getattr(module, "__all__", [one for one in vars(module) if not one.startswith("_")])]:
        one = getattr(module, name) if name else module
        if name and not (inspect.isroutine(one) or inspect.isclass(one)):
            continue
        for test in finder.find(one, name or part, module=False if name else None, globs=vars(module).copy()):
            if test.examples and (not name or one.__module__.startswith(part)):
                found[test.name] = test
    return list(found.values())


@pytest.mark.parametrize("part", PARTS)
def test_examples_of_public_names_run(part):
    """What an example prints is what it says."""
    runner, told = doctest.DocTestRunner(optionflags=OPTIONS), []
    for test in examples(part):
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
