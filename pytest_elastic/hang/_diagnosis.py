"""Diagnoses of a hang: a class for each verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pytest_elastic.hang._snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Base of the verdicts.

    Attributes:
        ranks: the ranks named by the verdict, ascending; each verdict says which these are.
        keys: the keys, or prefixes of barriers, named by the verdict.
        cause: one sentence.
        place: `file:line` where the cause is known to be; else empty.
        exact: whether nothing but the ranks' known threads could end it; else it is suspected.
        elapsed: seconds from the last event to the verdict, `None` until its finder fills it in.
        remaining: seconds, at the last event, until the first of the waits fails by itself.
        timed_out: the ranks whose waits had failed by themselves before.
    """

    ranks: tuple[int, ...]
    keys: tuple[str, ...]
    cause: str
    place: str = ""
    exact: bool = True
    elapsed: float | None = None
    remaining: float | None = None
    timed_out: tuple[int, ...] = ()
    snapshot: Snapshot = field(default=Snapshot(0), repr=False)

    @property
    def verdict(self) -> str:
        """The verdict's name."""
        return type(self).__name__

    @property
    def doomed(self) -> tuple[int, ...]:
        """The ranks that can never go on, ascending."""
        return tuple(sorted({wait.rank for wait in self.snapshot.waits if wait.doomed}))

    @property
    def concerned(self) -> tuple[int, ...]:
        """The ranks of which one has to fail of it: those that can never go on; here `()` for any."""
        return self.doomed

    @property
    def culprits(self) -> tuple[int, ...]:
        """The ranks to look at first; `()` where none is to blame more than the others."""
        return self.ranks

    def __str__(self) -> str:
        return f"{self.verdict}{'' if self.exact else ' (suspected)'}: {self.cause}"

    def to_json(self) -> dict[str, Any]:
        """As values that `json.dumps` takes."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "snapshot"}
        return {"verdict": self.verdict, **values, "picture": self.snapshot.to_json(), "doomed": self.doomed}


class Deadlock(Diagnosis):
    """Ranks that wait for each other: `ranks` are those in the circle."""

    __slots__ = ()


class DoomedWait(Diagnosis):
    """No rank is left to write a key, or it was deleted too early: `ranks` are those that wait for it."""

    __slots__ = ()
    culprits = ()


class MissingRank(Diagnosis):
    """A rank ended its phase without joining a barrier or collective: `ranks` are those missing there."""

    __slots__ = ()


class CountMismatch(Diagnosis):
    """Ranks ended their phase with fewer barriers or gathers than the others: `ranks` are those."""

    __slots__ = ()


class OrderMismatch(Diagnosis):
    """Ranks are at different barriers or collectives: `ranks` are all of them."""

    __slots__ = ()
    culprits = ()


class CollectiveMismatch(Diagnosis):
    """Ranks called different collectives as the same one of a group: `ranks` are those of the rarer call."""

    __slots__ = ()

    @property
    def concerned(self) -> tuple[int, ...]:
        """All ranks that called."""
        return tuple(
            rank for one in self.snapshot.collectives[:1] for _, _, ranks in one.calls for rank in ranks
        )


class StalePrefix(Diagnosis):
    """A barrier's prefix was used twice, so that calls of different rounds met: `ranks` did it."""

    __slots__ = ()


class HangUntilTimeout(Diagnosis):
    """All ranks wait for a key that no rank wrote: `ranks` are those that wait."""

    __slots__ = ()
    culprits = ()


class Exited(Diagnosis):
    """Processes that others wait for ended without a report: `ranks` are those that ended."""

    __slots__ = ()


class Unreachable(Diagnosis):
    """The machines of ranks do not answer, and nothing is known of these: `ranks` are those."""

    __slots__ = ()


class Stopped(Diagnosis):
    """Ranks are stopped by a signal; whoever sends SIGCONT lets them go on: `ranks` are those stopped."""

    __slots__ = ()


class Spinning(Diagnosis):
    """Ranks use the processor and not the store: `ranks` are those."""

    __slots__ = ()


class BlockedOutside(Diagnosis):
    """Ranks wait for something that is not the store: `ranks` are those."""

    __slots__ = ()
