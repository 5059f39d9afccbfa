"""Writes without effect."""

from __future__ import annotations

import pytest

from pytest_elastic.faults import WRITES, lost_answer
from pytest_elastic.store import StoreState

CASES = [
    ("set", "a", b"9"),
    ("add", "a", 5),
    ("add", "new", 5),
    ("arrive", "a", 1),
    ("compare_set", "a", b"1", b"2"),
    ("compare_set", "a", b"7", b"2"),
    ("compare_set", "new", b"", b"2"),
    ("delete_key", "a"),
    ("delete_key", "new"),
    ("append", "a", b"x"),
    ("multi_set", ["a", "b"], [b"1", b"2"]),
    ("queue_push", "q", b"1"),
    ("barrier", "a", 1),
]


def a_state():
    state = StoreState()
    state.set("a", b"1")
    state.queue_push("q", b"0")
    return state


def contents(state):
    return {key: state.get(key) for key in state.list_keys()}, state.queue_len("q"), len(state.waiters())


@pytest.mark.parametrize("operation", CASES, ids=str)
def test_the_answer_without_the_effect(operation):
    """The caller hears what it would hear, and the state does not change."""
    state, other = a_state(), a_state()
    before = contents(state)
    answer = lost_answer(state, operation)
    assert contents(state) == before
    assert answer == other.apply(operation)


def test_every_write_is_here():
    """No write is forgotten in the cases."""
    assert {name for name, *_ in CASES} == WRITES


def test_errors_are_those_of_the_operation():
    """An `add` to what is no number fails as it would."""
    state = StoreState()
    state.set("a", b"x")
    with pytest.raises(ValueError, match="no number"):
        lost_answer(state, ("add", "a", 1))
