"""What all stores of ours share, on each kind of them."""

from __future__ import annotations

import copy
import gc
import pickle
from datetime import timedelta
from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import _handle
from pytest_elastic.store._arguments import Arrival, Asked
from pytest_elastic.store._handle import members_of, timeout_error, watch_forks


def test_nothing_changes_when_an_argument_is_wrong(any_store: Any) -> None:
    """Neither by the operations with many."""
    for call in (
        lambda: any_store.multi_set(["a", 1], ["1", "2"]),
        lambda: any_store.multi_set(["a", "b"], ["1", None]),
        lambda: any_store.compare_set("a", None, "1"),
        lambda: any_store.append("a", 1),
        lambda: any_store.queue_push("a", 1),
        lambda: any_store.set("a"),
        lambda: any_store.get("a", "b"),
    ):
        with pytest.raises(TypeError):
            call()
    assert (any_store.num_keys(), any_store.queue_len("a")) == (0, 0)


def test_multi_set_with_too_few_values_stores_nothing(any_store: Any) -> None:
    """The error has both numbers."""
    with pytest.raises(ValueError, match="multi_set: 2 keys but 1 values"):
        any_store.multi_set(["a", "b"], ["1"])
    assert any_store.num_keys() == 0


def test_a_store_cannot_be_pickled_or_copied(any_store: Any) -> None:
    """A TypeError that says what can be done instead."""
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"cannot be pickled or copied; `clone\(\)` shares its data"):
            call(any_store)


def test_the_timeout_is_read_only(any_store: Any) -> None:
    """300 s at first."""
    assert any_store.timeout == timedelta(seconds=300)
    with pytest.raises(AttributeError):
        any_store.timeout = timedelta(seconds=1)


def test_the_error_names_what_is_missing(any_store: Any) -> None:
    """As the caller named it, for every operation that waits."""
    any_store.set("there", "1")
    any_store.set_timeout(0.002)
    for call, keys in (
        (lambda: any_store.get("a"), ("a",)),
        (lambda: any_store.wait([b"b", "there", "a"]), ("b", "a")),
        (lambda: any_store.multi_get(["there", "a", "a"]), ("a",)),
        (lambda: any_store.queue_pop("q"), ("q",)),
        (lambda: any_store.barrier("x", 2), ("x/last_member",)),
    ):
        with pytest.raises(DistStoreError, match=r"^Wait timeout after \d+ ms, missing keys: ") as info:
            call()
        assert (info.value.keys, info.value.timeout) == (keys, 0.002)
        assert repr(keys[0]) in str(info.value)
        assert info.value.elapsed is not None
        assert info.value.elapsed >= 0.002


def test_sixteen_keys_are_named_and_the_rest_counted() -> None:
    """In the order asked."""
    error = timeout_error(tuple(f"key{i}" for i in range(20)), 1.0, 1.25)
    named = ", ".join(f"'key{i}'" for i in range(16))
    assert str(error) == f"Wait timeout after 1250 ms, missing keys: {named} and 4 more"


def test_arrivals_are_counted_and_remembered(any_store: Any) -> None:
    """An `Arrival` adds 1 and says who it is."""
    assert [any_store.add("n", Arrival(5)), any_store.add("n", Arrival(3)), any_store.add("n", 1)] == [
        1,
        2,
        3,
    ]
    assert members_of(any_store, "n") == [5, 3]
    assert members_of(object(), "n") is None


def test_a_brief_wait_is_brief(any_store: Any) -> None:
    """Shorter than the store's timeout, never longer than the given one."""
    with pytest.raises(DistStoreError) as info:
        any_store.wait(Asked(["a"], 0.01))
    assert info.value.timeout == 0.01
    with pytest.raises(DistStoreError) as info:
        any_store.wait(Asked(["a"], 10.0), 0.02)
    assert info.value.timeout == 0.02


class Watched:
    def __init__(self) -> None:
        self.forked = False

    def after_fork(self) -> None:
        self.forked = True


def test_the_child_lets_go_and_the_parent_does_not(fork: Any) -> None:
    """Each of those that are alive."""
    one, other = Watched(), Watched()
    watch_forks(one)
    watch_forks(other)
    assert fork(lambda: (one.forked, other.forked)).outcome() == (True, True)
    assert (one.forked, other.forked) == (False, False)


def test_watching_keeps_nothing_alive() -> None:
    """What is gone is not asked."""
    before = len(_handle._watched)
    watch_forks(Watched())
    gc.collect()
    assert len(_handle._watched) <= before
