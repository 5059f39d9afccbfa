"""The hang detector over a served store, whose ranks are threads here, and whose processes only sleep."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.events import PhaseBegan, PhaseEnded, RankExited, RankStood
from pytest_elastic.hang import Stack
from pytest_elastic.launch._hang_detector import HangDetector
from pytest_elastic.loop import Loop
from pytest_elastic.processes import Family
from pytest_elastic.store import RemoteStore, StoreServer, barrier

LONG = 20.0


def waiting_process(child: str = "") -> subprocess.Popen[bytes]:
    """One that waits for a message, as the thread of a rank does that waits in the store.

    Args:
        child: what it starts before.
    """
    start = f"import subprocess; p = subprocess.Popen({child!r}, shell=True); " if child else ""
    code = f"{start}import _socket; ends = _socket.socketpair(); ends[0].recv(1)"
    return subprocess.Popen([sys.executable, "-S", "-E", "-c", code], start_new_session=bool(child))


class Group:
    """Three ranks."""

    def __init__(self, clock: str = "auto") -> None:
        self.processes = [waiting_process() for _ in range(3)]
        self.loop, self.timer = Loop(), float("inf")
        self.asked: list[list[int]] = []  # Who was asked for its stacks.
        self.detector = HangDetector(self, 3, clock, True)
        self.server = StoreServer(sink=self.detector.sink, loop=self.loop)
        self.loop.start()
        self.errors: list[Any] = [None] * 3
        self.threads: list[threading.Thread] = []
        self.stores: list[RemoteStore] = []
        for rank in range(3):
            self.call("note", [PhaseBegan(time.monotonic(), rank, "call")])

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the detector, in the loop."""
        return self.loop.call(lambda: getattr(self.detector, method)(*arguments))

    def dump_stacks(self, ranks: Sequence[int], done: Callable[[dict[int, list[Stack]]], object]) -> None:
        self.asked.append(list(ranks))
        done({rank: [] for rank in ranks})

    def pids(self) -> dict[int, int]:
        return {rank: process.pid for rank, process in enumerate(self.processes)}

    def family(self, rank: int) -> Family:
        return Family(self.pids()[rank])

    def next_timer(self) -> float:
        return self.timer

    def run(self, rank: int, work: Callable[[RemoteStore], object]) -> None:
        """Let a rank do this; when it is done, or has failed, its phase has ended."""
        store = self.server.store(rank)
        self.stores.append(store)

        def act() -> None:
            outcome = "passed"
            try:
                work(store)
            except Exception as error:
                outcome, self.errors[rank] = "failed", error
            self.call("note", [PhaseEnded(time.monotonic(), rank, "call", outcome)])

        self.threads.append(threading.Thread(target=act, daemon=True))
        self.threads[-1].start()

    def join(self) -> list[Any]:
        """Every rank's error, once they are done."""
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()
        return self.errors

    def close(self) -> None:
        self.call("close")
        self.server.close()
        self.loop.close()
        for thread in self.threads:
            thread.join(LONG)
        for store in self.stores:
            store.close()
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def group() -> Iterator[Group]:
    """A group whose clock jumps."""
    made = Group()
    yield made
    made.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def meet(store: RemoteStore, name: str = "b", rank: int | None = None) -> None:
    barrier(store, 3, name, 300, rank=rank)


def test_a_barrier_that_one_has_missed(group: Group) -> None:
    """Found, named, and left at once; the stacks are those of the ranks that wait."""
    group.run(0, meet)
    group.run(1, meet)
    group.run(2, lambda store: None)
    errors = group.join()
    found = group.detector.diagnosis
    assert found is not None
    assert (found.verdict, found.ranks, found.doomed, found.exact) == ("MissingRank", (2,), (0, 1), True)
    assert found.elapsed is not None
    assert [round(error.elapsed / 10) for error in errors[:2]] == [30, 30]
    assert group.asked == [[0, 1]]


def test_it_is_known_while_another_rank_computes(group: Group) -> None:
    """The clock waits for that one."""
    go = threading.Event()
    group.run(0, meet)
    group.run(1, lambda store: None)
    group.run(2, lambda store: go.wait(LONG))
    until(lambda: group.detector.diagnosis is not None)
    assert group.asked == []
    assert group.threads[0].is_alive()
    go.set()
    assert type(group.join()[0]) is DistStoreError


def test_a_real_clock_only_tells(group: Group) -> None:
    """The waits stay; when time is over the verdict is there."""
    group.call("begin", "real")
    group.run(0, lambda store: store.wait(["never"], 300))
    for rank in (1, 2):
        group.run(rank, lambda store: None)
    until(lambda: group.detector.stacks)
    assert group.threads[0].is_alive()
    assert group.detector.diagnosis is not None
    assert not group.detector.moves


@pytest.mark.parametrize("how", ["a store of its own", "an address", "the group in its hands"])
def test_where_somebody_else_may_write_nobody_is_accused(group: Group, how: str) -> None:
    """Neither by a verdict nor by the clock."""
    if how == "a store of its own":
        group.call("launcher_writes")
    elif how == "an address":
        assert group.server.address
    else:
        group.call("launcher_waits", False)
    for rank in range(3):
        group.run(rank, lambda store: store.wait(["go"], 300))
    until(lambda: sum(type(event).__name__ == "WaitBegan" for event in list(group.detector.events)) == 3)
    time.sleep(0.05)
    assert group.detector.diagnosis is None
    group.server.store().set("go", "1")
    assert group.join() == [None] * 3


def test_who_starts_to_wait_is_looked_at_again(group: Group) -> None:
    """A launcher that does nothing but wait any more cannot end the ranks' waits."""
    group.call("launcher_waits", False)
    for rank in range(3):
        group.run(rank, lambda store: store.wait(["go"], 300))
    until(lambda: sum(type(event).__name__ == "WaitBegan" for event in list(group.detector.events)) == 3)
    group.call("launcher_waits", True)
    assert [type(error) for error in group.join()] == [DistStoreError] * 3


def test_a_wait_that_may_time_out_is_no_hang(group: Group) -> None:
    """It jumps, and what its rank does then ends the others' waits."""

    def work(store: RemoteStore) -> None:
        with pytest.raises(DistStoreError):
            store.wait(["never"], 100, may_timeout=True)
        store.set("go", "1")

    group.run(0, work)
    for rank in (1, 2):
        group.run(rank, lambda store: store.wait(["go"], 300))
    assert group.join() == [None] * 3
    assert group.detector.diagnosis is None


def test_what_follows_from_a_hang_is_no_second_one(group: Group) -> None:
    """The first verdict stays."""
    group.run(0, lambda store: store.wait(["a"], 100))
    group.run(1, lambda store: store.wait(["b"], 200))

    def late(store: RemoteStore) -> None:
        try:
            store.wait(["c"], 150)
        except DistStoreError:
            store.wait(["d"], 300)

    group.run(2, late)
    group.join()
    assert group.detector.diagnosis is not None
    assert set(group.detector.diagnosis.keys) == {"a", "b", "c"}


def test_a_hang_that_was_dealt_with_is_forgotten(group: Group) -> None:
    """Who was served since had no trouble with it; the next hang is another one."""

    def work(store: RemoteStore) -> None:
        with pytest.raises(DistStoreError):
            store.wait(["never"], 100)
        meet(store)

    for rank in range(3):
        group.run(rank, work)
    assert group.join() == [None] * 3
    assert group.detector.diagnosis is None


def expect_timeout(store: RemoteStore, key: str = "never", seconds: float = 100) -> None:
    with pytest.raises(DistStoreError):
        store.wait([key], seconds)


def test_a_rank_that_passes_after_its_timeout_has_dealt_with_it(group: Group) -> None:
    """Those who still wait are judged anew: it is they alone who hang now."""
    group.run(0, expect_timeout)
    group.run(1, lambda store: store.wait(["never"], 200))
    group.run(2, lambda store: None)
    group.join()
    found = group.detector.diagnosis
    assert found is not None
    assert (found.doomed, found.cause.partition(" and ")[0]) == ((1,), "ranks 0, 2 passed")


def test_a_rank_that_fails_of_something_else_has_dealt_with_it(group: Group) -> None:
    """As the launcher says before it tells of the end; nothing is left of the verdict."""

    def work(store: RemoteStore) -> None:
        expect_timeout(store)
        store.set("x", "1")
        group.call("went_on", 1)
        raise ValueError("loss is nan")

    group.run(0, expect_timeout)
    group.run(1, work)
    group.run(2, expect_timeout)
    group.join()
    assert group.detector.diagnosis is None


def test_a_failure_after_a_hang_that_was_dealt_with_leads(group: Group) -> None:
    """The others hang because of it, and not of what all have got over."""
    met = threading.Barrier(3)

    def work(store: RemoteStore, fails: bool = False) -> None:
        expect_timeout(store)
        met.wait(LONG)
        if fails:
            group.call("went_on", 1)
            raise ValueError("loss is nan")
        until(lambda: any(type(event) is PhaseEnded for event in list(group.detector.events)))
        meet(store)

    group.run(0, work)
    group.run(1, lambda store: work(store, fails=True))
    group.run(2, work)
    group.join()
    found = group.detector.diagnosis
    assert found is not None
    assert (found.verdict, found.ranks) == ("MissingRank", (1,))


def test_who_cleans_up_and_fails_of_its_timeout_still_hung(group: Group) -> None:
    """Though a barrier of all was served in between; the verdict is one on the wait that it failed of."""

    def work(store: RemoteStore) -> None:
        try:
            store.wait(["never"], 100)
        finally:
            meet(store)
            store.set("clean", "1")

    for rank in range(3):
        group.run(rank, work)
    assert [type(error) for error in group.join()] == [DistStoreError] * 3
    found = group.detector.diagnosis
    assert found is not None
    assert "never" in found.keys
    assert found.doomed == (0, 1, 2)


def test_a_later_timeout_is_another_one(group: Group) -> None:
    """A rank that fails of a wait in which nobody hung has got over the one before."""
    met, go = threading.Barrier(3), threading.Event()

    def work(store: RemoteStore, last: Callable[[], object]) -> None:
        expect_timeout(store)
        met.wait(LONG)
        last()

    group.run(0, lambda store: work(store, lambda: store.wait(["late"], 0.05)))
    for rank in (1, 2):
        group.run(rank, lambda store: work(store, lambda: go.wait(LONG)))
    until(lambda: any(type(event) is PhaseEnded for event in list(group.detector.events)))
    assert type(group.errors[0]) is DistStoreError
    assert group.detector.diagnosis is None
    go.set()
    group.join()


def test_who_is_late_elsewhere_is_not_late_of_the_hang(group: Group, monkeypatch: Any) -> None:
    """When time is over and all have got over their timeouts, they are named by what they do."""
    monkeypatch.setattr("pytest_elastic.launch._hang_detector.CONFIRM", 0.0)
    go = threading.Event()
    for rank in range(3):
        group.run(rank, lambda store: (expect_timeout(store), go.wait(LONG)))
    until(lambda: sum(type(event).__name__ == "WaitEnded" for event in list(group.detector.events)) == 3)
    group.call("give_up", [RankStood(time.monotonic(), 1, "spinning")])
    found = group.detector.diagnosis
    go.set()
    group.join()
    assert found is not None
    assert (found.verdict, found.ranks) == ("Spinning", (1,))


@pytest.mark.parametrize("more", [False, True])
def test_what_a_rank_that_died_did_last(group: Group, more: bool) -> None:
    """The requests of the barrier that timed out are not work that it went on to."""

    def work(store: RemoteStore) -> None:
        with pytest.raises(DistStoreError):
            meet(store, rank=0)
        if more:
            store.set("x", "1")

    group.run(1, lambda store: None)
    group.run(2, lambda store: None)
    group.detector.went_on = lambda rank: None  # type: ignore[method-assign] # Its end is none of a phase.
    group.run(0, work)
    group.join()
    assert group.call("did_more", 0) is more


def test_a_timer_that_comes_first_is_waited_for(group: Group) -> None:
    """The verdict is there, and the clock stands."""
    group.timer = time.monotonic() + 50
    for rank in range(3):
        group.run(rank, lambda store: store.wait(["go"], 300))
    until(lambda: group.detector.stacks)
    time.sleep(0.05)
    assert all(thread.is_alive() for thread in group.threads)


def test_a_rank_with_a_child_is_only_suspected(group: Group) -> None:
    """A child cannot write, but it may signal."""
    give_a_child(group)
    for rank in range(3):
        group.run(rank, lambda store: store.wait(["go"], 300))
    assert [type(error) for error in group.join()] == [DistStoreError] * 3
    assert group.detector.diagnosis is not None
    assert not group.detector.diagnosis.exact
    os.killpg(group.processes[0].pid, signal.SIGKILL)  # It leads a session of its own.


def test_a_child_that_may_signal_a_handler_is_waited_for(group: Group) -> None:
    """It sleeps, and what it does then nobody knows; when time is over the suspicion is told."""
    give_a_child(group)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)  # The ranks' clients are threads of this process.
    try:
        for rank in range(3):
            group.run(rank, lambda store: store.wait(["go"], 300))
        until(lambda: sum(type(event).__name__ == "WaitBegan" for event in list(group.detector.events)) == 3)
        time.sleep(1.5)
        assert group.detector.diagnosis is None
        group.call("give_up", [])
        assert group.detector.diagnosis is not None
        assert not group.detector.diagnosis.exact
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.killpg(group.processes[0].pid, signal.SIGKILL)


def give_a_child(group: Group) -> None:
    """Let rank 0 be a process that waits for a child of its own."""
    group.processes[0].kill()
    group.processes[0].wait()
    group.processes[0] = waiting_process("exec sleep 600")
    until(lambda: _has_child(group.processes[0].pid))


def _has_child(pid: int) -> bool:
    from pytest_elastic.processes import children

    return bool(children(pid))


def test_when_time_is_over_the_kernel_is_asked(group: Group) -> None:
    """A rank that does nothing in the store is named by what it does."""
    group.run(0, meet)
    until(lambda: sum(type(event).__name__ == "WaitBegan" for event in list(group.detector.events)) == 1)
    group.call("give_up", [RankStood(time.monotonic(), 1, "stopped")])
    assert group.detector.diagnosis is not None
    assert (group.detector.diagnosis.verdict, group.detector.diagnosis.ranks) == ("Stopped", (1,))


def test_another_test_knows_nothing_of_it(group: Group) -> None:
    """What was found and what happened is forgotten."""
    for rank in range(3):
        group.run(rank, lambda store: store.wait(["go"], 300))
    group.join()
    assert group.detector.diagnosis is not None
    group.call("begin", "auto")
    assert (group.detector.diagnosis, group.detector.stacks, list(group.detector.events)) == (None, {}, [])


def test_files_of_ranks_are_closed_when_these_end(group: Group) -> None:
    """Or when another test begins; a detector that is closed opens none."""

    def opened() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # That of the list.
                found += os.readlink(f"/proc/self/fd/{name}").startswith("/proc/")
        return found

    before, go = group.loop.call(opened), threading.Event()
    group.run(0, meet)
    group.run(1, lambda store: None)
    group.run(2, lambda store: go.wait(LONG))
    until(lambda: group.detector.diagnosis is not None)
    assert group.loop.call(opened) == before + 4  # Of ranks 0 and 1.
    group.call("note", [RankExited(time.monotonic(), 1, 0)])
    assert group.loop.call(opened) == before + 2
    group.call("begin", "auto")
    assert group.loop.call(opened) == before
    group.call("close")
    go.set()
    group.threads[2].join(LONG)
    group.loop.call(lambda: None)  # A round, in which it would have looked.
    assert group.loop.call(opened) == before


def test_who_polls_loses_no_time_of_the_others(group: Group) -> None:
    """One that waits for the same again has its timeouts at once; the clock of the others stands."""

    def poll(store: RemoteStore) -> None:
        for _ in range(50):
            with pytest.raises(DistStoreError) as info:
                store.wait(["never"], 100)
            assert info.value.elapsed is not None
            assert info.value.elapsed >= 100
        store.set("go", "1")

    group.run(0, poll)
    for rank in (1, 2):
        group.run(rank, lambda store: store.wait(["go"], 300))
    assert group.join() == [None] * 3


def test_a_poll_without_end_is_noticed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds, and then nothing is let pass any more."""
    monkeypatch.setattr("pytest_elastic.launch._polls._LONG", 0.2)
    over = threading.Event()

    def poll(store: RemoteStore) -> None:
        while not over.is_set():
            with suppress(DistStoreError):
                store.wait(["never"], 2)

    group.run(0, poll)
    for rank in (1, 2):
        group.run(rank, lambda store: None)
    until(lambda: group.detector.endless)
    assert 'timeouts of wait("never")' in group.detector.endless
    assert group.detector.diagnosis is not None
    assert group.detector.diagnosis.verdict == "DoomedWait"
    over.set()
    group.join()


def test_a_fault_in_the_verdict_costs_no_store(group: Group, caplog: Any, monkeypatch: Any) -> None:
    """It is logged once; the wait then ends by the machine's clock."""
    monkeypatch.setattr("pytest_elastic.launch._hang_detector.diagnose", lambda graph: 1 / 0)
    with caplog.at_level(logging.ERROR):
        for rank in range(3):
            group.run(rank, lambda store: store.wait(["go"], 0.5))
        assert [type(error) for error in group.join()] == [DistStoreError] * 3
    store = group.server.store(1)
    group.stores.append(store)
    store.set("a", "1")
    assert len([one for one in caplog.records if "will not be found" in one.message]) == 1


def test_a_fault_of_the_detector_costs_no_store(group: Group, caplog: Any) -> None:
    """It is logged once, and the ranks go on."""
    group.detector._graph.take = lambda event: 1 / 0  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        group.run(0, lambda store: store.set("a", "1"))
        until(lambda: caplog.records)
    store = group.server.store(1)
    group.stores.append(store)
    assert store.get("a") == b"1"
    assert len([one for one in caplog.records if "will not be found" in one.message]) == 1
