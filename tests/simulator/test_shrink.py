"""Failures made simple, and shown to come again."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from pytest_elastic.faults import delay, kill
from pytest_elastic.simulator import (
    Execution,
    HangUntilTimeout,
    Nondeterminism,
    RankFailed,
    Schedule,
    Setting,
    Simulation,
    UncontrolledBlocking,
    compare,
    confirm,
    explore,
    shrink,
    simulate,
)
from simulator.programs import count_by_hand, end_alone, exchange


def needs_two(rank, world_size, store):
    """Fails where rank 2 runs right after rank 0's first step, and rank 1 right after rank 0's third."""
    if rank == 0:
        for name in ("a", "b", "c", "d"):
            store.set(name, "")
    elif rank == 2:
        store.set("one", "")
        if store.check(["a"]) and not store.check(["b"]):
            store.set("hit", "")
    else:
        store.set("two", "")
        assert not (store.check(["c", "hit"]) and not store.check(["d"])), "both"


def simulate_randomly(function, seed):
    """A random walk through the schedules."""

    class Walk:
        def choose(self, decision):
            return source.randrange(len(decision.steps))

    source = random.Random(seed)
    with Simulation(function, Setting(3)) as simulation:
        return simulation.run(Walk())


def fails(function, delays, **setting):
    execution = simulate(function, Schedule(Setting(**setting), tuple(delays)))
    assert execution.verdict is not None
    return execution


@pytest.mark.parametrize(
    "delays",
    [((1, 1),), ((0, 1), (0, 1), (2, 1), (1, 1)), ((1, 2), (1, 1), (0, 2)), ((1, 1), (5, 1), (0, 1))],
)
def test_one_delay_is_found_among_many(delays, crew):
    """A failure that one delay makes is shown with one, in the smallest group."""
    best = shrink(count_by_hand, fails(count_by_hand, delays, ranks=4))
    assert (best.setting.ranks, best.delays) == (2, ((1, 1),))
    assert isinstance(best.verdict, HangUntilTimeout)


def test_the_same_failure_becomes_the_same():
    """Nothing is left to chance."""
    failure = fails(count_by_hand, ((1, 2), (1, 1), (0, 2)), ranks=3)
    assert compare(shrink(count_by_hand, failure), shrink(count_by_hand, failure)) is None


def test_two_delays():
    """What two delays need has two; with one of them, or none, it does not fail."""
    walks = (simulate_randomly(needs_two, seed) for seed in range(1000))
    failure = next(walk for walk in walks if walk.verdict is not None and len(walk.delays) > 5)
    best = shrink(needs_two, failure)
    assert len(best.delays) == 2
    for delays in ((), best.delays[:1], best.delays[1:]):
        assert simulate(needs_two, delays, ranks=3).verdict is None


def test_a_delay_comes_as_early_as_it_can():
    """Of many moments for one delay the first is taken, and of the alternatives the nearest."""

    def work(rank, world_size, store):
        seen = store.check(["n"])
        for _ in range(5):
            store.add("step", 1)
        assert seen or not store.check(["n"]), "somebody came in between"
        store.set("n", "")

    for ranks, delays in ((2, ((5, 1),)), (3, ((5, 2),))):
        best = shrink(work, fails(work, delays, ranks=ranks))
        assert (best.setting.ranks, best.delays) == (2, ((1, 1),))


def test_needless_delays_go():
    """What fails by default has no delays at the end; its group stays as it is."""
    best = shrink(end_alone, fails(end_alone, ((0, 1), (1, 1)), ranks=4))
    assert (best.setting.ranks, best.delays) == (4, ())


def test_faults_that_do_not_matter_go():
    """Only the kill that makes the hang is left."""
    plan = delay(rank=0, by=1, op=1) | kill(rank=2, op=1) | delay(rank=1, by=1, op=2)
    best = shrink(exchange, fails(exchange, ((2, 1),), ranks=3, faults=plan))
    assert best.setting.faults == kill(rank=2, op=1)
    assert best.delays == ()


def test_expiries_that_do_not_matter_go():
    """Explored time is left out where virtual time will do."""
    best = shrink(count_by_hand, fails(count_by_hand, ((1, 1),), ranks=3, expiries=3))
    assert best.setting.expiries == 0


def test_another_failure_is_not_taken_for_it():
    """An exception stays the exception that it was, though a simpler schedule fails otherwise."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("k", "")
            store.delete_key("k")
        else:
            assert not store.check(["k"]), "seen"
            store.wait(["k"])

    failure = fails(work, ((1, 1), (0, 1)), ranks=2)
    assert isinstance(failure.verdict, RankFailed)
    best = shrink(work, failure)
    assert isinstance(best.verdict, RankFailed)
    assert best.delays == ((1, 1),)


def test_a_function_for_three_ranks_stays_with_three():
    """On two it fails for a reason of its own."""

    def work(rank, world_size, store):
        if rank == 2:
            store.set("third", "")
        store.wait(["third"])
        count_by_hand(rank, world_size, store)

    failure = next(
        execution
        for place in range(30)
        if (execution := simulate(work, [(place, 1)], ranks=3)).verdict is not None
    )
    assert shrink(work, failure).setting.ranks == 3


def test_the_budget():
    """With nothing to spend the failure stays as it is."""
    failure = fails(count_by_hand, ((1, 2), (1, 1), (0, 2)), ranks=3)
    assert shrink(count_by_hand, failure, budget=0) is failure


def test_a_failure_that_comes_again(crew):
    """Run ten times more, and always the same."""
    calls = itertools.count()

    def work(rank, world_size, store):
        next(calls)
        count_by_hand(rank, world_size, store)

    failure = fails(work, ((1, 1),), ranks=3)
    assert confirm(work, failure) is failure
    assert next(calls) == 3 * 11


@pytest.mark.parametrize("simplify", [shrink, confirm])
def test_a_failure_that_does_not_come_again(simplify):
    """Something else than the schedule decides: that is the verdict, with the place."""
    calls = itertools.count()

    def work(rank, world_size, store):
        store.add("n", 1)
        if next(calls) == 0:
            store.wait(["never"])
        store.set("k", "")

    found = simplify(work, fails(work, (), ranks=1))
    assert isinstance(found.verdict, Nondeterminism)
    assert found.verdict.at == 1
    assert [step.name for step in found.verdict.once + found.verdict.again] == ["wait", "set"]


def test_a_failure_in_which_only_the_end_differs():
    """The same operations, and another verdict: nondeterminism too."""
    calls = itertools.count()

    def work(rank, world_size, store):
        store.add("n", 1)
        assert next(calls), "the first time"

    found = confirm(work, fails(work, (), ranks=1))
    assert isinstance(found.verdict, Nondeterminism)
    assert found.verdict.once == found.verdict.again == ()


@pytest.mark.parametrize("simplify", [shrink, confirm])
@pytest.mark.parametrize("verdict", [UncontrolledBlocking(0, ""), Nondeterminism(0, (), ())])
def test_what_is_not_looked_for_again(simplify, verdict):
    """A rank that blocks for seconds is not run again, nor what does not come again."""
    failure = Execution(Setting(2), verdict=verdict)
    assert simplify(exchange, failure) is failure


def test_a_group_keeps_the_rank_of_a_fault_that_matters():
    """Without the fault it would not fail, and without the rank there is no fault."""

    def work(rank, world_size, store):
        if rank == 2:
            store.set("third", "")
        elif rank == 0:
            store.set("first", "")
        else:
            seen = store.check(["first"])
            time.sleep(1)
            assert seen or store.check(["third"]), "nobody was there"

    setting = Setting(3, faults=kill(rank=2, op=1) | delay(rank=0, by=0.5, op=1))
    failure = simulate(work, Schedule(setting, ((0, 1),)))
    best = shrink(work, failure)
    assert (best.setting.ranks, best.setting.faults) == (3, kill(rank=2, op=1))
    assert best.delays == ((0, 1),)


def test_faults_go_before_ranks():
    """A fault that does not matter keeps no rank."""
    failure = fails(count_by_hand, ((1, 1),), ranks=3, faults=delay(rank=2, by=1, op=1))
    best = shrink(count_by_hand, failure)
    assert (best.setting, best.delays) == (Setting(2), ((1, 1),))


def reuse(rank, world_size, store):
    """A barrier whose keys are those of the round before, so that the second time it holds nobody."""
    mine = store.add(f"round{rank}", 1)
    if store.add("count", 1) == world_size:
        store.set("go", "1")
    store.wait(["go"])
    assert all(store.add(f"round{other}", 0) >= mine for other in range(world_size)), "too early"


def test_rounds_that_do_not_matter_go():
    """The second one fails, under every schedule of it; one alone is right."""
    with pytest.raises(RankFailed) as caught:
        explore(reuse, ranks=2, rounds=5)
    assert "replay(reuse, 'E1.2x2.l.p" in caught.value.__notes__[-1]
    assert explore(reuse, ranks=2).exhausted


def test_a_round_that_needs_a_schedule_of_its_own():
    """The fewest rounds are looked for with other delays, too."""

    def rarely(rank, world_size, store):
        mine = store.add(f"round{rank}", 1)
        if rank == 1:
            assert (mine, store.add("round0", 0)) not in ((1, 4), (2, 1)), "either"

    best = shrink(rarely, fails(rarely, [], ranks=2, rounds=4))
    assert best.setting.rounds == 2
    assert len(best.delays) == 1


def test_no_shorter_schedule_is_overlooked():
    """All schedules of fewer delays are tried where what is left cannot be taken away."""

    def windows(rank, world_size, store):
        if rank == 0:
            for name in ("first", "second"):
                store.set(name, "1")
                store.delete_key(name)
        else:
            assert [store.check([name]) for name in ("first", "second")] != [True, True]

    walks = (simulate_randomly(windows, seed) for seed in range(1000))
    failure = max((walk for walk in walks if walk.verdict is not None), key=lambda walk: len(walk.delays))
    best = shrink(windows, failure)
    assert len(failure.delays) > len(best.delays) == 3


def test_an_expiry_that_matters_stays():
    """What needs a deadline that fires early keeps one, not more."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("k", "")
        else:
            store.wait(["k"], 5)

    best = shrink(work, fails(work, ((0, 1), (0, 1)), ranks=2, expiries=3))
    assert best.setting.expiries == 1
    assert best.verdict.type_name == "DistStoreError"


def test_a_failure_that_comes_but_not_always():
    """One of the ten is another."""
    calls = itertools.count()

    def work(rank, world_size, store):
        store.add("n", 1)
        assert next(calls) == 7, "usually"

    found = confirm(work, fails(work, (), ranks=1))
    assert isinstance(found.verdict, Nondeterminism)
    assert next(calls) == 8
