"""The oracle finds what a wrong search loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_elastic.simulator import Setting, Step
from pytest_elastic.simulator._dependence import Footprint
from pytest_elastic.simulator._dpor import Dpor
from simulator import oracle
from simulator.corpus.barriers import atomic_counter, nonatomic_counter, reset_race
from simulator.oracle import Comparison, compare_searches


def test_they_agree_on_a_reusable_barrier() -> None:
    """The kernel on which textbook algorithms lose traces."""
    comparison = compare_searches(reset_race, Setting(3))
    assert comparison.agree
    assert (comparison.traces, comparison.executions[0]) == (414, 414)


class Lazy(Dpor):
    """Overlooks every race."""

    def find_more(self, steps: Sequence[Step], races: list[int]) -> None:
        pass


class Careless(Dpor):
    """Takes a deletion for a read of whether the key is there."""

    def footprint_of(self, step: Step) -> Footprint:
        found = super().footprint_of(step)
        return {} if step.name == "delete_key" else found


@pytest.mark.parametrize(("search", "missing"), [(Lazy, 35), (Careless, None)])
def test_a_wrong_search_is_seen(
    monkeypatch: pytest.MonkeyPatch, search: type[Dpor], missing: int | None
) -> None:
    """It misses traces, or finds some that do not exist."""
    monkeypatch.setattr(oracle, "Dpor", search)
    program: Any = nonatomic_counter if search is Lazy else reset_race
    comparison = compare_searches(program, Setting(3))
    assert not comparison.agree
    assert missing in (None, comparison.missing)


def test_what_a_comparison_says() -> None:
    """How much each had to run."""
    comparison = compare_searches(atomic_counter, Setting(2))
    assert comparison == Comparison(2, 0, 0, 0, (2, comparison.executions[1]))
    assert comparison.executions[1] >= 2
