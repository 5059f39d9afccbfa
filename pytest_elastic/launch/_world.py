"""What a rank sees of its group: its number, the size, the store, and three collectives over it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, TypeVar

from pytest_elastic.pristine import pickle
from pytest_elastic.store import Asked, Store, asked_of_all, barrier

T = TypeVar("T")


class World:
    """The group as one of its ranks sees it.

    All ranks must call the collectives in the same order, as with any collective.  Each call blocks for
    the slowest rank, at most `timeout` seconds (the store's own timeout where none is given).

    Attributes:
        rank: 0 to size - 1.
        size: how many ranks.
        store: shared by the group, fresh for each test.
    """

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank, self.size, self.store = rank, size, store
        self._calls: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"

    def barrier(self, name: str = "", timeout: float | timedelta | None = None) -> None:
        """Wait until every rank has called it as often as this one; a name may be used again.

        Raises:
            DistStoreError: some did not come in time; the text and `.missing_ranks` name them.
        """
        __tracebackhide__ = True
        span = self.store.timeout if timeout is None else timeout
        seconds = span.total_seconds() if isinstance(span, timedelta) else span
        barrier(self.store, self.size, self._prefix(f"barrier/{name}"), seconds, rank=self.rank)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank.  Values are pickled, 16 MiB each at most.

        Raises:
            TypeError: a value cannot be pickled here, or unpickled; the text names its rank and type.
            DistStoreError: some value did not come within the store's timeout.
        """
        __tracebackhide__ = True
        data = _pack(value, f"gather: the value of rank {self.rank}")  # What raises here is no call.
        prefix = self._prefix("gather")
        self.store.set(f"{prefix}/{self.rank}", data)
        found = self.store.multi_get(asked_of_all(self.store, self.rank, f"{prefix}/", self.size))
        return list(map(_unpack, found, (f"gather: the value of rank {rank}" for rank in range(self.size))))

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value that rank `src` gave, on every rank; the others' is not looked at.

        Raises:
            ValueError: there is no rank `src`, or another rank names another one.  All ranks that come later,
                or wait, are told; a source that came first has gone on.
            TypeError: the value cannot be pickled or unpickled.
            DistStoreError: the value did not come within the store's timeout.
        """
        __tracebackhide__ = True
        if src not in range(self.size):
            raise ValueError(f"src must be a rank, 0 to {self.size - 1}, not {src!r}")
        src, what = int(src), f"broadcast: the value of rank {src}"
        data = _pack(value, what) if self.rank == src else b""
        number = self._prefix("broadcast").rpartition("/")[2]
        source, key = f"world/broadcast/src/{number}", f"world/broadcast/{src}/{number}"
        said = self.store.compare_set(source, "", f"{src} {self.rank}").decode()
        first = said.partition(" ")[0]
        if first != str(src):
            raise ValueError(self._differ(source, said, src, number) if first.isdigit() else said)
        if self.rank == src:
            self.store.set(key, data)
            return value
        (data,) = self.store.multi_get(Asked([key], writers=(src,)))
        if not data:  # Which no value is: the others' sources differ.
            raise ValueError(self.store.get(source).decode())
        return _unpack(data, what)

    def _differ(self, source: str, said: str, src: int, number: str) -> str:
        """Tell those who wait for another source, and those who are still to come; what they are told."""
        other, rank = said.split()
        text = f"broadcast number {number}: src={src} on rank {self.rank}, but src={other} on rank {rank}"
        self.store.set(source, text)
        self.store.set(f"world/broadcast/{other}/{number}", b"")
        return text

    def _prefix(self, name: str) -> str:
        self._calls[name] += 1
        return f"world/{name}/{self._calls[name]}"


def _pack(value: object, what: str) -> bytes:
    """Its type's name, a new line, and the pickle."""
    __tracebackhide__ = True
    name = type(value).__name__
    try:
        return name.encode("utf-8", "replace") + b"\n" + pickle.dumps(value)
    except Exception as error:
        raise TypeError(f"{what}, a {name}, cannot be pickled: {type(error).__name__}: {error}") from None


def _unpack(data: bytes, what: str) -> Any:
    __tracebackhide__ = True
    name, _, content = data.partition(b"\n")
    try:
        return pickle.loads(content)
    except Exception as error:
        text = f"{what}, a {name.decode()}, cannot be unpickled: {type(error).__name__}: {error}"
        raise TypeError(text) from None
