"""What can be wrong with an execution.

| what happened                                  | verdict                | a failure                   |
|------------------------------------------------|------------------------|-----------------------------|
| a rank does not come to a scheduling point     | `UncontrolledBlocking` | yes                         |
| an exception left a rank's function            | `RankFailed`           | yes                         |
| an expiring timer killed a rank                | `TimerExpired`         | yes                         |
| ranks run, and nothing changes any more        | `Livelock`             | yes                         |
| ranks wait, nobody can run, no deadline is set | `Deadlock`             | yes                         |
| ranks wait, nobody can run, a deadline is set  | `HangUntilTimeout`     | unless `may_timeout`        |
| the same schedule enables other steps          | `Nondeterminism`       | yes, found by running again |
| every rank returned, or was killed by a fault  | none                   | no                          |

The first row that fits is the verdict: an exception that makes others wait is the cause, not the wait.

Each has a `key`, which is the same for the same defect under another schedule, and is raised from a line of
its own, since Hypothesis tells failures apart by type and line.
"""

from __future__ import annotations

from pytest_elastic.errors import ElasticError, name_ranks
from pytest_elastic.simulator._execution import Blocked


class Verdict(ElasticError):
    """Base of them.

    Attributes:
        ranks: which ranks it is about, the cause first.
    """

    ranks: list[int]

    @property
    def key(self) -> tuple[object, ...]:
        """What it has in common with the same defect under another schedule."""
        return (type(self).__name__, *sorted(self.ranks))


class RankFailed(Verdict):
    """An exception left a rank's function; others may wait for it.

    Attributes:
        rank: the first one.
        type_name: the exception's type.
        trace: its traceback, as text.
        blocked: who waited at the end.
    """

    def __init__(
        self, rank: int, type_name: str, text: str, trace: str, blocked: tuple[Blocked, ...] = ()
    ) -> None:
        self.rank, self.ranks = rank, [rank]
        self.type_name, self.trace, self.blocked = type_name, trace, blocked
        super().__init__(f"rank {rank} failed: {type_name}: {text}{_waits(blocked)}")

    @property
    def key(self) -> tuple[object, ...]:
        return ("RankFailed", self.rank, self.type_name)


class Deadlock(Verdict):
    """Ranks wait for what nobody can ever do.

    Attributes:
        blocked: who, and for what.
    """

    def __init__(self, blocked: tuple[Blocked, ...]) -> None:
        self.blocked = blocked
        self.ranks = [each.rank for each in blocked]
        super().__init__(f"deadlock of {name_ranks(self.ranks)}{_waits(blocked)}")


class HangUntilTimeout(Verdict):
    """Ranks wait for what nobody can do before a deadline.

    Attributes:
        blocked: who, and for what.
        seconds: how long, on the virtual clock, until the first deadline.
    """

    def __init__(self, blocked: tuple[Blocked, ...], seconds: float) -> None:
        self.blocked, self.seconds = blocked, seconds
        self.ranks = [each.rank for each in blocked]
        super().__init__(
            f"{name_ranks(self.ranks)} would hang for {seconds:g} s, until a timeout{_waits(blocked)}"
        )


class UncontrolledBlocking(Verdict):
    """A rank blocks, or computes, outside of what the simulator controls: nothing is known of the rest.

    Attributes:
        rank: which one.
        stack: where it stands, as text.
    """

    def __init__(self, rank: int, stack: str) -> None:
        self.rank, self.ranks, self.stack = rank, [rank], stack
        super().__init__(
            f"uncontrolled blocking: rank {rank} came to no operation of the store, sleep or point()"
            f" in time; it stands at\n{stack}"
        )


def _waits(blocked: tuple[Blocked, ...]) -> str:
    return "".join(f"\n  {each.step}; missing: {', '.join(map(repr, each.missing))}" for each in blocked)
