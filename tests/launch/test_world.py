"""The world's collectives over a served store, whose ranks are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_elastic.events import Event, StoreCalled, WaitBegan
from pytest_elastic.launch._world import World
from pytest_elastic.store import StoreServer

LONG = 20.0


class Ranks:
    """Three worlds, and what their store saw."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.server = StoreServer(sink=self.events.append)
        self.server.start()
        self.stores = [self.server.store(rank) for rank in range(3)]
        for rank, store in enumerate(self.stores):
            store.place = (rank, 3)
        self.worlds = [World(rank, 3, store) for rank, store in enumerate(self.stores)]

    def start(self, rank: int, work: Callable[[World], Any]) -> Callable[[], Any]:
        """Let a rank do this; the function returns what came of it, or the error."""
        found: list[Any] = []

        def act() -> None:
            try:
                found.append(work(self.worlds[rank]))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=act, daemon=True)
        thread.start()

        def join() -> Any:
            thread.join(LONG)
            assert not thread.is_alive()
            return found[0]

        return join

    def requests(self, rank: int) -> list[str]:
        return [one.name for one in self.events if isinstance(one, StoreCalled) and one.rank == rank]

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.server.close()


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """A group."""
    made = Ranks()
    yield made
    made.close()


def test_a_gather_takes_two_requests_and_a_broadcast_too(ranks: Ranks) -> None:
    """On every rank; each gets all values, and the source's."""
    joins = [
        ranks.start(rank, lambda world: (world.gather(world.rank), world.broadcast(world.rank, src=1)))
        for rank in range(3)
    ]
    assert [join() for join in joins] == [([0, 1, 2], 1)] * 3
    ranks.server.tell()
    assert ranks.requests(0) == ["set", "multi_get", "compare_set", "multi_get"]
    assert ranks.requests(1) == ["set", "multi_get", "compare_set", "set"]


def test_ranks_that_name_different_sources_are_told_at_once(ranks: Ranks) -> None:
    """Those who come later, and those who wait already; the first source has gone on and cannot know."""
    waiting = ranks.start(0, lambda world: world.broadcast(None, src=1))
    while not any(isinstance(one, WaitBegan) for one in ranks.events):
        ranks.server.tell()
    errors = [ranks.start(2, lambda world: world.broadcast("two", src=2))(), waiting()]
    errors.append(ranks.start(1, lambda world: world.broadcast("one", src=1))())
    text = "broadcast number 1: src=2 on rank 2, but src=1 on rank 0"
    assert [(type(error), str(error)) for error in errors] == [(ValueError, text)] * 3


def test_sources_may_differ_from_one_broadcast_to_the_next(ranks: Ranks) -> None:
    """They are told apart by their number."""
    joins = [
        ranks.start(rank, lambda world: [world.broadcast(world.rank, src=src) for src in (0, 2, 2, 1)])
        for rank in range(3)
    ]
    assert [join() for join in joins] == [[0, 2, 2, 1]] * 3


def test_what_cannot_be_pickled_is_no_call(ranks: Ranks) -> None:
    """The next gather of all ranks is still the first."""
    joins = [ranks.start(rank, lambda world: _gather(world)) for rank in range(3)]
    assert [join() for join in joins] == [[0, 1, 2]] * 3


def _gather(world: World) -> list[int]:
    if world.rank == 1:
        with pytest.raises(Exception, match=r"lambda|pickle"):
            world.gather(lambda: None)
    return world.gather(world.rank)


def test_a_source_that_is_no_rank(ranks: Ranks) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(ValueError, match="src must be a rank, 0 to 2, not 3"):
        ranks.worlds[0].broadcast("value", src=3)
    assert ranks.events == []
