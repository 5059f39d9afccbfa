"""Which threads and children of a rank may still go on, and when it is asked for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from pytest_elastic.events import PhaseBegan, PhaseEnded, RankInspected, WaitBegan
from pytest_elastic.hang import WaitGraph
from pytest_elastic.launch._process_state import Companies
from pytest_elastic.processes import Family, threads

LONG = 20.0
EARLY, LATE = 0.001, 0.05  # Seconds since the last event.
WAITS = "import _socket; ends = _socket.socketpair(); ends[0].recv(1)"
HELPER = (
    f"import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); {WAITS}"
)


class Group:
    """One rank, which waits in the store; its process runs this code."""

    def __init__(self, code: str, count: int) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-E", "-c", code])
        deadline = time.monotonic() + LONG
        while len(threads(self.process.pid)) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        self.server = self
        self.asked: list[int] = []
        self.graph = WaitGraph(1)
        self.graph.take(PhaseBegan(1.0, 0, "call"))
        self.graph.take(WaitBegan(2.0, 0, 0, "wait", ("key",), ("key",), 300.0))
        self.companies = Companies(self)  # type: ignore[arg-type]

    def pids(self) -> dict[int, int]:
        return {0: self.process.pid}

    def family(self, rank: int) -> Family:
        return Family(self.pids()[rank])

    def inspect(self, rank: int) -> None:
        self.asked.append(rank)

    def is_closed(self, age: float) -> bool:
        return self.companies.are_closed(self.graph, True, age)

    def close(self) -> None:
        self.companies.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(*request.param)
    yield made
    made.close()


@pytest.mark.parametrize("group", [("while True: pass", 1)], indirect=True)
def test_who_is_about_to_wait_is_not_asked_at_once(group: Group) -> None:
    """Its thread runs: it has sent its request, and has not come to wait for the answer."""
    assert not group.is_closed(EARLY)
    assert not group.companies.are_confirmed(group.graph, 1, EARLY)
    assert group.companies.next_look() < EARLY
    assert group.asked == []
    assert not group.is_closed(LATE)
    assert not group.is_closed(LATE)
    assert group.asked == [0]


@pytest.mark.parametrize("handlers", [False, True])
@pytest.mark.parametrize("group", [("while True: pass", 1)], indirect=True)
def test_who_has_reported_counts_as_waiting_for_orders(
    group: Group, handlers: bool, monkeypatch: pytest.MonkeyPatch, until: Callable[[Callable[[], bool]], None]
) -> None:
    """Also on the way there: it runs no code but ours, unless a signal has a handler."""
    with closing(Group(WAITS, 1)) as other:
        pids = {0: group.process.pid, 1: other.process.pid}
        monkeypatch.setattr(group, "pids", lambda: pids)
        until(lambda: threads(other.process.pid)[0].receives)
        group.graph = WaitGraph(2)
        for rank in pids:
            group.graph.take(PhaseBegan(1.0, rank, "call"))
        group.graph.take(WaitBegan(2.0, 1, 0, "wait", ("key",), ("key",), 300.0))
        group.graph.take(PhaseEnded(3.0, 0, "call", "passed"))
        assert not group.is_closed(EARLY)
        group.companies.learn(RankInspected(3.0, 0, 0.0, False, handlers, (), ()))
        assert group.is_closed(EARLY) == (not handlers)


@pytest.mark.parametrize("group", [(HELPER, 2)], indirect=True)
def test_a_rank_with_other_threads_is_asked_at_once(group: Group) -> None:
    """When they sleep: it knows what they may do."""
    deadline = time.monotonic() + LONG
    while not group.asked and time.monotonic() < deadline:
        assert not group.is_closed(EARLY)
    assert group.asked == [0]


@pytest.mark.parametrize("group", [(WAITS, 1)], indirect=True)
def test_a_group_is_looked_at_more_and_more_seldom(group: Group) -> None:
    """Until something happens; while events come nothing is suspected."""
    companies = group.companies
    assert [companies.next_look() for _ in range(9)] == pytest.approx(
        [0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.02, 0.02]
    )
    companies.forget(0)
    assert companies.next_look() == 0.0002
    companies.are_confirmed(group.graph, 1, LATE)
    assert companies.suspicion is not None
    companies.are_confirmed(group.graph, 2, EARLY)
    assert companies.suspicion is None
