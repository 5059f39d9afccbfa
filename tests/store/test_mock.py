"""A store that answers what the test says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import MockStore, assert_ops

T = timedelta(seconds=2)
CALLS: list[tuple[Any, ...]] = [
    ("set_timeout", T),
    ("set", "k", b"v"),
    ("get", "k"),
    ("multi_get", ["k", "l"]),
    ("add", "k", 7),
    ("wait", ["k"]),
    ("wait", ["k"], T),
    ("check", ["k"]),
    ("compare_set", "k", "e", "d"),
    ("delete_key", "k"),
    ("append", "k", "v"),
    ("multi_set", ["k"], ["v"]),
    ("num_keys",),
    ("list_keys",),
    ("queue_push", "k", "v"),
    ("queue_pop", "k", False),
    ("queue_len", "k"),
    ("barrier", "k", 3, T),
    ("has_extended_api",),
    ("clone",),
]


def test_every_call_is_noted_as_it_was_passed() -> None:
    """One tuple each, nothing converted."""
    store = MockStore()
    for name, *arguments in CALLS:
        getattr(store, name)(*arguments)
    assert_ops(store, CALLS)
    assert store.ops[3][1] is CALLS[3][1]


def test_reading_the_timeout_is_noted() -> None:
    """A property, too."""
    store = MockStore()
    assert store.timeout == timedelta(seconds=1234)
    assert store.ops == [("timeout",)]


def test_arguments_that_were_left_out() -> None:
    """As the contract writes them."""
    store = MockStore()
    store.wait(["k"])
    store.queue_pop("k")
    store.barrier("k", 2)
    assert store.ops == [("wait", ["k"]), ("queue_pop", "k", True), ("barrier", "k", 2, None)]


def test_ops_may_be_set_anew() -> None:
    """The seed does."""
    store = MockStore()
    store.set("a", "1")
    store.ops = []
    store.set("b", "2")
    assert store.ops == [("set", "b", "2")]


def test_the_answers_that_nobody_gave() -> None:
    """`None` where there is nothing to say; of what was set its value."""
    store = MockStore()
    answers = {name: getattr(store, name)(*arguments) for name, *arguments in CALLS if name != "clone"}
    assert answers == {
        "set_timeout": None,
        "set": None,
        "get": b"v",
        "multi_get": [b"v", b"value"],
        "add": 3,
        "wait": None,
        "check": True,
        "compare_set": "d",
        "delete_key": True,
        "append": None,
        "multi_set": None,
        "num_keys": 0,
        "list_keys": [],
        "queue_push": None,
        "queue_pop": b"v",
        "queue_len": 0,
        "barrier": None,
        "has_extended_api": True,
    }
    assert store.clone() is store


def test_what_was_set_is_given() -> None:
    """Where the test gives no answers; a write that was dropped, or failed, is none."""
    store = MockStore()
    store.set("a", "1")
    store.multi_set(["b", "c"], [b"2", "3"])
    store.drop("set", "d")
    store.set("d", "4")
    store.fail("set", ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        store.set("a", "5")
    assert store.multi_get(["a", "b", "c", "d"]) == [b"1", b"2", b"3", b"value"]
    assert store.queue_pop("a") == b"1"
    told = MockStore(get=b"told")
    told.set("a", "1")
    assert told.get("a") == b"told"


def test_answers_are_values_callables_or_iterators() -> None:
    """By the operation's name."""
    store = MockStore(
        timeout=T, get=lambda key: key.encode(), add=iter([1, 2]), multi_set="odd", list_keys=["a"]
    )
    assert (store.timeout, store.get("x"), store.multi_get(["x", "y"])) == (T, b"x", [b"x", b"y"])
    assert (store.add("n", 1), store.add("n", 1), store.list_keys()) == (1, 2, ["a"])
    with pytest.raises(AssertionError, match="MockStore has no more answers for 'add'"):
        store.add("n", 1)


def test_answers_may_be_sequences() -> None:
    """Each call takes one, and there is an end; a list of what an operation gives as a list is its answer."""
    store = MockStore(
        get=[b"1", b"2", b"3"],
        add=range(2),
        check=(True, False),
        timeout=[1, T],
        multi_get=[[b"1"], [b"2"]],
        list_keys=(),
        queue_pop="text",
    )
    assert [store.get("k") for _ in range(3)] == [b"1", b"2", b"3"]
    assert [store.add("n", 1), store.add("n", 1)] == [0, 1]
    assert [store.check(["k"]), store.check(["k"])] == [True, False]
    assert [store.timeout, store.timeout] == [timedelta(seconds=1), T]
    assert [store.multi_get(["k"]), store.multi_get(["k"])] == [[b"1"], [b"2"]]
    assert [store.list_keys(), store.list_keys()] == [(), ()]
    assert [store.queue_pop("q"), store.queue_pop("q")] == ["text", "text"]
    for name, arguments in (("get", ["k"]), ("check", [["k"]]), ("multi_get", [["k"]])):
        with pytest.raises(AssertionError, match=f"MockStore has no more answers for '{name}'"):
            getattr(store, name)(*arguments)
    assert MockStore(multi_get=[b"1", b"2"]).multi_get(["a", "b"]) == [b"1", b"2"]


def test_an_unknown_operation_is_refused() -> None:
    """A typing error must not pass unseen."""
    store = MockStore()
    for call in (
        lambda: MockStore(gett=1),
        lambda: store.fail("gett", ValueError),
        lambda: store.delay("gett", 1),
        lambda: store.drop("gett"),
    ):
        with pytest.raises(ValueError, match="a store has no operation 'gett'; it has add, append"):
            call()


def test_patched_operations_are_not_noted() -> None:
    """As the seed uses it."""
    store = MockStore()
    with mock.patch.object(store, "wait") as wait:
        wait.side_effect = [DistStoreError("test"), None]
        with pytest.raises(DistStoreError):
            store.wait(["k"])
        store.wait(["k"])
    store.wait(["l"])
    assert store.ops == [("wait", ["l"])]


def test_fail_raises_at_the_next_calls() -> None:
    """Noted, so many times, in order; also errors that look like ours."""
    store = MockStore()
    store.fail("get", DistStoreError("first"), times=2)
    store.fail("get", KeyError)
    for kind in (DistStoreError, DistStoreError, KeyError):
        with pytest.raises(kind):
            store.get("k")
    store.fail("add", IndexError("of the test"))
    with pytest.raises(IndexError, match="of the test"):
        store.add("n", 1)
    assert store.get("k") == b"value"
    assert_ops(store, [("get", "k")] * 3 + [("add", "n", 1), ("get", "k")])


def test_delay_lets_calls_sleep() -> None:
    """Each of them, and only them."""
    store = MockStore()
    store.delay("get", 0.02)
    began = SYSTEM_CLOCK.monotonic()
    store.get("k")
    assert SYSTEM_CLOCK.monotonic() - began >= 0.02


def test_drop_notes_without_effect() -> None:
    """All calls of an operation, or those with a key."""
    given = []
    store = MockStore(set=lambda key, value: given.append(key), add=5)
    store.drop("set", "a")
    store.drop("add")
    store.set("a", "1")
    store.set("b", "1")
    assert (given, store.add("n", 1)) == (["b"], None)
    assert len(store.ops) == 3
