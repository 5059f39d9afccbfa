"""One execution: wake rules, time, alarms, and what ranks may not do."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError
from pytest_elastic.simulator import (
    Deadlock,
    HangUntilTimeout,
    RankFailed,
    Setting,
    Simulation,
    SparseScheduler,
    TimerExpired,
    point,
    prove,
    simulate,
)
from pytest_elastic.store import PrefixStore
from pytest_elastic.timer import expires
from simulator.programs import count_by_hand, end_alone, exchange, take_notice

DEFAULT = SparseScheduler


def run(function, schedule="E1.2.l", **named):
    return simulate(function, schedule, **named)


def test_a_correct_program(crew):
    """Everybody returns; the record has the steps, in which each was one of those enabled."""
    execution = run(exchange, "E1.3.l").check()
    assert execution.results == [0, 1, 2]
    assert [step.rank for step in execution.steps[:3]] == [0, 0, 1]
    assert str(execution.steps[1]) == "rank 0: wait(['a/last_member'])"
    assert all(step in steps for step, steps in zip(execution.steps, execution.enabled, strict=True))
    assert execution.blocked == ()
    assert execution.now == 0.0


def test_the_default_continues_the_rank_that_ran():
    """One rank goes as far as it can; a delay lets another one go before."""

    def work(rank, world_size, store):
        store.set(f"{rank}a", "")
        store.set(f"{rank}b", "")

    def order(token):
        return [step.keys[0] for step in run(work, token).steps]

    assert order("E1.2.l") == ["0a", "0b", "1a", "1b"]
    assert order("E1.2.l.1-1") == ["0a", "1a", "1b", "0b"]
    assert order("E1.2.l.0-1.0-1") == ["1a", "0a", "0b", "1b"]


def test_a_bug_that_one_delay_shows(crew):
    """The counter that loses an update: fine by default, a hang after one delay."""
    run(count_by_hand, "E1.3.l").check()
    with pytest.raises(HangUntilTimeout, match=r"ranks 0-2 would hang for 300 s") as info:
        run(count_by_hand, "E1.3.l.1-1").check()
    assert [each.missing for each in info.value.blocked] == [("go",)] * 3


@pytest.mark.parametrize(
    ("token", "hangs"),
    [
        ("E1.2.l", True),  # Rank 0 does it all, before rank 1 comes.
        ("E1.2.l.0-1", False),  # Rank 1 waits first; the write marks the key as seen.
        ("E1.2.v.0-1", True),  # Rank 1 waits first, and looks when it is deleted.
        ("E1.2.v.0-1.0-1", False),  # It looks in between.
    ],
)
def test_wake_rules(token, hangs, crew):
    """A key that comes and goes is seen by a latched waiter, and by a level waiter that looks in time."""
    verdict = run(take_notice, token).verdict
    assert isinstance(verdict, HangUntilTimeout) if hangs else verdict is None


def test_a_wait_without_an_end(crew):
    """No deadline and nobody who can run: a deadlock."""

    def wait(rank, world_size, store):
        store.wait([f"{rank}"], float("inf"))

    with pytest.raises(Deadlock) as info:
        run(wait).check()
    assert info.value.ranks == [0, 1]


def test_a_hang_is_known_when_it_begins():
    """Time does not pass for a hang, unless the test has timeouts on purpose."""
    hang = run(end_alone, "E1.3.l")
    assert hang.now == 0.0
    assert hang.errors == {}
    assert isinstance(hang.verdict, HangUntilTimeout)
    assert hang.verdict.ranks == [0, 1]

    timed_out = run(end_alone, "E1.3.l", may_timeout=True)
    assert timed_out.now == 300.0
    assert isinstance(timed_out.verdict, RankFailed)
    assert timed_out.verdict.type_name == "DistStoreError"


def test_a_wait_that_may_time_out_is_no_hang(crew):
    """Whoever else waits; its time passes, and what its rank does then is done.  The next wait is judged anew."""

    def work(rank, world_size, store):
        if rank == 1:
            store.wait(["go"])
            return store.num_keys()
        with pytest.raises(DistStoreError, match="after 5000 ms"):
            PrefixStore("p", store).wait(["never"], 5, may_timeout=True)
        store.set("go", "1")

    def stay(rank, world_size, store):
        with contextlib.suppress(DistStoreError):
            store.wait(["never"], 5, may_timeout=True)
        store.wait(["never"], 7)

    assert run(work).check().results == [None, 1]
    assert prove(work, ranks=2).traces > 0
    verdict = run(stay).verdict
    assert isinstance(verdict, HangUntilTimeout)
    assert (verdict.ranks, verdict.seconds) == ([0, 1], 7.0)


def test_timeouts_count_virtual_seconds(crew):
    """A wait ends after its timeout, on the virtual clock, with the error of every store."""

    def wait(rank, world_size, store):
        started = time.monotonic()
        store.set_timeout(7)
        with pytest.raises(DistStoreError, match="7000 ms, missing keys: 'never'") as info:
            store.get("never")
        return time.monotonic() - started, info.value.elapsed, info.value.keys

    assert run(wait, may_timeout=True).check().results == [(7.0, 7.0, ("never",))] * 2


def test_a_timeout_of_zero_looks_once():
    """No time needs to pass for a wait that does not wait, so it is no hang."""

    def look(rank, world_size, store):
        with pytest.raises(DistStoreError):
            store.wait(["never"], 0)

    assert run(look).check().now == 0.0


def test_sleep_passes_virtual_time(crew):
    """Sleepers wake in the order of their times, and a sleep is no hang."""

    def sleep(rank, world_size, store):
        time.sleep(3600 * (3 - rank))
        return time.time(), store.add("n", 1)

    assert run(sleep, "E1.3.l").check().results == [(10800.0, 3), (7200.0, 2), (3600.0, 1)]


def test_the_waiter_of_a_sleeper_times_out():
    """Whoever waits less long than another one sleeps is told so: that is no hang but an error."""

    def work(rank, world_size, store):
        if rank == 0:
            time.sleep(10)
            store.set("k", "")
        else:
            store.wait(["k"], 5)

    assert run(work).verdict.type_name == "DistStoreError"


def test_deadlines_of_one_moment_come_in_any_order():
    """What is due at the same time is a matter of the schedule."""

    def work(rank, world_size, store):
        time.sleep(1)
        return store.add("n", 1)

    assert run(work).results == [1, 2]
    assert run(work, "E1.2.l.1-1").results == [2, 1]


def test_explored_time():
    """With expiries a deadline may pass while others could run; so often, and not more."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("k", "")
            return None
        try:
            store.wait(["k"], 5)
        except DistStoreError:
            return "expired"
        return "seen"

    assert run(work, "E1.2.l.0-1").results[1] == "seen"
    assert run(work, "E1.2.l.0-1.0-1~x1").results[1] == "expired"
    with Simulation(work, Setting(2, expiries=1)) as simulation:
        execution = simulation.run(SparseScheduler([(0, 1), (0, 1)]))
    assert [step.kind for step in execution.steps] == ["call", "expire", "call"]
    assert execution.now == 5.0


def test_explored_time_is_bounded():
    """One early alarm is one: the other wait is answered."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("k", "")
            return None
        try:
            store.wait(["k"], 5 + rank)
        except DistStoreError:
            return "expired"
        return "seen"

    def outcomes(expiries):
        found = set()
        with Simulation(work, Setting(3, expiries=expiries)) as simulation:
            for seed in range(200):
                found.add(tuple(simulation.run(Random(seed)).results[1:]))
        return {results.count("expired") for results in found}

    assert outcomes(0) == {0}
    assert outcomes(1) == {0, 1}
    assert outcomes(2) == {0, 1, 2}


class Random:
    """Any step is as good as another."""

    def __init__(self, seed):
        self.source = random.Random(seed)

    def choose(self, decision):
        return self.source.randrange(len(decision.steps))


def test_a_fast_clock_times_out_early():
    """A timeout of 10 s is over after 5 on a clock that runs at twice the speed; its error counts 10."""

    def work(rank, world_size, store):
        with pytest.raises(DistStoreError) as info:
            store.wait(["never"], 10)
        return info.value.elapsed

    with Simulation(work, Setting(1, skew=(1.0,), may_timeout=True)) as simulation:
        execution = simulation.run(DEFAULT(()))
    assert (execution.now, execution.results) == (5.0, [10.0])


def test_skewed_clocks():
    """A clock that is fast sees its timeouts early, in true time."""

    def work(rank, world_size, store):
        time.sleep(10)
        return time.time(), store.add("n", 1)

    with Simulation(work, Setting(2, skew=(0.0, 1.0))) as simulation:
        execution = simulation.run(DEFAULT(()))
    assert execution.results == [(10.0, 2), (10.0, 1)]
    assert execution.now == 10.0


def test_timers(crew):
    """A block that takes longer than it may ends its rank; one that does not is left alone."""

    def work(rank, world_size, store):
        with expires(after=5, scope="work"):
            time.sleep(4)
        with expires(after=5, scope="more work"):
            time.sleep(4 if rank == 0 else 6)
        return SYSTEM_CLOCK.monotonic()

    execution = run(work)
    assert execution.results == [8.0, None]
    assert execution.expired == {1: "more work"}
    with pytest.raises(TimerExpired, match="the timer 'more work' of rank 1 expired") as info:
        execution.check()
    assert info.value.rank == 1


def test_a_hang_that_a_timer_would_end():
    """A timer is a deadline like others."""

    def work(rank, world_size, store):
        with expires(after=5):
            store.wait(["never"])

    assert isinstance(run(work).verdict, HangUntilTimeout)
    assert isinstance(run(work, may_timeout=True).verdict, TimerExpired)


def test_points(crew):
    """`point` lets others run, and does nothing outside of a simulation."""
    point()
    seen = []

    def work(rank, world_size, store):
        seen.append(rank)
        point("here")
        seen.append(rank)

    run(work, "E1.2.l")
    assert seen == [0, 1, 0, 1]
    seen.clear()
    assert [str(step) for step in run(work, "E1.2.l.0-1").steps] == [
        "rank 1: point('here')",
        "rank 0: point('here')",
    ]
    assert seen == [0, 1, 1, 0]


def test_an_exception_is_the_verdict_and_the_waiters_are_not():
    """The rank that failed is named, who waits for it is told besides."""

    def work(rank, world_size, store):
        if rank == 1:
            raise KeyError("lost")
        store.wait(["k"])

    verdict = run(work).verdict
    assert isinstance(verdict, RankFailed)
    assert (verdict.rank, verdict.type_name, verdict.ranks) == (1, "KeyError", [1])
    assert 'raise KeyError("lost")' in verdict.trace
    assert [each.rank for each in verdict.blocked] == [0]
    assert isinstance(verdict.__cause__, KeyError)


def test_ranks_are_unwound(crew):
    """Whoever did not return has its `finally` run, where the store does nothing any more."""
    ends = []

    def work(rank, world_size, store):
        try:
            store.wait(["never"])
        finally:
            ends.append(rank)
            store.set("k", "")
            ends.append("not here")

    execution = run(work)
    assert ends == [0, 1]
    assert [step.name for step in execution.steps] == ["wait", "wait"]
    assert execution.errors == {}


def test_a_rank_that_does_not_care_is_unwound_all_the_same():
    """A program that catches everything does not get on by it."""

    def work(rank, world_size, store):
        try:
            store.wait(["never"])
        except BaseException:
            return "caught"

    execution = run(work)
    assert execution.results == [None, None]
    assert isinstance(execution.verdict, HangUntilTimeout)


def test_the_store_of_another_rank(crew):
    """A rank that uses another one's store is told so."""
    stores = []

    def work(rank, world_size, store):
        stores.append(store)
        if rank == 1:
            stores[0].set("k", "")

    execution = run(work)
    assert isinstance(execution.errors[1], RuntimeError)
    assert "the store of simulated rank 0 was used by another" in str(execution.errors[1])


def test_a_scheduler_that_fails():
    """Its exception comes out, and the simulation goes on with the next run."""

    class Failing:
        def choose(self, decision):
            raise ZeroDivisionError

    with Simulation(exchange, Setting(2)) as simulation:
        with pytest.raises(ZeroDivisionError):
            simulation.run(Failing())
        assert simulation.run(DEFAULT(())).verdict is None


def test_what_is_due_now_rings_before_anything_is_a_hang(crew):
    """A wait and a sleep that end at one moment: the sleeper goes on first, the wait is over all the same."""

    def work(rank, world_size, store):
        if rank == 0:
            store.wait(["a"], 1.0)
        else:
            time.sleep(1.0)
            store.wait(["b"])

    execution = run(work, "E1.2.l.1-1")
    assert isinstance(execution.verdict, RankFailed)
    assert isinstance(execution.errors[0], DistStoreError)
