"""What must hold of a barrier whatever the schedule: between threads, over a server, and between processes."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import late

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import HashStore, RemoteStore, StoreServer, StoreState, barrier, recording

FAR = 30.0  # Seconds; a barrier that takes so long is stuck.
SLACK = 10.0  # Seconds that a timeout may be exceeded by, on a machine that is busy.
CREWS = {"threads": 25, "served threads": 15, "processes": 5}  # And how many examples each can afford.

orders = st.integers(2, 5).flatmap(lambda size: st.permutations(range(size)))
Call = Callable[[Any], object]
Outcome = Callable[[], Any]


class DiedError(Exception):
    """A rank that is a thread has ended in the middle."""


class Crew:
    """Ranks of one kind, each with a handle of its own on one store."""

    def __init__(self, kind: str, server: StoreServer, start: tuple[Any, Any], wait_for: Any) -> None:
        self.kind, self._server, self._wait_for = kind, server, wait_for
        self._threads, self._fork = start
        store = HashStore() if kind == "threads" else server.store()
        self.store: Any = store
        self.state: StoreState = store._data.state if isinstance(store, HashStore) else server.state
        self._numbers = itertools.count()

    def explore(self, check: Callable[..., None], **drawn: st.SearchStrategy[Any]) -> None:
        """Check many examples, each with a prefix of its own."""

        @settings(
            max_examples=CREWS[self.kind],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(**drawn)
        def run(**example: Any) -> None:
            check(f"prefix{next(self._numbers)}", **example)

        run()

    def start(self, call: Call) -> Outcome:
        """Let a rank make this call; what waits for its outcome."""
        if self.kind == "processes":
            address = self._server.address
            outcome: Outcome = self._fork(lambda: call(RemoteStore(address))).outcome
            return outcome
        store = self.store.clone()
        number = self._threads.start(lambda: call(store))
        return lambda: self._threads.outcome(number)

    def start_one_by_one(self, prefix: str, calls: list[Call]) -> list[Outcome]:
        """Start ranks, each when those before it are blocked in this barrier."""
        outcomes = []
        for number, call in enumerate(calls, start=1):
            outcomes.append(self.start(call))
            self._wait_for(lambda number=number: self._blocked(prefix) == number)
        return outcomes

    def die_at(self, operation: str, call: Call) -> None:
        """Let a rank make this call, and end (be killed, if it is a process) when it comes to the operation."""

        def die(*arguments: object) -> None:
            if self.kind == "processes":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DiedError

        def run(store: Any) -> None:
            mortal = recording(store)
            setattr(mortal, operation, die)
            call(mortal)

        outcome = self.start(run)()
        assert outcome is None if self.kind == "processes" else type(outcome) is DiedError

    def count(self, key: str) -> int:
        number: int = self.store.add(key, 0)
        return number

    def wait_for_arrivals(self, prefix: str, number: int) -> None:
        self._wait_for(lambda: self.count(f"{prefix}/num_members") == number)

    def _blocked(self, prefix: str) -> int:
        try:
            return sum(f"{prefix}/last_member" in waiter.keys for waiter in self.state.waiters())
        except RuntimeError:  # They changed meanwhile.
            return -1


@pytest.fixture(params=CREWS)
def crew(request: Any, server: StoreServer, threads: Any, fork: Any, wait_for: Any) -> Crew:
    """Ranks of each kind in turn."""
    return Crew(request.param, server, (threads, fork), wait_for)


def passing(prefix: str, size: int, rank: int | None, seconds: float = FAR) -> Call:
    """A rank's part: pass the barrier, and leave a note of it."""

    def call(store: Any) -> None:
        barrier(store, size, prefix, seconds, rank=rank, trace_timeout=0.02)
        store.add(f"{prefix}/left", 1)

    return call


def patient(prefix: str, call: Call) -> Call:
    """The call, whose waits begin when the key `{prefix}/go` is set: then its timeouts cannot end before."""

    def run(store: Any) -> None:
        slow: Any = recording(store)
        wait = slow.wait

        def wait_later(*arguments: Any) -> None:
            store.wait([f"{prefix}/go"], FAR)
            wait(*arguments)

        slow.wait = wait_later
        call(slow)

    return run


def test_all_or_nobody(crew: Crew) -> None:
    """Nobody leaves before the last one came, then everybody does, in whatever order they come."""

    def check(prefix: str, order: list[int], named: bool) -> None:
        parts = [passing(prefix, len(order), rank if named else None) for rank in order]
        outcomes = crew.start_one_by_one(prefix, parts[:-1])
        assert crew.count(f"{prefix}/left") == 0
        outcomes.append(crew.start(parts[-1]))
        assert [outcome() for outcome in outcomes] == [None] * len(order)
        assert crew.count(f"{prefix}/left") == len(order)
        assert crew.state.waiters() == []

    crew.explore(check, order=orders, named=st.booleans())


def test_all_at_once(crew: Crew) -> None:
    """Each has seen everybody's entry when it leaves, round after round on prefixes of their own."""

    def check(prefix: str, size: int, rounds: int) -> None:
        def call(store: Any) -> list[int]:
            seen = []
            for turn in range(rounds):
                store.add(f"{prefix}/{turn}/entered", 1)
                barrier(store, size, f"{prefix}/{turn}", FAR)
                seen.append(store.add(f"{prefix}/{turn}/entered", 0))
            return seen

        outcomes = [crew.start(call) for _ in range(size)]
        assert [outcome() for outcome in outcomes] == [[size] * rounds] * size

    crew.explore(check, size=st.integers(1, 6), rounds=st.integers(1, 5))


def test_the_few_raise_in_time_and_know_who_is_missing(crew: Crew) -> None:
    """K < n calls all raise, each after its own timeout, with the exact missing set."""

    def check(prefix: str, order: list[int], few: int, spans: list[float], together: bool) -> None:
        some = order[: min(few, len(order) - 1)]
        timeouts = dict(zip(some, spans, strict=False))
        calls = [passing(prefix, len(order), rank, timeouts[rank]) for rank in some]
        outcomes = [crew.start(patient(prefix, call) if together else call) for call in calls]
        crew.wait_for_arrivals(prefix, len(some))
        crew.store.set(f"{prefix}/go", "")
        for rank, error in zip(some, [outcome() for outcome in outcomes], strict=True):
            assert type(error) is DistStoreError
            assert timeouts[rank] <= error.elapsed < timeouts[rank] + late(SLACK)
            # Who came later than this one's timeout is missing, who came before it is not.
            assert set(error.arrived_ranks) == set(some) if together else {rank} <= set(error.arrived_ranks)
            assert set(error.arrived_ranks) <= set(some)
            assert error.missing_ranks == sorted(set(order) - set(error.arrived_ranks))
        assert crew.count(f"{prefix}/left") == 0
        assert crew.state.waiters() == []

    spans = st.lists(st.sampled_from([0.01, 0.03, 0.05]), min_size=5, max_size=5)
    crew.explore(check, order=orders, few=st.integers(1, 4), spans=spans, together=st.booleans())


class Warnings(logging.Handler):
    """The store's warnings in this process, as they come."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def warned(call: Call) -> Call:
    """The call, which gives the warnings of its process meanwhile."""

    def run(store: Any) -> list[str]:
        handler = Warnings()
        log = logging.getLogger("pytest_elastic.store._collective")
        log.addHandler(handler)
        try:
            call(store)
        finally:
            log.removeHandler(handler)
        return handler.texts

    return run


def test_calls_beyond_the_size_pass_at_once_and_are_told(crew: Crew) -> None:
    """With a warning each that names the prefix; nobody else has to come."""

    def check(prefix: str, size: int, more: int) -> None:
        first = [crew.start(passing(prefix, size, rank)) for rank in range(size)]
        assert [outcome() for outcome in first] == [None] * size
        for number in range(size + 1, size + more + 1):
            (text,) = crew.start(warned(passing(prefix, size, None)))()
            assert text.startswith(f"barrier {prefix!r}: call number {number} of {size} passes at once")
        assert crew.count(f"{prefix}/left") == size + more

    crew.explore(check, size=st.integers(1, 4), more=st.integers(1, 3))


def test_a_prefix_used_twice_does_not_synchronise_and_is_told(crew: Crew) -> None:
    """In the second round nobody waits for anybody, whoever begins; each is warned."""

    def check(prefix: str, order: list[int]) -> None:
        size = len(order)
        first = [crew.start(warned(passing(prefix, size, rank))) for rank in order]
        assert [outcome() for outcome in first] == [[]] * size
        for number, rank in enumerate(order, start=1):
            (text,) = crew.start(warned(passing(prefix, size, rank)))()
            assert "a prefix synchronises only once" in text
            assert crew.count(f"{prefix}/left") == size + number  # The others have not come yet.

    crew.explore(check, order=orders)


def test_the_last_rank_dies_before_it_releases_the_others(crew: Crew) -> None:
    """Between `add` and `set`: the others time out, nobody is missing, and the text says so."""

    def check(prefix: str, order: list[int]) -> None:
        size = len(order)
        calls = [passing(prefix, size, rank, 0.02) for rank in order]
        outcomes = [crew.start(patient(prefix, call)) for call in calls[:-1]]
        crew.wait_for_arrivals(prefix, size - 1)
        crew.die_at("set", calls[-1])
        crew.store.set(f"{prefix}/go", "")
        for outcome in outcomes:
            error = outcome()
            assert type(error) is DistStoreError
            assert (error.missing_ranks, error.arrived_ranks) == ([], sorted(order))
            assert str(error).endswith("all ranks arrived, but nobody released the barrier in time")
        assert crew.count(f"{prefix}/left") == 0

    crew.explore(check, order=orders)


def test_the_last_rank_dies_after_it_released_the_others(crew: Crew) -> None:
    """Between `set` and `wait`: the others leave."""

    def check(prefix: str, order: list[int]) -> None:
        size = len(order)
        calls = [passing(prefix, size, rank) for rank in order]
        outcomes = crew.start_one_by_one(prefix, calls[:-1])
        crew.die_at("wait", calls[-1])
        assert [outcome() for outcome in outcomes] == [None] * (size - 1)
        assert crew.count(f"{prefix}/left") == size - 1

    crew.explore(check, order=orders)


def test_a_rank_that_dies_before_it_waits_was_counted(crew: Crew) -> None:
    """Not the last one; the others still need whoever has not come, and leave when he comes."""

    def check(prefix: str, order: list[int]) -> None:
        size = len(order)
        calls = [passing(prefix, size, rank) for rank in order]
        crew.die_at("wait", calls[0])
        outcomes = crew.start_one_by_one(prefix, calls[1:-1])
        assert crew.count(f"{prefix}/left") == 0
        outcomes.append(crew.start(calls[-1]))
        assert [outcome() for outcome in outcomes] == [None] * (size - 1)

    crew.explore(check, order=orders)
