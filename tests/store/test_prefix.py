"""A store within a store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError, QueueEmptyError
from pytest_elastic.store import HashStore, MockStore, PrefixStore, assert_ops


def test_the_inner_prefix_comes_first() -> None:
    """And an empty one counts."""
    store = HashStore()
    PrefixStore("a", PrefixStore("b", store)).set("k", "1")
    PrefixStore("", store).set("k", "2")
    PrefixStore("a/b", store).set("", "3")
    assert {key: store.get(key) for key in store.list_keys()} == {"b/a/k": b"1", "/k": b"2", "a/b/": b"3"}


def test_wrong_arguments() -> None:
    """No store, and a prefix that is no text."""
    with pytest.raises(ValueError, match="a PrefixStore needs a store"):
        PrefixStore("a", None)
    with pytest.raises(TypeError, match="prefix must be str, not bytes"):
        PrefixStore(b"a", HashStore())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prefix must be Unicode"):
        PrefixStore("\ud800", HashStore())


def test_lists_its_own_keys_and_counts_all() -> None:
    """As torch's does."""
    store = HashStore()
    store.multi_set(["a", "p/a", "p/b", "pp/c"], ["1"] * 4)
    prefixed = PrefixStore("p", store)
    assert (sorted(prefixed.list_keys()), prefixed.num_keys()) == (["a", "b"], 4)


def test_the_timeout_is_the_stores() -> None:
    """And the store is there."""
    store = HashStore()
    prefixed = PrefixStore("p", store)
    prefixed.set_timeout(7)
    assert (store.timeout, prefixed.timeout) == (timedelta(seconds=7), timedelta(seconds=7))
    assert prefixed.underlying_store is store


def test_a_clone_is_over_a_clone() -> None:
    """With the same prefix."""
    store = HashStore()
    clone = PrefixStore("p", store).clone()
    clone.set_timeout(7)
    clone.set("k", "1")
    assert (store.timeout.seconds, store.get("p/k")) == (300, b"1")


def test_errors_name_keys_as_the_caller_did() -> None:
    """In text and fields, through two prefixes."""
    store = PrefixStore("a", PrefixStore("b", HashStore()))
    store.set_timeout(0.001)
    with pytest.raises(DistStoreError, match=r"missing keys: 'k', 'a/l'$") as info:
        store.wait(["k", "a/l"])
    assert info.value.keys == ("k", "a/l")
    with pytest.raises(QueueEmptyError, match="queue is empty") as empty:
        store.queue_pop("q", False)
    assert empty.value.keys == ("q",)


OPERATIONS: list[tuple[Any, ...]] = [
    ("set", "k", "v"),
    ("get", "k"),
    ("add", "k", 2),
    ("compare_set", "k", "a", "b"),
    ("wait", ["k", "l"]),
    ("wait", ["k"], timedelta(seconds=2)),
    ("check", ["k"]),
    ("delete_key", "k"),
    ("append", "k", "v"),
    ("multi_set", ["k", "l"], ["1", "2"]),
    ("multi_get", ["k", "l"]),
    ("num_keys",),
    ("queue_push", "k", "v"),
    ("queue_pop", "k", False),
    ("queue_len", "k"),
    ("has_extended_api",),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation[0])
def test_over_a_mock_each_operation_is_one(operation: tuple[Any, ...]) -> None:
    """With the prefix, and otherwise as it was; the answer comes back."""
    mock = MockStore()
    name, *arguments = operation
    answer = getattr(PrefixStore("p", mock), name)(*arguments)
    prefixed = [
        f"p/{a}" if a == "k" and i == 0 else [f"p/{k}" for k in a] if isinstance(a, list) and i == 0 else a
        for i, a in enumerate(arguments)
    ]
    assert_ops(mock, [(name, *prefixed)])
    assert answer == getattr(MockStore(), name)(*arguments)


def test_spans_become_what_torch_takes() -> None:
    """A `timedelta`, since torch refuses numbers."""
    mock = MockStore()
    store = PrefixStore("p", mock)
    store.set_timeout(3)
    store.wait(["k"], 2)
    store.barrier("b", 2, 0.5)
    store.barrier("b", 2)
    assert_ops(
        mock,
        [
            ("set_timeout", timedelta(seconds=3)),
            ("wait", ["p/k"], timedelta(seconds=2)),
            ("barrier", "p/b", 2, timedelta(seconds=0.5)),
            ("barrier", "p/b", 2, None),
        ],
    )


def test_over_torchs_stores() -> None:
    """What they can, it can."""
    distributed = pytest.importorskip("torch.distributed")
    underlying = distributed.HashStore()
    store = PrefixStore("p", underlying)
    store.set("k", b"1")
    store.multi_set(["n"], [bytearray(b"5")])
    store.queue_push("q", "x")
    assert (store.add("n", 1), store.multi_get([b"k", "n"]), store.queue_pop("q")) == (6, [b"1", b"6"], b"x")
    assert sorted(underlying.list_keys()) == ["p/k", "p/n"]
    store.barrier("b", 1, 0.5)
    with pytest.raises(distributed.DistStoreError):
        store.wait(["missing"], 0.01)
    assert store.members("n") is None
