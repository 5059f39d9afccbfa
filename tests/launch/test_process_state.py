"""Which threads and children of a rank may still go on, and when it is asked for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pytest_elastic.events import PhaseBegan, WaitBegan
from pytest_elastic.hang import WaitGraph
from pytest_elastic.launch._process_state import Companies
from pytest_elastic.processes import threads

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
    assert group.companies.next_look(EARLY) == EARLY
    assert group.asked == []
    assert not group.is_closed(LATE)
    assert not group.is_closed(LATE)
    assert group.asked == [0]


@pytest.mark.parametrize("group", [(HELPER, 2)], indirect=True)
def test_a_rank_with_other_threads_is_asked_at_once(group: Group) -> None:
    """When they sleep: it knows what they may do."""
    deadline = time.monotonic() + LONG
    while not group.asked and time.monotonic() < deadline:
        assert not group.is_closed(EARLY)
    assert group.asked == [0]


@pytest.mark.parametrize("group", [(WAITS, 1)], indirect=True)
def test_a_group_is_looked_at_more_and_more_seldom(group: Group) -> None:
    """While events come nothing is suspected."""
    companies = group.companies
    ages = [0.0, 0.002, 0.004, 0.1]
    assert [companies.next_look(age) for age in ages] == [0.0005, 0.002, 0.004, 0.02]
    companies.are_confirmed(group.graph, 1, LATE)
    assert companies.suspicion is not None
    companies.are_confirmed(group.graph, 2, EARLY)
    assert companies.suspicion is None
