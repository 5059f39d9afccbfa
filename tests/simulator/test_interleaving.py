"""The steps of a failure, side by side."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.simulator import HangUntilTimeout, RankFailed, explore, simulate
from pytest_elastic.simulator._interleaving import interleaving, races
from pytest_elastic.store import barrier


def count_by_hand(rank: int, world_size: int, store: Any) -> None:
    """Read, add one, write."""
    count = (int(store.get("count")) if store.check(["count"]) else 0) + 1
    store.set("count", str(count))
    if count == world_size:
        store.set("go", "1")
    store.wait(["go"])


def test_a_failure_shows_its_steps_and_marks_those_that_race() -> None:
    """A column for each rank; a note before the recipe."""
    with pytest.raises(HangUntilTimeout) as info:
        explore(count_by_hand, ranks=2)
    (table,) = [note for note in info.value.__notes__ if note.startswith("the steps in their order")]
    assert table.splitlines() == [
        "the steps in their order; those with a * race:",
        "       rank 0                rank 1",
        "   0   check(['count'])",
        "   1                       * check(['count'])",
        "   2                       * set('count', b'1')",
        "   3                         wait(['go'])",
        "   4 * set('count', b'1')",
        "   5   wait(['go'])",
    ]
    assert info.value.__notes__[-1].startswith("    replay(")


def test_steps_of_other_keys_and_arrivals_do_not_race() -> None:
    """Nor those of one rank."""

    def apart(rank: int, world_size: int, store: Any) -> None:
        store.set(f"x{rank}", "1")
        store.set(f"x{rank}", "2")
        store.add("arrived", 0) if rank < 0 else None

    assert races(simulate(apart, ranks=3)) == set()
    execution = simulate(lambda rank, size, store: barrier(store, size, "b"), ranks=2)
    shown = interleaving(execution).splitlines()
    assert shown[0] == "the steps in their order:"


def test_a_step_that_had_to_come_later_does_not_race() -> None:
    """Though it reads what another rank wrote."""

    def pass_on(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            store.set("a", "1")
            store.set("done", "1")
        else:
            store.wait(["done"])
            store.get("a")

    execution = simulate(pass_on, ranks=2)
    racing = {str(execution.steps[number]) for number in races(execution)}
    assert "rank 1: get('a')" not in racing


def test_many_ranks_are_lines_and_a_long_execution_is_its_end() -> None:
    """With the number of the steps that are left out."""

    def long(rank: int, world_size: int, store: Any) -> None:
        for number in range(10):
            store.set(f"x{rank}", str(number))
        assert rank

    with pytest.raises(RankFailed) as info:
        explore(long, ranks=8)
    (table,) = [note for note in info.value.__notes__ if note.startswith("the steps")]
    shown = interleaving(simulate(long, ranks=8)).splitlines()
    assert shown[1].strip() == "… 40 steps before"
    assert shown[-1].strip() == "79   rank 7: set('x7', b'9')"
    assert len(shown) == 42
    assert "… 40 steps before" in table


def test_of_one_rank_there_is_no_table() -> None:
    """It has no order to tell."""
    assert interleaving(simulate(lambda rank, size, store: store.set("a", "1"), ranks=1)) == ""
