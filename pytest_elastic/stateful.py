"""Hypothesis state machine that compares a store with a reference, operation by operation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pytest_elastic.store import HashStore

_SOON = timedelta(milliseconds=1)

_QUEUE = "only a queue"

_keys = st.sampled_from(["a", "b", "n", "", "ü/ a"])
_queues = st.one_of(_keys, st.just(_QUEUE))
_some_keys = st.lists(_queues, max_size=4)
_numbers = st.sampled_from(["0", "5", "-3", " 7", "5a", "", "x", "--5", "9223372036854775807", "9" * 25])
_values = st.one_of(_numbers, st.text(max_size=5), st.binary(max_size=5))
_amounts = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))


class StoreMachine(RuleBasedStateMachine):
    """State machine that runs operations on a store and a reference; answers and errors must be equal.

    Errors are compared by the names of their types.  All operations run in one thread.  Subclass the machine,
    define `make_store`, and use its `TestCase` or `run_state_machine_as_test`:

        class MyStoreMachine(StoreMachine):
            def make_store(self):
                return MyStore()

        TestMyStore = MyStoreMachine.TestCase

    Raises:
        NotImplementedError: `make_store` is not defined.
        AssertionError: (from a rule) an answer or an error differs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._store, self._reference = self.make_store(), self.make_reference()
        for store in (self._store, self._reference):
            store.set_timeout(_SOON)

    def make_store(self) -> Any:
        """A new, empty store to test."""
        raise NotImplementedError("make_store() must return the store to test")

    def make_reference(self) -> Any:
        """A new, empty reference store; by default a `HashStore`."""
        return HashStore()

    @rule(key=_keys, value=_values)
    def set(self, key: str, value: str | bytes) -> None:
        self._compare("set", key, value)

    @rule(key=_keys)
    def get(self, key: str) -> None:
        self._compare("get", key)

    @rule(key=_keys, amount=_amounts)
    def add(self, key: str, amount: int) -> None:
        self._compare("add", key, amount)

    @rule(key=_keys, expected=_numbers, desired=_values)
    def compare_set(self, key: str, expected: str, desired: str | bytes) -> None:
        self._compare("compare_set", key, expected, desired)

    @rule(keys=_some_keys)
    def wait(self, keys: list[str]) -> None:
        self._compare("wait", keys)

    @rule(keys=_some_keys)
    def check(self, keys: list[str]) -> None:
        self._compare("check", keys)

    @rule(key=_keys)
    def delete_key(self, key: str) -> None:
        self._compare("delete_key", key)

    @rule(key=_keys, value=_values)
    def append(self, key: str, value: str | bytes) -> None:
        self._compare("append", key, value)

    @rule(pairs=st.lists(st.tuples(_keys, _values), max_size=4))
    def multi_set(self, pairs: list[tuple[str, str | bytes]]) -> None:
        self._compare("multi_set", [key for key, _ in pairs], [value for _, value in pairs])

    @rule(keys=_some_keys)
    def multi_get(self, keys: list[str]) -> None:
        self._compare("multi_get", keys)

    @rule()
    def list(self) -> None:
        self._compare("num_keys")
        self._compare("list_keys")

    @rule(key=_queues, value=_values)
    def queue_push(self, key: str, value: str | bytes) -> None:
        self._compare("queue_push", key, value)

    @rule(key=_queues)
    def try_queue_pop(self, key: str) -> None:
        self._compare("queue_pop", key, False)

    @rule()
    def queue_pop(self) -> None:
        # Torch's stores do not wait for an element where there is a value of the queue's name.
        self._compare("queue_pop", _QUEUE, True)

    @rule(key=_queues)
    def queue_len(self, key: str) -> None:
        self._compare("queue_len", key)

    @rule(key=_keys, world_size=st.integers(1, 3))
    def barrier(self, key: str, world_size: int) -> None:
        self._compare("barrier", key, world_size)

    def _compare(self, name: str, *arguments: Any) -> None:
        ours, reference = (outcome(store, name, arguments) for store in (self._store, self._reference))
        if ours != reference:
            raise AssertionError(f"{name}{arguments!r}: {ours}, the reference {reference}")


def outcome(store: Any, name: str, arguments: tuple[Any, ...]) -> str:
    """The outcome of an operation, in words."""
    try:
        answer = getattr(store, name)(*arguments)
    except Exception as error:
        return f"raised {type(error).__name__}"
    return f"returned {sorted(answer) if name == 'list_keys' else answer!r}"
