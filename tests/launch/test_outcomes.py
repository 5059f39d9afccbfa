"""Failures that are, or came of, a time-out of the store, and those that only came after it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.launch._outcomes import of_timeout, of_timeout_in


def wait() -> None:
    raise DistStoreError("Wait timeout after 5000 ms, missing keys: 'k'", keys=("k",), timeout=5, elapsed=5)


def other_words() -> None:
    try:
        wait()
    except DistStoreError:
        raise RuntimeError("no rendezvous")


def hidden() -> None:
    try:
        wait()
    except DistStoreError:
        raise RuntimeError("no rendezvous") from None


def clean_up() -> None:
    try:
        wait()
    finally:
        raise KeyError("clean")


def several() -> None:
    try:
        wait()
    except DistStoreError as error:
        raise ExceptionGroup("ranks", [ValueError("other"), error]) from None


def of_c() -> None:
    raise RuntimeError("DistStoreError: Wait timeout")


def expect() -> None:
    try:
        wait()
    except DistStoreError as error:
        assert "other" in str(error)  # noqa: PT017 - as a test might say it.


def later() -> None:
    with pytest.raises(DistStoreError):
        wait()
    raise ValueError("loss is nan")


def assertion() -> None:
    raise AssertionError("DistStoreError: no type")


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (wait, True), (other_words, True), (clean_up, True), (several, True), (of_c, True),
        (expect, False), (later, False), (assertion, False),
    ],
)  # fmt: skip
def test_what_a_rank_failed_of(fail: Callable[[], None], expected: bool, tmp_path: Path) -> None:
    """The same is found in the exception, and in what was recorded of it."""
    with pytest.raises(Exception) as info:
        fail()
    assert of_timeout(info.value) is expected
    trace = "".join(traceback.format_exception(info.value))
    (tmp_path / "error.json").write_text(json.dumps({"message": {"extraInfo": {"py_callstack": trace}}}))
    assert of_timeout_in(tmp_path / "error.json") is expected


def test_a_cause_that_is_hidden_shows_in_the_exception() -> None:
    """But in no traceback."""
    with pytest.raises(RuntimeError) as info:
        hidden()
    assert of_timeout(info.value)


def test_nothing_recorded_tells_nothing(tmp_path: Path) -> None:
    """A damaged file neither."""
    for text in (None, "{}", '{"message": {"extraInfo": {"py_callstack": ""}}}'):
        if text is not None:
            (tmp_path / "error.json").write_text(text)
        assert of_timeout_in(tmp_path / "error.json") is None
