"""What a rank sees of its group: its number, the size, the store, and three collectives over it."""

from __future__ import annotations

import pickle
from collections import Counter
from datetime import timedelta
from typing import Any

from pytest_elastic.store import Store, barrier
from pytest_elastic.store._arguments import Asked


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

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank.  Values are pickled, 16 MiB each at most.

        Raises:
            DistStoreError: some value did not come within the store's timeout.
        """
        __tracebackhide__ = True
        prefix = self._prefix("gather")
        self.store.set(f"{prefix}/{self.rank}", pickle.dumps(value))
        ranks = range(self.size)
        found = self.store.multi_get(Asked([f"{prefix}/{rank}" for rank in ranks], writers=ranks))
        return [pickle.loads(data) for data in found]

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value that rank `src` gave, on every rank; the others' is not looked at.

        Raises:
            ValueError: there is no rank `src`.
            DistStoreError: it did not come within the store's timeout.
        """
        __tracebackhide__ = True
        if src not in range(self.size):
            raise ValueError(f"src must be a rank, 0 to {self.size - 1}, not {src!r}")
        key = self._prefix(f"broadcast/{src}")
        if self.rank == src:
            self.store.set(key, pickle.dumps(value))
            return value
        return pickle.loads(self.store.multi_get(Asked([key], writers=(src,)))[0])

    def _prefix(self, name: str) -> str:
        self._calls[name] += 1
        return f"world/{name}/{self._calls[name]}"
