"""A store within a store: every key gets a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store._api import Forwarder, Key, Span
from pytest_elastic.store._arguments import Asked, as_asked, as_key, as_keys, as_span, as_world_size
from pytest_elastic.store._handle import members_of, timeout_error
from pytest_elastic.store._operations import OPERATIONS


class PrefixStore(Forwarder):
    """Any store (torch's included) under keys that begin with `prefix` and a slash.

    It has no timeout of its own: `set_timeout` sets the store's underneath.  `num_keys` counts that store's
    keys, `list_keys` gives only the own ones, without the prefix.  Errors name the keys as the caller did.

    >>> from pytest_elastic.store import HashStore
    >>> store = HashStore()
    >>> PrefixStore("job", store).set("epoch", "1")
    >>> store.list_keys()
    ['job/epoch']

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

    def list_keys(self) -> list[str]:
        """The keys below the prefix, without it."""
        return [key[len(self._prefix) :] for key in super().list_keys() if key.startswith(self._prefix)]

    def barrier(self, key: Key, world_size: int, timeout: Span | None = None) -> None:
        super().barrier(key, as_world_size(world_size), timeout)

    def clone(self) -> PrefixStore:
        """The same prefix over a clone of the underlying store."""
        return PrefixStore(self._prefix[:-1], self._forward("clone"))

    def members(self, key: Key) -> list[int] | None:
        """As the underlying store knows them; `None` if it is not ours."""
        return members_of(self.underlying_store, self._prefix + as_key(key))

    def _forward(self, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        try:
            return getattr(self.underlying_store, name)(*self._prefixed(name, arguments))
        except DistStoreError as error:
            self._rename(error)
            raise

    def _prefixed(self, name: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """The arguments with the prefix at each key, and a timeout as torch's stores take it."""
        operation = OPERATIONS.get(name)
        if operation is None or operation.keyless:
            return arguments
        first, *rest = arguments
        timeouts = [as_span(one) for one in rest[len(operation.arguments) - 1 :] if one is not None]
        rest = [*rest[: len(operation.arguments) - 1], *timeouts]
        if not operation.many:
            return self._prefix + as_key(first), *rest
        asked = as_asked(first) if operation.blocks else as_keys(first)
        names = [self._prefix + key for key in asked]
        return asked.of(names) if isinstance(asked, Asked) else names, *rest

    def _rename(self, error: DistStoreError) -> None:
        """Let the error name the keys without the prefix."""
        error.keys = tuple(key.removeprefix(self._prefix) for key in error.keys)
        if error.keys and error.timeout is not None and error.elapsed is not None:
            error.args = timeout_error(error.keys, error.timeout, error.elapsed).args
