"""What all our stores share: arguments are checked and timeouts are counted here, once.

A `Handle` turns a call into `_call(name, ...)` for an operation that answers at once, or
`_block(seconds, name, ...)` for one that may wait; its arguments are then `str` keys, `bytes` values and
numbers.  Carriers implement these two.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from pytest_elastic.clock import to_seconds
from pytest_elastic.errors import DistStoreError
from pytest_elastic.pristine import os
from pytest_elastic.store._api import Key, Span, Value
from pytest_elastic.store._arguments import (
    Arrival,
    Asked,
    as_amount,
    as_asked,
    as_key,
    as_keys,
    as_span,
    as_value,
    as_values,
    as_world_size,
)
from pytest_elastic.store._meetings import unpacked

DEFAULT_TIMEOUT = timedelta(seconds=300)
_NAMED = 16


class Handle(abc.ABC):
    """One way into a store's data, with a timeout of its own (300 s at first).

    Errors of every operation: `TypeError` and `ValueError` name the argument, before anything changed.

    Attributes:
        place: the (rank, world_size) of who uses it, where the harness has given it one.
    """

    def __init__(self, timeout: Span = DEFAULT_TIMEOUT) -> None:
        self.place: tuple[int, int] | None = None
        self.set_timeout(timeout)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied; `clone()` shares its data")

    @abc.abstractmethod
    def _call(self, name: str, *arguments: Any) -> Any:
        """The answer of an operation that never blocks."""

    @abc.abstractmethod
    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        """The answer of an operation that may block for so many seconds."""

    @property
    def timeout(self) -> timedelta:
        """How long an operation of this handle may block; see `set_timeout`."""
        return self._timeout

    def set_timeout(self, timeout: Span) -> None:
        """For operations that begin after this; zero and less look once and do not block."""
        self._timeout = as_span(timeout)
        self._seconds = self._timeout.total_seconds()

    def set(self, key: Key, value: Value) -> None:
        """Store the value, whatever was there."""
        self._call("set", as_key(key), as_value(value))

    def get(self, key: Key) -> bytes:
        """The value; waits for the key.

        Raises:
            DistStoreError: it did not come within the timeout.
        """
        __tracebackhide__ = True
        answer: bytes = self._block(self._seconds, "get", as_key(key))
        return answer

    def add(self, key: Key, amount: int) -> int:
        """Add to the number that the value spells in decimal, 0 where there is none.

        Returns:
            The sum, which wraps as signed 64-bit numbers do.

        Raises:
            ValueError: the value has no digits.
            IndexError: it does not fit 64 bits.
        """
        if type(amount) is Arrival:
            rank = -1 if amount.rank is None else amount.rank
            answer: int = self._call("arrive", as_key(key), rank, amount.world_size)
        else:
            answer = self._call("add", as_key(key), as_amount(amount))
        return answer

    def compare_set(self, key: Key, expected: Value, desired: Value) -> bytes:
        """Store `desired` if the value is `expected`, or if there is none and `expected` is empty.

        Returns:
            `desired` if it was stored, else the present value, else (there is none) `expected`.
        """
        arguments = as_key(key), as_value(expected, "expected"), as_value(desired, "desired")
        answer: bytes = self._call("compare_set", *arguments)
        return answer

    def wait(self, keys: Iterable[Key], timeout: Span | None = None, may_timeout: bool = False) -> None:
        """Block until all keys exist, as values or as queues.

        Args:
            may_timeout: the caller counts on a timeout: the wait is no hang, whoever else waits.

        Raises:
            DistStoreError: they did not within `timeout` (the store's own where none is given).
        """
        __tracebackhide__ = True
        seconds = self._seconds if timeout is None else to_seconds(timeout)
        asked = as_asked(keys, may_timeout)
        if type(asked) is Asked:
            seconds = min(seconds, asked.seconds)
        self._block(seconds, "wait", asked)

    def check(self, keys: Iterable[Key]) -> bool:
        """Whether all keys exist now, as values or as queues."""
        answer: bool = self._call("check", as_keys(keys))
        return answer

    def delete_key(self, key: Key) -> bool:
        """Remove the value (not the queue) of this name; whether there was one."""
        answer: bool = self._call("delete_key", as_key(key))
        return answer

    def append(self, key: Key, value: Value) -> None:
        """Put bytes at the value's end; creates it."""
        self._call("append", as_key(key), as_value(value))

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value]) -> None:
        """Store all at once; of a repeated key the last counts.

        Raises:
            ValueError: not as many values as keys.
        """
        names, contents = as_keys(keys), as_values(values)
        if len(names) != len(contents):
            raise ValueError(f"multi_set: {len(names)} keys but {len(contents)} values")
        self._call("multi_set", names, contents)

    def multi_get(self, keys: Iterable[Key]) -> list[bytes]:
        """The values in the order asked; waits for all keys, under one deadline.

        Raises:
            DistStoreError: some did not come within the timeout.
        """
        __tracebackhide__ = True
        answer: list[bytes] = self._block(self._seconds, "multi_get", as_asked(keys))
        return answer

    def num_keys(self) -> int:
        """How many values there are."""
        answer: int = self._call("num_keys")
        return answer

    def list_keys(self) -> list[str]:
        """The keys that have a value, in any order."""
        answer: list[str] = self._call("list_keys")
        return answer

    def queue_push(self, key: Key, value: Value) -> None:
        """Put an element at the queue's end."""
        self._call("queue_push", as_key(key), as_value(value))

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """The queue's first element; poppers are served in the order in which they came.

        Raises:
            QueueEmptyError: there is none and `block` is false.
            DistStoreError: none came within the timeout.
        """
        __tracebackhide__ = True
        answer: bytes = self._block(self._seconds, "queue_pop", as_key(key), bool(block))
        return answer

    def queue_len(self, key: Key) -> int:
        """How many elements the queue has, 0 where there is none."""
        answer: int = self._call("queue_len", as_key(key))
        return answer

    def barrier(self, key: Key, world_size: int, timeout: Span | None = None) -> None:
        """Block until `world_size` calls with this key were made; later ones pass at once.

        Raises:
            DistStoreError: they were not within `timeout` (the store's own where none is given).
        """
        __tracebackhide__ = True
        seconds = self._seconds if timeout is None else to_seconds(timeout)
        self._block(seconds, "barrier", as_key(key), as_world_size(world_size))

    def has_extended_api(self) -> bool:
        """Always: `append`, `multi_get`, `multi_set` and the queues are there."""
        return True

    def members(self, key: Key) -> list[int]:
        """The ranks that `add`ed an `Arrival` to this key, in their order; `barrier` asks for them."""
        answer: list[int] = self._call("members", as_key(key))
        return answer

    def post(self, name: Key, count: int, place: int, call: bytes, value: bytes) -> None:
        """Give a call and a value to a meeting, as the member of this place among `count`.

        Raises:
            CollectiveMismatch: a member's call has another signature, which is a call's first line.
            ValueError: somebody has given as this member before.
        """
        __tracebackhide__ = True
        self._call("post", as_key(name), count, place, call, value)

    def meet(
        self,
        name: Key,
        count: int,
        place: int,
        needs: Sequence[int],
        given: tuple[bytes, bytes] = (b"", b""),
        timeout: Span | None = None,
    ) -> list[bytes]:
        """Give a call and a value as `post` does, or with the place -1 nothing; then wait for members.

        Args:
            needs: the places of those who are waited for.

        Returns:
            Their calls and values: a call and a value of each needed member, in that order.

        Raises:
            CollectiveMismatch: a member's call has another signature.
            DistStoreError: some did not come within `timeout` (the store's own where none is given); `keys`
                are those that stand for them, `f"{name}/{place}"`.
        """
        __tracebackhide__ = True
        seconds = self._seconds if timeout is None else to_seconds(timeout)
        arguments = as_key(name), count, place, tuple(needs), *given
        return unpacked(self._block(seconds, "meet", *arguments), len(needs), given[0])


def members_of(store: Any, key: str) -> list[int] | None:
    """The ranks that `add`ed an `Arrival` to this key; `None` where the store is none of ours."""
    ask = getattr(store, "members", None)
    ranks: list[int] | None = None if ask is None else ask(key)
    return ranks


def timeout_error(keys: tuple[str, ...], timeout: float, elapsed: float) -> DistStoreError:
    """The error of a wait that ended without these keys; both spans are in seconds."""
    names = ", ".join(map(repr, keys[:_NAMED]))
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    text = f"Wait timeout after {elapsed * 1000:.0f} ms, missing keys: {names}{rest}"
    return DistStoreError(text, keys=keys, timeout=timeout, elapsed=elapsed)


class Forked(Protocol):
    """An object with locks or descriptors that only the process which made it may use."""

    def after_fork(self) -> None:
        """Let go of them, in the child; those of the parent are untouched."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch_forks(one: Forked) -> None:
    """Call its `after_fork` in every child that this process forks, while it lives."""
    _watched.add(one)


def _let_go() -> None:
    for one in list(_watched):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
