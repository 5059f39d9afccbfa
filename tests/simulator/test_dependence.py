"""Which operations commute, checked against what the store does."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from pytest_elastic.simulator._dependence import (
    AGAINST,
    AWAIT,
    AWAIT_VALUE,
    CREATE,
    DELETE,
    EVERYTHING,
    LAST,
    MEET,
    OVERWRITE,
    PRESENCE,
    VALUE,
    commute,
    footprint,
)
from pytest_elastic.store import StoreState, Waiter

EMPTY: dict[str, bytes] = {}
FULL = {"k": b"1", "b/num_members": b"1"}

OPERATIONS: list[tuple[Any, ...]] = [
    ("set", "k", b"2"),
    ("set", "j", b"2"),
    ("get", "k"),
    ("add", "k", 1),
    ("compare_set", "k", b"1", b"3"),
    ("compare_set", "k", b"", b"4"),
    ("delete_key", "k"),
    ("append", "k", b"5"),
    ("multi_set", ["k", "j"], [b"6", b"7"]),
    ("multi_get", ["k", "j"]),
    ("num_keys",),
    ("check", ["k"]),
    ("wait", ["k", "j"]),
    ("barrier", "b", 2),
    ("barrier", "b", 4),
    ("queue_push", "k", b"8"),
    ("queue_pop", "q", True),
    ("queue_push", "q", b"9"),
    ("queue_len", "q"),
    ("arrive", "k", 0),
    ("members", "k"),
]


def after(values: dict[str, bytes], order: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """What two operations leave and answer, in this order; by operation, not by order."""
    state = StoreState()
    for key, value in values.items():
        state.set(key, value)
    answers: dict[int, Any] = {}
    for operation in order:
        try:
            answers[id(operation)] = state.apply(operation, id(operation))
        except Exception as error:
            answers[id(operation)] = type(error)
    seen = {
        which: (answer.done, answer.result) if isinstance(answer, Waiter) else (True, answer)
        for which, answer in answers.items()
    }
    values = {key: state.peek(key) or b"" for key in state.list_keys()}
    queues = {key: state.queue_len(key) for key in ("k", "q")}
    return values, queues, seen, sorted(waiter.name for waiter in state.waiters()), state.members("k")


PAIRS = [(one, other) for one, other in combinations(OPERATIONS, 2)] + [
    (one, tuple(one)) for one in OPERATIONS
]


@pytest.mark.parametrize("values", [EMPTY, FULL], ids=["empty", "full"])
@pytest.mark.parametrize(
    ("one", "other"), PAIRS, ids=[f"{one[0]}-{other[0]}-{i}" for i, (one, other) in enumerate(PAIRS)]
)
def test_what_is_said_to_commute_does(
    one: tuple[Any, ...], other: tuple[Any, ...], values: dict[str, bytes]
) -> None:
    """Both orders lead to the same values, queues, answers and waiters."""
    other = (*other,) if other is not one else (*list(other),)
    state = StoreState()
    for key, value in values.items():
        state.set(key, value)
    if commute(footprint(one, state, False), footprint(other, state, False)):
        assert after(values, [one, other]) == after(values, [other, one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("wait", ["k"]), ("set", "k", b"1")),
        (("get", "k"), ("set", "k", b"1")),
        (("check", ["k"]), ("get", "k")),
        (("barrier", "b", 4), ("barrier", "b", 4)),
        (("set", "k", b"1"), ("set", "j", b"1")),
        (("delete_key", "k"), ("wait", ["k"])),
        (("compare_set", "k", b"x", b"1"), ("compare_set", "k", b"x", b"2")),
    ],
)
def test_what_commutes_on_an_empty_store(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """A wait with the write that it waits for; readers; arrivals; what misses."""
    state = StoreState()
    assert commute(footprint(one, state, False), footprint(other, state, False))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("add", "k", 1), ("add", "k", 1)),
        (("set", "k", b"2"), ("get", "k")),
        (("delete_key", "k"), ("wait", ["k"])),
        (("set", "new", b"2"), ("num_keys",)),
        (("queue_push", "q", b"1"), ("queue_push", "q", b"2")),
    ],
)
def test_what_does_not(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """On a store that has the key."""
    state = StoreState()
    state.set("k", b"1")
    assert not commute(footprint(one, state, False), footprint(other, state, False))


def test_an_eager_wait_sees_what_is_there() -> None:
    """Then it makes a difference whether the key was there first."""
    state = StoreState("level")
    writing = footprint(("set", "k", b"1"), state, True)
    assert footprint(("wait", ["k"]), state, True)["k"] == PRESENCE
    assert not commute(footprint(("wait", ["k"]), state, True), writing)
    assert not commute(footprint(("get", "k"), state, True), writing)


def test_overwriting_commutes_with_looking_for_presence() -> None:
    """The gain of telling a value from its presence."""
    state = StoreState()
    state.set("k", b"1")
    writing = footprint(("set", "k", b"2"), state, False)
    assert writing == {"k": OVERWRITE}
    assert commute(writing, footprint(("check", ["k"]), state, False))
    assert commute(writing, footprint(("wait", ["k"]), state, False))


def test_the_last_place_at_the_table() -> None:
    """Two that both want it do not commute; those before do, and what comes after is any other operation."""
    state = StoreState()
    arrival = "barrier", "b", 2
    first = footprint(arrival, state, False)
    assert first["b/num_members"] & MEET
    state.apply(arrival)
    last = footprint(arrival, state, False)
    assert last["b/num_members"] & last["b/last_member"] & LAST
    assert last[EVERYTHING] == MEET
    assert not commute(last, last)
    state.apply(arrival)
    assert footprint(arrival, state, False)["b/num_members"] == OVERWRITE | VALUE


def test_a_member_count_that_somebody_waits_for() -> None:
    """Is no table any more: it matters who is first."""
    state = StoreState()
    state.apply(("wait", ["b/num_members"]))
    found = footprint(("barrier", "b", 2), state, False)
    assert found["b/num_members"] == CREATE | VALUE


def test_conflicts_are_mutual() -> None:
    """If one goes against another, so does the other against it."""
    bits = [VALUE, PRESENCE, OVERWRITE, CREATE, DELETE, AWAIT, AWAIT_VALUE, MEET, LAST]
    for one in bits:
        for other in bits:
            assert bool(AGAINST[one] & other) == bool(AGAINST[other] & one), (one, other)
