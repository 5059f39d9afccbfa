"""A store of ours as one of torch's; the only file that imports torch, and only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from pytest_elastic.errors import DistError, _rebuild
from pytest_elastic.store._arguments import as_span
from pytest_elastic.store._handle import members_of
from pytest_elastic.store._operations import OPERATIONS

_NAMES = {
    name: one.name for one in OPERATIONS.values() if one.torch is not None for name in (one.name, *one.torch)
}
_NAMES["has_extended_api"] = "has_extended_api"


def torch_store(store: Any) -> Any:
    """The store as a `torch.distributed.Store`, for `init_process_group(store=...)` and the like.

    One store has one such object, which lives as long as the store: keep the store, since torch keeps only
    the C++ half of the object.  A store of torch's is returned as it is.  Errors of the store are torch's as
    well as ours, also when they have come through C++: `DistStoreError`, `DistNetworkError` and
    `QueueEmptyError` of either package catch them.  Thread-safe, as far as the store is.

    Raises:
        ImportError: torch is not installed.
    """
    kind = _bridge()
    if isinstance(store, kind.__base__):
        return store
    there = vars(store).get("_torch_store")
    if there is None:
        there = store._torch_store = kind(store)
    return there


def torchs_store(host: str, port: int, timeout: float) -> Any:
    """A client of a `TCPStore` of torch's that somebody serves there; blocks for `timeout` seconds at most.

    Raises:
        ImportError: torch is not installed.
        RuntimeError: nobody serves one.
    """
    from datetime import timedelta

    import torch.distributed as torchs

    stores: Any = torchs
    return stores.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout))


def as_torchs(error: DistError) -> DistError:
    """The error as one that torch's own code takes for its own; as it is, if torch is not there or has none.

    It pickles as what it was.
    """
    ours: Any = type(error)
    kind = _both(ours) if "torch.distributed" in sys.modules else ours
    if kind is ours:
        return error
    other: DistError = kind.__new__(kind)
    other.args = error.args
    other.__dict__.update(vars(error))
    return other.with_traceback(error.__traceback__)


@cache
def _both(ours: Any) -> Any:
    """The type that is also torch's of this name, or of that of a base."""
    names = vars(sys.modules["torch.distributed"])
    theirs = next((names[kind.__name__] for kind in ours.__mro__ if kind.__name__ in names), ours)
    if issubclass(ours, theirs):
        return ours

    def reduce(error: DistError) -> Any:
        return _rebuild, (ours, error.args, vars(error))

    return type(ours.__name__, (ours, theirs), {"__reduce__": reduce, "__module__": ours.__module__})


@cache
def _bridge() -> Any:
    try:
        from torch import distributed

        torch_kind: Any = vars(distributed)["Store"]
    except (ImportError, KeyError) as error:
        raise ImportError(f"torch_store needs torch, the extra `pytest-elastic[torch]`: {error}") from error

    class Bridge(torch_kind):  # type: ignore[misc]
        """Passes every call on to a store of ours."""

        def __init__(self, store: Any) -> None:
            super().__init__()
            self.store = store
            self._span = store.timeout
            self._clones: list[Any] = []
            super().set_timeout(self._span)

        @property
        def timeout(self) -> Any:
            return self.store.timeout

        def set_timeout(self, timeout: Any) -> None:
            super().set_timeout(as_span(timeout))
            self._span = super().timeout
            self.store.set_timeout(timeout)

        def follow(self) -> None:
            """C++ sets the timeout of its half without telling: set the store's when that one changed."""
            span = super().timeout
            if span != self._span:
                self._span = span
                self.store.set_timeout(span)

        def members(self, key: str) -> list[int] | None:
            return members_of(self.store, key)

        def clone(self) -> Any:
            clone = torch_store(self.store.clone())
            self._clones.append(clone)
            return clone

    for name, operation in _NAMES.items():
        setattr(Bridge, name, _passing_on(operation))
    return Bridge


def _passing_on(operation: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        self.follow()
        try:
            return getattr(self.store, operation)(*arguments, **named)
        except DistError as error:
            raise as_torchs(error) from error.__cause__

    call.__name__ = operation
    return call
