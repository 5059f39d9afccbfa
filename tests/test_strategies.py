"""Hypothesis finds, shrinks, prints and remembers schedules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.database import InMemoryExampleDatabase
from simulator.corpus.barriers import atomic_counter, nonatomic_counter
from simulator.corpus.waits import kept_until_seen, partly_present

from pytest_elastic.faults import FaultPlan
from pytest_elastic.simulator import HangUntilTimeout, Schedule, simulate
from pytest_elastic.store import HashStore
from pytest_elastic.strategies import fault_plans, keys, schedules, values, world_sizes

quiet = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)


def failing(function: Any, **given_settings: Any) -> Any:
    """A property that hypothesis refutes."""

    @settings(quiet, **given_settings)
    @given(schedule=schedules(ranks=3))
    def check(schedule: Schedule) -> None:
        simulate(function, schedule).check()

    return check


@pytest.mark.parametrize("function", [nonatomic_counter, partly_present])
def test_a_failure_is_shrunk_to_the_delays_that_matter(function: Any) -> None:
    """One, as early as it can be, here after one decision; and shown as a token."""
    with pytest.raises(Exception) as info:
        failing(function)()
    assert "schedule=parse_token('E1.3.l.1-1')" in "\n".join(info.value.__notes__)


def test_what_is_right_passes() -> None:
    """Under every schedule that is drawn."""
    failing(atomic_counter)()


def test_the_database_remembers() -> None:
    """The next run begins with the failure."""
    database = InMemoryExampleDatabase()
    with pytest.raises(HangUntilTimeout):
        failing(nonatomic_counter, database=database, derandomize=False)()
    with pytest.raises(HangUntilTimeout):
        failing(nonatomic_counter, database=database, derandomize=False, phases=[Phase.reuse])()


def test_the_seed_decides(run_with_libraries: Any) -> None:
    """`--hypothesis-seed` draws the same schedules; the failing example has hypothesis' own lines."""
    code = """
        from hypothesis import given, settings
        from pytest_elastic.simulator import simulate
        from pytest_elastic.strategies import schedules

        def count_by_hand(rank, world_size, store):
            count = (int(store.get("n")) if store.check(["n"]) else 0) + 1
            store.set("n", str(count))
            if count == world_size:
                store.set("go", "1")
            store.wait(["go"])

        tokens = []

        @settings(max_examples=20, database=None, deadline=None, derandomize=False)
        @given(schedule=schedules(ranks=3))
        def test_draws(schedule):
            tokens.append(str(schedule))

        def test_tokens():
            print("tokens", *tokens)

        @settings(database=None, deadline=None, derandomize=False)
        @given(schedule=schedules(ranks=3))
        def test_it(schedule):
            simulate(count_by_hand, schedule).check()
        """
    outputs = []
    for seed in ("1", "1", "2"):
        arguments = ["-s", "-p", "hypothesispytest", f"--hypothesis-seed={seed}", "-p", "no:cacheprovider"]
        result = run_with_libraries(code, *arguments)
        result.assert_outcomes(passed=2, failed=1)
        outputs.append(next(line.partition("tokens ")[2] for line in result.outlines if "tokens " in line))
    result.stdout.fnmatch_lines(["*parse_token('E1.3.l.1-1')*"])
    assert outputs[0] == outputs[1] != outputs[2]


@settings(quiet)
@given(schedule=schedules(ranks=2, max_delays=2, wake="level"))
def test_schedules_are_what_was_asked_for(schedule: Schedule) -> None:
    """Ranks, delays and the wake rule."""
    assert (schedule.setting.ranks, schedule.setting.wake) == (2, "level")
    assert len(schedule.delays) <= 2
    simulate(kept_until_seen, schedule).check()


def test_the_simplest_schedule_is_the_default_one() -> None:
    """And the simplest with a delay has the smallest."""
    assert str(find(schedules(4), lambda schedule: True, settings=quiet)) == "E1.4.l"
    assert str(find(schedules(4), lambda schedule: bool(schedule.delays), settings=quiet)) == "E1.4.l.0-1"


@settings(quiet, max_examples=50)
@given(schedule=schedules(), size=world_sizes())
def test_world_sizes_go_in_place_of_a_schedules(schedule: Schedule, size: int) -> None:
    """Any schedule is one for any number of ranks."""
    assert 1 <= size <= 4
    assert simulate(atomic_counter, schedule, ranks=size).check().results == [None] * size


@settings(quiet)
@given(schedule=schedules(ranks=2), plan=fault_plans(ranks=2, max_faults=2, operations=2))
def test_fault_plans_happen(schedule: Schedule, plan: FaultPlan) -> None:
    """Each fault has a victim of its own, and strikes at an operation that every rank comes to."""

    def program(rank: int, world_size: int, store: Any) -> None:
        store.add(f"n{rank}", 1)
        store.add(f"n{rank}", 1)

    assert len(plan) <= 2
    assert len({fault.rank for fault in plan}) == len(plan)
    simulate(program, schedule, plan).check()


def test_the_simplest_plan_is_none() -> None:
    """Then a kill at the first operation."""
    assert find(fault_plans(), lambda plan: True, settings=quiet) == FaultPlan()
    assert str(find(fault_plans(), lambda plan: bool(plan), settings=quiet)) == "K0@1"
    assert find(fault_plans(max_faults=0), lambda plan: True, settings=quiet) == FaultPlan()


@settings(quiet)
@given(key=keys(), value=values())
def test_keys_and_values_are_a_stores(key: str, value: bytes) -> None:
    """Any of them can be stored."""
    store = HashStore()
    store.set(key, value)
    assert store.get(key) == value


def test_keys_and_values_are_of_many_kinds() -> None:
    """Paths, the empty key, numbers, and what is no text."""
    assert find(keys(), lambda key: "/" in key.strip("/"), settings=quiet) == "0/0"
    assert find(keys(), lambda key: not key, settings=quiet) == ""
    assert find(values(), lambda value: value.isdigit(), settings=quiet) == b"0"
    assert find(values(), lambda value: b"\xff" in value, settings=quiet) == b"\xff"
