"""Loggers."""

from __future__ import annotations

import logging

import pytest

from pytest_elastic.logging import get_logger

at_module_level = get_logger().name
in_a_comprehension = [get_logger().name for _ in range(2)]


class Method:
    def name(self) -> str:
        return get_logger().name


@pytest.mark.parametrize("name", [None, ""])
def test_no_name_means_the_callers_module(name: str | None) -> None:
    """Wherever the call is."""
    names = [get_logger(name).name, (lambda: get_logger(name).name)(), Method().name()]
    assert [*names, at_module_level, *in_a_comprehension] == [__name__] * 6
    assert get_logger().name == __name__


def test_a_name_is_used_as_it_is() -> None:
    """The same logger as logging's."""
    assert get_logger("test.module") is logging.getLogger("test.module")
    assert get_logger("name1") is not get_logger("name2")


def test_code_without_a_module_is_named_by_its_file() -> None:
    """Its stem."""
    code = compile("name = get_logger().name", "/some/where/script.py", "exec")
    names: dict[str, object] = {"get_logger": get_logger, "__name__": None}
    exec(code, names)
    assert names["name"] == "script"


@pytest.mark.parametrize(("level", "expected"), [(None, "WARNING"), ("DEBUG", "DEBUG"), ("ERROR", "ERROR")])
def test_the_level_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, level: str | None, expected: str
) -> None:
    """At each call, and nothing else changes."""
    logger = logging.getLogger("test_s69")
    logger.setLevel(logging.CRITICAL)
    before = (list(logger.handlers), logger.propagate)
    if level is None:
        monkeypatch.delenv("LOGLEVEL", raising=False)
    else:
        monkeypatch.setenv("LOGLEVEL", level)
    assert logging.getLevelName(get_logger("test_s69").level) == expected
    assert (list(logger.handlers), logger.propagate) == before


@pytest.mark.parametrize("level", ["debug", "", "10", "LOUD"])
def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Lower case, nothing and digits, too."""
    monkeypatch.setenv("LOGLEVEL", level)
    with pytest.raises(ValueError, match=f"Unknown level: {level!r}"):
        get_logger("test_s69")
