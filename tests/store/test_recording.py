"""What was called on a real store, and comparing it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import HashStore, MockStore, assert_ops, barrier, recording


def test_calls_pass_and_are_noted(any_store: Any) -> None:
    """The answers are the store's."""
    store = recording(any_store)
    store.set("k", "1")
    store.multi_set(["n"], ["5"])
    assert (store.get("k"), store.add("n", 1), store.check(["k", "x"])) == (b"1", 6, False)
    store.barrier("b", 1)
    store.barrier("c", 1, 2.0)
    store.set_timeout(7)
    assert (store.timeout.seconds, store.queue_len("q"), store.has_extended_api()) == (7, 0, True)
    assert_ops(
        store,
        [
            ("set", "k", "1"),
            ("multi_set", ["n"], ["5"]),
            ("get", "k"),
            ("add", "n", 1),
            ("check", ["k", "x"]),
            ("barrier", "b", 1, None),
            ("barrier", "c", 1, 2.0),
            ("set_timeout", 7),
            ("timeout",),
            ("queue_len", "q"),
            ("has_extended_api",),
        ],
    )


def test_errors_pass_and_the_call_is_noted() -> None:
    """Those of the store."""
    store = recording(HashStore())
    with pytest.raises(DistStoreError):
        store.wait(["k"], 0)
    with pytest.raises(TypeError):
        store.set("k", 5)  # type: ignore[arg-type]
    assert store.ops == [("wait", ["k"], 0), ("set", "k", 5)]


def test_threads_note_into_one_list(threads: Any) -> None:
    """Nothing is lost."""
    store = recording(HashStore())
    threads(*[lambda: [store.add("n", 1) for _ in range(200)]] * 4)
    assert store.ops == [("add", "n", 1)] * 800


def test_faults_are_planned_as_on_a_mock() -> None:
    """A dropped write does not reach the store."""
    store = recording(HashStore())
    store.drop("set", "lost")
    store.set("lost", "1")
    store.set("kept", "1")
    store.fail("get", DistStoreError("planned"))
    with pytest.raises(DistStoreError, match="planned"):
        store.get("kept")
    assert store.list_keys() == ["kept"]


def test_clones_note_into_the_same_list() -> None:
    """Over a clone of the store."""
    store = recording(HashStore())
    clone = store.clone()
    clone.set_timeout(7)
    assert store.timeout.seconds == 300
    assert store.ops == [("clone",), ("set_timeout", 7), ("timeout",)]


def test_a_barrier_knows_who_is_missing_through_a_recording() -> None:
    """Asking is no operation."""
    store = recording(HashStore())
    with pytest.raises(DistStoreError) as info:
        barrier(store, 3, "b", 0.01, rank=1, trace_timeout=0.01)
    assert info.value.missing_ranks == [0, 2]  # type: ignore[attr-defined]
    assert [name for name, *_ in store.ops] == ["timeout", "set_timeout", "add", "wait", "set", "wait"]


def test_equal_lists_pass() -> None:
    """Of a store, or bare."""
    store = MockStore()
    store.get("k")
    assert_ops(store, [("get", "k")])
    assert_ops([("get", "k")], (("get", "k"),))
    assert_ops([], [])


def test_a_difference_has_a_line_for_each_operation() -> None:
    """What was expected, what was called, and what is equal."""
    store = MockStore()
    for key in "abc":
        store.set(key, "1")
    with pytest.raises(AssertionError) as info:
        assert_ops(store, [("set", "a", "1"), ("get", "b"), ("set", "c", "1"), ("get", "d")])
    assert str(info.value).splitlines() == [
        "store operations differ (- expected, + called):",
        "  ('set', 'a', '1')",
        "- ('get', 'b')",
        "+ ('set', 'b', '1')",
        "  ('set', 'c', '1')",
        "- ('get', 'd')",
    ]
