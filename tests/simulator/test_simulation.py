"""Simulations: used again and again, by programs that behave and by those that do not."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref

import pytest

from pytest_elastic.simulator import (
    Cut,
    HangUntilTimeout,
    Setting,
    Simulation,
    SparseScheduler,
    UncontrolledBlocking,
    _crew,
    compare,
    simulate,
)
from simulator.programs import count_by_hand, end_alone, exchange


def test_many_runs(crew):
    """Runs are independent of each other, those that end early included."""
    with Simulation(count_by_hand, Setting(3)) as simulation:
        good, bad, again, bad_again = (
            simulation.run(SparseScheduler(delays)) for delays in ((), ((1, 1),)) * 2
        )
    assert compare(good, again) is None
    assert compare(bad, bad_again) is None
    assert good.verdict is None
    assert isinstance(bad.verdict, HangUntilTimeout)


def test_outside_of_its_block():
    """Before and after its block a simulation does not run, since nothing would end its ranks."""
    simulation = Simulation(exchange, Setting(2))
    with pytest.raises(RuntimeError, match="inside of its `with` block"):
        simulation.run(SparseScheduler(()))
    with simulation:
        assert simulation.run(SparseScheduler(())).verdict is None
    with pytest.raises(RuntimeError, match="inside of its `with` block"):
        simulation.run(SparseScheduler(()))


def test_no_thread_is_left(crew):
    """At the end of the block the ranks' threads have ended, whatever they were in the middle of."""
    before = threading.enumerate()
    with Simulation(end_alone, Setting(3)) as simulation:
        simulation.run(SparseScheduler(()))
    assert threading.enumerate() == before


def test_an_exception_in_the_block():
    """It comes out, and nothing is left."""
    before = threading.enumerate()
    with pytest.raises(ZeroDivisionError):
        with Simulation(exchange, Setting(2)) as simulation:
            simulation.run(SparseScheduler(()))
            raise ZeroDivisionError
    assert threading.enumerate() == before


def test_a_cut_run(crew):
    """A scheduler may have seen enough: no verdict, ranks unwound, and the next run is whole."""

    class Impatient:
        def choose(self, decision):
            if decision.number == 2:
                raise Cut
            return 0

    with Simulation(exchange, Setting(2)) as simulation:
        cut = simulation.run(Impatient())
        whole = simulation.run(SparseScheduler(()))
    assert (cut.cut, cut.verdict, len(cut.steps)) == (True, None, 2)
    assert whole.results == [0, 1]


def test_uncontrolled_blocking(crew, monkeypatch):
    """A rank that waits for a real lock is called that, with its stack, and no deadlock; the others unwind."""
    monkeypatch.setattr(_crew, "PATIENCE", 1.0)
    lock = threading.Lock()
    ends = []

    def work(rank, world_size, store):
        try:
            with lock:
                store.add("n", 1)
        finally:
            ends.append(rank)

    with Simulation(work, Setting(2)) as simulation:
        with pytest.raises(
            UncontrolledBlocking, match=r"(?s)rank 1 came to no operation.*with lock:"
        ) as info:
            simulation.run(SparseScheduler(((0, 1),))).check()
        assert info.value.rank == 1
        deadline = time.monotonic() + 5
        while len(ends) < 2 and time.monotonic() < deadline:
            pass
        assert sorted(ends) == [0, 1]


def test_after_uncontrolled_blocking(monkeypatch, crew):
    """The next run has a fresh crew."""
    monkeypatch.setattr(_crew, "PATIENCE", 0.2)
    spin = [True]

    def work(rank, world_size, store):
        while spin[0]:
            pass
        return store.add("n", 1)

    with Simulation(work, Setting(2)) as simulation:
        assert isinstance(simulation.run(SparseScheduler(())).verdict, UncontrolledBlocking)
        spin[0] = False
        monkeypatch.setattr(_crew, "PATIENCE", 5.0)
        assert simulation.run(SparseScheduler(())).results == [1, 2]


def test_a_rank_with_threads(crew):
    """A rank's own thread must not use the store; the rank is told."""

    def work(rank, world_size, store):
        errors = []

        def use():
            try:
                store.add("n", 1)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        return str(errors[0])

    assert "another rank or thread" in simulate(work, ranks=1).check().results[0]


def test_a_store_that_is_kept(crew):
    """After its run a rank's store is of no use."""
    kept = []
    simulate(lambda rank, world_size, store: kept.append(store), ranks=1)
    with pytest.raises(RuntimeError, match="another rank or thread"):
        kept[0].add("n", 1)


def test_nothing_is_kept(crew):
    """Objects of a run go with its record."""

    class Thing:
        pass

    things = []

    def work(rank, world_size, store):
        thing = Thing()
        things.append(weakref.ref(thing))
        store.wait(["never"])
        return thing

    with Simulation(work, Setting(2)) as simulation:
        simulation.run(SparseScheduler(()))
        simulation.run(SparseScheduler(()))
    del simulation
    gc.collect()
    assert [thing() for thing in things] == [None] * 4


def test_system_exit_is_an_exception_like_others(crew):
    """A rank that exits has failed; the process goes on."""

    def work(rank, world_size, store):
        raise SystemExit(3)

    assert simulate(work, ranks=1).verdict.type_name == "SystemExit"


def test_the_users_interrupt(crew):
    """Control-C comes out, wherever the ranks are, and nothing of them stays."""
    ends = []

    def work(rank, world_size, store):
        try:
            store.add("n", 1)
            if rank == 1:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            store.wait(["never"])
        finally:
            ends.append(rank)

    before = threading.enumerate()
    with Simulation(work, Setting(3)) as simulation:
        with pytest.raises(KeyboardInterrupt):
            simulation.run(SparseScheduler(()))
            time.sleep(5)  # Where the interrupt of a thread comes late.
    assert threading.enumerate() == before
    assert sorted(ends) == [0, 1, 2]


def test_an_interrupt_while_a_rank_computes(crew):
    """The rank is ended, too, and the next run has other ranks."""

    first = [True]

    def work(rank, world_size, store):
        while first:
            first[:] = [signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)]
            while True:
                pass
        return store.add("n", 1)

    before = threading.enumerate()
    with Simulation(work, Setting(2)) as simulation:
        with pytest.raises(KeyboardInterrupt):
            simulation.run(SparseScheduler(()))
        first.clear()
        assert simulation.run(SparseScheduler(())).results == [1, 2]
    assert threading.enumerate() == before
