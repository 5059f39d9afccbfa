"""The company of a waiting thread: threads and processes that may go on, and let the thread go on, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import RankInspected
from pytest_elastic.multiprocessing._standing import Family, children, has_timers

_CONFIRM = 1.0  # Seconds without any use of the processor.
_SOON, _LATE = 0.02, 0.5  # Seconds between two looks at a suspected group, at first and at last.


@dataclass(frozen=True, slots=True)
class Company:
    """The process of a rank, and those below it.

    Attributes:
        known: how many threads of the rank wait for us.
        inspected: what it said of the others; `None` if it did not.
    """

    family: Family
    known: int
    inspected: RankInspected | None

    def going(self) -> int:
        """How many threads and children may go on, as far as is known."""
        timers = has_timers(self.family.pid)
        found = self.family.others(self.known) + timers
        if not found or self.inspected is None:
            return found
        threads = self.family.going(self.inspected.writers) + len(self.inspected.strangers)
        return threads + len(children(self.family.pid)) + timers

    def is_still(self, ticks: dict[int, int]) -> bool:
        """Whether nothing that may write would go on by itself; `ticks` are the processes of the group."""
        if has_timers(self.family.pid):
            return False
        if self.inspected is None:
            return self.family.lasts(self.known, ticks)
        seen = self.inspected
        # Any thread can send a signal.
        acting = (*seen.writers, *seen.strangers) if seen.handlers else seen.writers
        return not self.counts() or self.family.lasts(0, ticks, acting)

    def counts(self) -> bool:
        """Whether it matters what its processes do."""
        seen = self.inspected
        return seen is None or seen.handlers or seen.cpu_alarm or self.family.going(seen.writers) > 0


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A group that may hang, if nothing changes.

    Attributes:
        events: how many there had been.
        ticks: processor time of each process that counts.
        since: when it was first seen so.
    """

    events: int
    ticks: dict[int, int]
    since: float

    @classmethod
    def of(cls, there: Sequence[Company], events: int, before: Suspicion | None) -> Suspicion:
        """The one that there is now: the one before, if nothing has changed since."""
        counted = [one.family for one in there if one.counts()]
        ticks = {pid: used for family in counted for pid, used in family.ticks().items()}
        if before is not None and (before.events, before.ticks) == (events, ticks):
            return before
        return cls(events, ticks, SYSTEM_CLOCK.monotonic())

    def is_confirmed(self, there: Sequence[Company]) -> bool:
        """Whether it has lasted, and will."""
        waited = SYSTEM_CLOCK.monotonic() - self.since
        return waited >= _CONFIRM and bool(there) and all(one.is_still(self.ticks) for one in there)

    def next_look(self) -> float:
        """Seconds until the group is to be looked at again."""
        return min(_LATE, max(_SOON, SYSTEM_CLOCK.monotonic() - self.since))
