"""The operations of torch's `Store`: as a Protocol, and as methods that forward to one function.

Keys are text (`bytes` that are UTF-8 mean the same key), values are bytes (`str` is stored as UTF-8).
Spans of time are seconds or a `timedelta`; a span of zero or less looks once and never blocks.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol, cast

from pytest_elastic.store._arguments import as_asked

Key = str | bytes
Value = str | bytes | bytearray
Span = float | timedelta


class Store(Protocol):
    """Keys and values that ranks share, and a way to wait for them.

    All operations are atomic.  Only `get`, `multi_get`, `wait`, `queue_pop` and `barrier` block; they raise
    `DistStoreError`, which names the missing keys, when their timeout ends.
    """

    @property
    def timeout(self) -> timedelta:
        """How long an operation of this handle may block."""

    def set_timeout(self, timeout: Span) -> None:
        """For operations that begin after this."""

    def set(self, key: Key, value: Value) -> None:
        """Store the value, whatever was there."""

    def get(self, key: Key) -> bytes:
        """The value; waits for the key."""

    def add(self, key: Key, amount: int) -> int:
        """Add to the number that the value spells, 0 where there is none, and return the sum (64 bits)."""

    def compare_set(self, key: Key, expected: Value, desired: Value) -> bytes:
        """Store `desired` if the value is `expected` (`""`: or there is none); returns what is then there."""

    def wait(self, keys: Iterable[Key], timeout: Span | None = None) -> None:
        """Block until all keys exist.  Ours also take `may_timeout=True`: see `Handle.wait`."""

    def check(self, keys: Iterable[Key]) -> bool:
        """Whether all keys exist now."""

    def delete_key(self, key: Key) -> bool:
        """Remove the value; whether there was one."""

    def append(self, key: Key, value: Value) -> None:
        """Put bytes at the value's end."""

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value]) -> None:
        """Store all at once; of a repeated key the last counts."""

    def multi_get(self, keys: Iterable[Key]) -> list[bytes]:
        """The values in the order asked; waits for all keys, under one deadline."""

    def num_keys(self) -> int:
        """How many values there are."""

    def list_keys(self) -> list[str]:
        """The keys that have a value, in any order."""

    def queue_push(self, key: Key, value: Value) -> None:
        """Put an element at the queue's end."""

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """The queue's first element; waits for one, or raises `QueueEmptyError` if `block` is false."""

    def queue_len(self, key: Key) -> int:
        """How many elements the queue has."""

    def barrier(self, key: Key, world_size: int, timeout: Span | None = None) -> None:
        """Block until `world_size` calls were made; the key is good for one use."""

    def has_extended_api(self) -> bool:
        """Whether there are `append`, `multi_get`, `multi_set` and the queues."""

    def clone(self) -> Store:
        """A handle on the same data with a timeout of its own."""


class Forwarder(abc.ABC):
    """Base class of stores that pass each call on: every operation calls `_forward` with its name.

    A timeout that was left out is passed only where torch's stores have it: for `barrier`, as `None`.
    """

    @abc.abstractmethod
    def _forward(self, name: str, *arguments: Any) -> Any:
        """The answer of an operation, whose arguments are as they were passed."""

    def set(self, key: Key, value: Value) -> None:
        self._forward("set", key, value)

    def get(self, key: Key) -> bytes:
        return cast(bytes, self._forward("get", key))

    def add(self, key: Key, amount: int) -> int:
        return cast(int, self._forward("add", key, amount))

    def compare_set(self, key: Key, expected: Value, desired: Value) -> bytes:
        return cast(bytes, self._forward("compare_set", key, expected, desired))

    def wait(self, keys: Iterable[Key], timeout: Span | None = None, may_timeout: bool = False) -> None:
        keys = as_asked(keys, may_timeout=True) if may_timeout else keys
        self._forward("wait", keys, *([] if timeout is None else [timeout]))

    def check(self, keys: Iterable[Key]) -> bool:
        return cast(bool, self._forward("check", keys))

    def delete_key(self, key: Key) -> bool:
        return cast(bool, self._forward("delete_key", key))

    def append(self, key: Key, value: Value) -> None:
        self._forward("append", key, value)

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value]) -> None:
        self._forward("multi_set", keys, values)

    def multi_get(self, keys: Iterable[Key]) -> list[bytes]:
        return cast(list[bytes], self._forward("multi_get", keys))

    def num_keys(self) -> int:
        return cast(int, self._forward("num_keys"))

    def list_keys(self) -> list[str]:
        return cast(list[str], self._forward("list_keys"))

    def queue_push(self, key: Key, value: Value) -> None:
        self._forward("queue_push", key, value)

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        return cast(bytes, self._forward("queue_pop", key, block))

    def queue_len(self, key: Key) -> int:
        return cast(int, self._forward("queue_len", key))

    def barrier(self, key: Key, world_size: int, timeout: Span | None = None) -> None:
        self._forward("barrier", key, world_size, timeout)

    def has_extended_api(self) -> bool:
        return cast(bool, self._forward("has_extended_api"))
