"""Usage of collectives: calls, bytes and time of each operation of each process group.

*Rules.*  Bytes are those of the tensors that ranks called with, added up over ranks and calls.  The time is
what ranks waited for each other in those calls; the *spread* of a call is the time from its first member to
its last one, the longest of which points at who comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_elastic.events import CollectiveJoined, WaitBegan, WaitEnded
from pytest_elastic.hang import GroupCall


@dataclass(slots=True)
class Usage:
    """One operation of one group.

    Attributes:
        calls: number of its calls, each counted once for all members.
        size: bytes.
        waited: seconds, of all ranks together.
        spread: seconds, the longest of all complete calls; `late` is the rank that came last there.
    """

    operation: str
    group: str
    calls: int = 0
    size: int = 0
    waited: float = 0.0
    spread: float = 0.0
    late: int | None = None

    def add(self, joins: Sequence[CollectiveJoined], complete: bool) -> None:
        """Count a call."""
        self.calls += 1
        self.size += sum(join.size for join in joins)
        spread = joins[-1].at - joins[0].at
        if complete and spread > self.spread:
            self.spread, self.late = spread, joins[-1].rank

    def to_json(self) -> dict[str, Any]:
        """As values that `json.dumps` takes."""
        return asdict(self)


def usage_of(
    calls: Sequence[GroupCall], waits: Sequence[tuple[WaitBegan, WaitEnded | None]], last: float
) -> list[Usage]:
    """The usage of a run, the most waited for first.

    Args:
        calls: all of the run.
        waits: all of the run; those without an end last to `last`, the moment of the last event.
    """
    found: dict[tuple[str, str], Usage] = {}
    by_name: dict[str, Usage] = {}
    for call in calls:
        joins = list(call.calls.values())
        operation, group = call.first.operation, call.group.partition(":")[0]
        usage = found.setdefault((operation, group), Usage(operation, group))
        usage.add(joins, call.is_full)
        by_name[call.name] = usage
    for began, ended in waits:
        if began.name == "meet" and began.keys:
            known = by_name.get(began.keys[0].rpartition("/")[0])
            if known is not None:
                known.waited += (last if ended is None else ended.at) - began.at
    return sorted(found.values(), key=lambda one: -one.waited)
