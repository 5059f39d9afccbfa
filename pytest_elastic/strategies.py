"""Hypothesis strategies for code that runs on ranks: schedules, fault plans, world sizes, keys and values.

A schedule is drawn as a short list of delays from the default schedule, so that Hypothesis shrinks a failure
to the few delays that matter; a failing example shows it as `parse_token('E1.3.l.1-1')`, whose token
`replay` and `simulate` take as it is.

    @given(schedule=schedules(ranks=3), plan=fault_plans(ranks=3))
    def test_election(schedule, plan):
        simulate(elect, schedule, plan, may_timeout=True).check()
"""

from __future__ import annotations

from hypothesis import strategies as st

from pytest_elastic.faults import Fault, FaultPlan, Trigger, parse
from pytest_elastic.simulator import Schedule, Setting, parse_token

__all__ = ["fault_plans", "keys", "schedules", "values", "world_sizes"]

_EARLY, _LATEST = 4, 40  # Gaps: most windows are short, some come late.
_SPANS = (0.001, 1.0, 60.0, 600.0)


def schedules(ranks: int = 3, max_delays: int = 4, wake: str = "latched") -> st.SearchStrategy[Schedule]:
    """Schedules for `simulate`: the default one first, then few and early delays.

    Args:
        ranks: number of ranks.
        max_delays: greatest number of delays; a defect of depth d needs d of them.
        wake: the store's rule, `"latched"` or `"level"`.

    Raises:
        ValueError: `ranks` or `wake` is not allowed.

    >>> from hypothesis import find
    >>> print(find(schedules(ranks=3), lambda schedule: len(schedule.delays) == 1))
    E1.3.l.0-1
    """
    setting = Setting(ranks, wake)  # type: ignore[arg-type]  # It says what is wrong with it.
    gaps = st.integers(0, _EARLY) | st.integers(0, _LATEST)
    shifts = st.integers(1, max(1, ranks - 1))
    delays = st.lists(st.tuples(gaps, shifts), max_size=max_delays)
    return delays.map(lambda pairs: str(Schedule(setting, tuple(pairs)))).map(parse_token)


def fault_plans(ranks: int = 3, max_faults: int = 1, operations: int = 4) -> st.SearchStrategy[FaultPlan]:
    """Fault plans for `simulate`: none at first, then kills, exits, stops, delays and late joins.

    Each fault of a plan has another victim.

    Args:
        ranks: number of ranks.
        max_faults: greatest number of faults in one plan.
        operations: number of store operations that every rank does for certain; faults are planned for one of
            those, since a fault that never happens is an error.

    >>> from hypothesis import find
    >>> find(fault_plans(), bool)
    kill(rank=0, op=1)
    """
    if not max_faults:
        return st.just(FaultPlan())
    faults = st.lists(
        _faults(ranks, operations),
        min_size=1,
        max_size=min(max_faults, ranks),
        unique_by=lambda fault: fault.rank,
    )
    return st.just(FaultPlan()) | faults.map(lambda found: str(FaultPlan(tuple(found)))).map(parse)


def _faults(ranks: int, operations: int) -> st.SearchStrategy[Fault]:
    victims = st.integers(0, ranks - 1)
    triggers = st.integers(1, operations).map(lambda nth: Trigger("op", nth=nth))
    spans, codes = st.sampled_from(_SPANS), st.integers(0, 255)
    return st.one_of(
        st.tuples(victims, triggers).map(lambda drawn: Fault("kill", *drawn)),
        st.tuples(victims, triggers, codes).map(lambda drawn: Fault("exit", *drawn[:2], code=drawn[2])),
        st.tuples(victims, triggers, spans).map(lambda drawn: Fault("delay", *drawn)),
        st.tuples(victims, spans).map(lambda drawn: Fault("late_join", drawn[0], Trigger("op"), drawn[1])),
        st.tuples(victims, triggers, spans).map(lambda drawn: Fault("stop", *drawn)),
    )


def world_sizes(largest: int = 4) -> st.SearchStrategy[int]:
    """Numbers of ranks: 1 to `largest`, small ones first.

    >>> from hypothesis import find
    >>> find(world_sizes(), lambda size: size > 1)
    2
    """
    return st.integers(1, largest)


def keys() -> st.SearchStrategy[str]:
    """Keys of a store: short words first, then paths, blanks, the empty key, any text.

    >>> from hypothesis import find
    >>> find(keys(), lambda key: "/" in key)
    '/'
    """
    words = st.text("abcdefgh", min_size=1, max_size=3)
    paths = st.lists(words, min_size=2, max_size=4).map("/".join)
    return st.one_of(words, paths, st.sampled_from(["", " ", "/", "a/", "ü", "\0"]), _texts())


def values() -> st.SearchStrategy[bytes]:
    """Values of a store: numbers as `add` writes them, texts, any bytes.

    >>> from hypothesis import find
    >>> find(values(), lambda value: True)
    b'0'
    """
    numbers = st.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number)
    return st.one_of(numbers, _texts().map(str.encode), st.binary(max_size=100))


def _texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
