"""Which verdict ranks deserve that stand outside of the store when their time is over.

*Theory.*  What the store does not see has no graph: who waits there for whom is not known.  But a rank that
is blocked, in the store or in a library (a futex, a poll, a socket), waits for somebody, and the cause is one
that can end nobody's wait.  These are, in this order:

1. a rank that failed, or whose process ended without a report;
2. one that is stopped by a signal;
3. one that computes;
4. one that passed, or skipped, early, while others are blocked;
5. one that sleeps: a library that waits may look, and sleep, and look again.

There is one verdict over all ranks.  Those that are blocked are not called the cause while such a rank is
known; where none is, nobody is known to be the cause, but for whom a pipe leads to.  It is never exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_elastic.hang._diagnosis import (
    BlockedOutside,
    Diagnosis,
    Exited,
    MissingRank,
    Spinning,
    Stopped,
)
from pytest_elastic.hang._nodes import Rank
from pytest_elastic.hang._picture import draw
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.hang._wording import ends_text, stand_text
from pytest_elastic.processes import sleeps
from pytest_elastic.wording import name_ranks, plural


def diagnose_outside(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on what the kernel says (`RankStood`) of ranks that run; `None` where it says nothing."""
    stood = [rank for rank in graph.ranks if rank.runs and rank.stood is not None]
    gone = [rank for rank in graph.ranks if rank.gone]
    blocked = [rank for rank in stood if _kind(rank) == "blocked"]
    if not stood:
        return None
    accidents = [rank for rank in gone if rank.is_accident]
    idle = "and did nothing in the store"
    verdict: type[Diagnosis]
    for kind, verdict in (("stopped", Stopped), ("spinning", Spinning), ("sleeping", BlockedOutside)):
        ranks = [rank for rank in stood if _kind(rank) == kind]
        if ranks and not accidents and not (gone and blocked and kind == "sleeping"):
            also = f"; {ends_text(gone)}" if gone and (blocked or kind == "sleeping") else ""
            return _say(graph, verdict, ranks, f"{_stand(ranks)}, {idle}{also}")
    ranks = accidents or gone
    if ranks:
        verdict = Exited if ranks[0].died else MissingRank
        return _say(graph, verdict, ranks, f"{ends_text(ranks)}, while {_stand(stood)}")
    known = all(rank.stood is not None and rank.stood.peer for rank in blocked)
    unknown = "" if known else "; nobody is known to be the cause"
    return _say(graph, BlockedOutside, blocked, f"{_stand(blocked)}, {idle}{unknown}")


def _kind(rank: Rank) -> str:
    assert rank.stood is not None
    asleep = rank.stood.state == "blocked" and sleeps(rank.stood.channel)
    return "sleeping" if asleep else rank.stood.state


def _stand(ranks: Sequence[Rank]) -> str:
    """How they stand, equal ones together: `ranks 0-1 are blocked in do_poll, rank 2 computes`."""
    alike: dict[str, list[int]] = {}
    for rank in ranks:
        alike.setdefault(stand_text(rank), []).append(rank.number)
    return ", ".join(f"{name_ranks(numbers)} {plural(text, numbers)}" for text, numbers in alike.items())


def _say(graph: WaitGraph, verdict: type[Diagnosis], ranks: Sequence[Rank], cause: str) -> Diagnosis:
    numbers = tuple(rank.number for rank in ranks)
    return verdict(numbers, (), cause, exact=False, picture=draw(graph, ()))
