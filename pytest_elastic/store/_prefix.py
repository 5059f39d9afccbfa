"""A store within a store: every key gets a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NoReturn

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store._api import Key, Span, Value
from pytest_elastic.store._arguments import Asked, as_asked, as_key, as_keys, as_span, as_world_size
from pytest_elastic.store._handle import members_of, timeout_error


class PrefixStore:
    """Any store (torch's included) under keys that begin with `prefix` and a slash.

    It has no timeout of its own: `set_timeout` sets the store's underneath.  `num_keys` counts that store's
    keys, `list_keys` gives only the own ones, without the prefix.  Errors name the keys as the caller did.

    Attributes:
        underlying_store: the store that was given.

    Raises:
        TypeError: the prefix is no `str`.
        ValueError: the store is `None`.
    """

    def __init__(self, prefix: str, store: Any) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be str, not {type(prefix).__name__}")
        if store is None:
            raise ValueError("a PrefixStore needs a store, not None")
        self.underlying_store = store
        self._prefix = f"{as_key(prefix, 'prefix')}/"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a PrefixStore cannot be pickled or copied; `clone()` shares its data")

    @property
    def place(self) -> tuple[int, int] | None:
        """The underlying store's; `None` if it is not ours."""
        place: tuple[int, int] | None = getattr(self.underlying_store, "place", None)
        return place

    @property
    def timeout(self) -> timedelta:
        """The underlying store's."""
        span: timedelta = self.underlying_store.timeout
        return span

    def set_timeout(self, timeout: Span) -> None:
        """Set the underlying store's."""
        self.underlying_store.set_timeout(as_span(timeout))

    def set(self, key: Key, value: Value) -> None:
        self._run("set", self._key(key), value)

    def get(self, key: Key) -> bytes:
        answer: bytes = self._run("get", self._key(key))
        return answer

    def add(self, key: Key, amount: int) -> int:
        answer: int = self._run("add", self._key(key), amount)
        return answer

    def compare_set(self, key: Key, expected: Value, desired: Value) -> bytes:
        answer: bytes = self._run("compare_set", self._key(key), expected, desired)
        return answer

    def wait(self, keys: Iterable[Key], timeout: Span | None = None, may_timeout: bool = False) -> None:
        self._run("wait", self._asked(keys, may_timeout), *_span(timeout))

    def check(self, keys: Iterable[Key]) -> bool:
        answer: bool = self._run("check", self._keys(keys))
        return answer

    def delete_key(self, key: Key) -> bool:
        answer: bool = self._run("delete_key", self._key(key))
        return answer

    def append(self, key: Key, value: Value) -> None:
        self._run("append", self._key(key), value)

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value]) -> None:
        self._run("multi_set", self._keys(keys), values)

    def multi_get(self, keys: Iterable[Key]) -> list[bytes]:
        answer: list[bytes] = self._run("multi_get", self._asked(keys))
        return answer

    def num_keys(self) -> int:
        answer: int = self._run("num_keys")
        return answer

    def list_keys(self) -> list[str]:
        return [key[len(self._prefix) :] for key in self._run("list_keys") if key.startswith(self._prefix)]

    def queue_push(self, key: Key, value: Value) -> None:
        self._run("queue_push", self._key(key), value)

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        answer: bytes = self._run("queue_pop", self._key(key), block)
        return answer

    def queue_len(self, key: Key) -> int:
        answer: int = self._run("queue_len", self._key(key))
        return answer

    def barrier(self, key: Key, world_size: int, timeout: Span | None = None) -> None:
        self._run("barrier", self._key(key), as_world_size(world_size), *_span(timeout))

    def has_extended_api(self) -> bool:
        """As the underlying store."""
        answer: bool = self._run("has_extended_api")
        return answer

    def clone(self) -> PrefixStore:
        """The same prefix over a clone of the underlying store."""
        return PrefixStore(self._prefix[:-1], self._run("clone"))

    def members(self, key: Key) -> list[int] | None:
        """As the underlying store knows them; `None` if it is not ours."""
        return members_of(self.underlying_store, self._key(key))

    def _key(self, key: Key) -> str:
        return self._prefix + as_key(key)

    def _keys(self, keys: Iterable[Key]) -> list[str]:
        return [self._prefix + key for key in as_keys(keys)]

    def _asked(self, keys: Iterable[Key], may_timeout: bool = False) -> list[str]:
        asked = as_asked(keys, may_timeout)
        names = [self._prefix + key for key in asked]
        return asked.of(names) if isinstance(asked, Asked) else names

    def _run(self, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        try:
            return getattr(self.underlying_store, name)(*arguments)
        except DistStoreError as error:
            self._rename(error)
            raise

    def _rename(self, error: DistStoreError) -> None:
        """Let the error name the keys without the prefix."""
        error.keys = tuple(key.removeprefix(self._prefix) for key in error.keys)
        if error.keys and error.timeout is not None and error.elapsed is not None:
            error.args = timeout_error(error.keys, error.timeout, error.elapsed).args


def _span(timeout: Span | None) -> tuple[timedelta, ...]:
    """The timeout as torch's stores take it: not at all, or as a `timedelta`."""
    return () if timeout is None else (as_span(timeout),)
