"""What callers may pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.store._arguments import (
    Arrival,
    Asked,
    as_amount,
    as_key,
    as_keys,
    as_span,
    as_value,
    as_values,
    as_world_size,
)


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Number:
    def __int__(self) -> int:
        return 7


@given(st.text())
def test_text_and_its_bytes_are_one_key(text: str) -> None:
    """Whatever Unicode it is."""
    assert as_key(text) == as_key(text.encode()) == text


def test_a_subclass_of_str_is_its_text() -> None:
    """Subclasses are fine, and nothing of them is called."""
    key = as_key(Text("kä"))
    assert (key, type(key)) == ("kä", str)
    assert as_value(Text("v")) == b"v"


def test_bytes_that_are_not_utf8_are_refused() -> None:
    """A ValueError that names the argument."""
    with pytest.raises(ValueError, match="key must be UTF-8"):
        as_key(b"\xff")


@pytest.mark.parametrize("wrong", [1, None, 1.5, ["a"], memoryview(b"a"), bytearray(b"a"), "\ud800"])
def test_other_keys_are_refused(wrong: object) -> None:
    """A TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"^key must be"):
        as_key(wrong)
    with pytest.raises(TypeError, match=r"^every one of keys must be"):
        as_keys(["a", wrong])


@pytest.mark.parametrize("wrong", [1, None, 1.5, ["a"], memoryview(b"a"), "\ud800"])
def test_other_values_are_refused(wrong: object) -> None:
    """A TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"^desired must be"):
        as_value(wrong, "desired")
    with pytest.raises(TypeError, match=r"^every one of values must be"):
        as_values([wrong])


def test_values_are_copied() -> None:
    """A bytearray that changes later does not change the store."""
    value = bytearray(b"x")
    stored = as_value(value)
    value[0] = 0
    assert (stored, type(stored)) == (b"x", bytes)


@pytest.mark.parametrize("keys", [["a", b"b"], ("a", "b"), {"a": 0, "b": 0}.keys(), iter(["a", "b"])])
def test_keys_are_any_iterable(keys: Any) -> None:
    """They become a list of their own."""
    assert as_keys(keys) == ["a", "b"]


def test_the_list_of_keys_is_a_copy() -> None:
    """The caller may go on using its list."""
    keys = ["a"]
    taken = as_keys(keys)
    keys.append("b")
    assert taken == ["a"]


@pytest.mark.parametrize("wrong", ["ab", b"ab", {"a": 1}, 5, None])
def test_a_bare_key_or_a_mapping_is_refused(wrong: object) -> None:
    """A TypeError."""
    with pytest.raises(TypeError, match=r"^keys must be an iterable"):
        as_keys(wrong)


def test_amounts_are_whole_numbers() -> None:
    """Int, bool, and what turns into one."""
    amounts = [as_amount(amount) for amount in (3, True, Number(), -(2**63), 2**63 - 1)]  # type: ignore[arg-type]
    assert amounts == [3, 1, 7, -(2**63), 2**63 - 1]
    assert all(type(amount) is int for amount in amounts)


@pytest.mark.parametrize("wrong", [1.0, "1", None, b"1", 2**63, -(2**63) - 1])
def test_other_amounts_are_refused(wrong: object) -> None:
    """A TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"^amount must"):
        as_amount(wrong)


def test_world_sizes() -> None:
    """At least 1, and an integer."""
    assert as_world_size(3) == 3
    with pytest.raises(ValueError, match="at least 1, not 0"):
        as_world_size(0)
    for wrong in (1.5, "1", None, True):
        with pytest.raises(TypeError, match="world_size must be an integer"):
            as_world_size(wrong)


def test_spans_keep_microseconds() -> None:
    """Seconds or timedelta."""
    assert [as_span(1), as_span(0.0015), as_span(timedelta(days=2))] == [
        timedelta(seconds=1),
        timedelta(microseconds=1500),
        timedelta(days=2),
    ]


def test_spans_do_not_overflow() -> None:
    """What is too long is as long as can be."""
    assert [as_span(1e300), as_span(float("inf")), as_span(-1e300)] == [
        timedelta.max,
        timedelta.max,
        timedelta.min,
    ]


@pytest.mark.parametrize("wrong", [None, "1", [1], True])
def test_other_spans_are_refused(wrong: Any) -> None:
    """A TypeError."""
    with pytest.raises(TypeError, match="timeout must be seconds or a timedelta"):
        as_span(wrong)


def test_hints_look_like_plain_arguments() -> None:
    """To stores that are not ours they are the number 1 and a list."""
    assert (Arrival(7), Arrival(7).rank) == (1, 7)
    assert (Asked(["a"], 2.0), Asked(["a"], 2.0).seconds) == (["a"], 2.0)
