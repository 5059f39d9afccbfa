"""Gatherings: adopted processes on their way into a world of torch's, until all of its ranks are there.

*Theory of operation.*  Who waits in torch for other ranks is out of reach: torch alone ends that wait.  So a
process says that it comes before torch connects it, and is held until its world is complete, or until it is
known that it never will be: a process that was to come has ended.

*Rules.*  Nobody has said which process is to be which rank.  Those that may still come are the living ones
that run the same target as those who have.  If these are too few, and some of that target that lived beside
them have ended without coming, or have failed after another world, the world is lost, unless another process
is started at once.  In every other case its ranks go on after their patience: the rest may be processes that
nobody sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.loop import Loop
from pytest_elastic.wording import exit_text, number_ranks

_SETTLING = 1.0  # Seconds in which a test may start one more process.
_PATIENCE = 10.0  # And in which one that lives may come.
_SHARE = 0.25  # Of torch's own timeout, at most, for each.


class Starter(Protocol):
    """What is known of the start of a process."""

    pid: int
    name: str
    target: str
    began: float
    returncode: int | None


@dataclass(frozen=True, slots=True)
class Coming:
    """From a process: torch is about to make it a rank.

    Attributes:
        identity: of what will connect the world.
        seconds: torch's timeout.
    """

    identity: str
    rank: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Gone:
    """A process that has ended and was still to come, perhaps; `at` is on the monotonic clock."""

    process: Starter
    at: float

    def words(self) -> str:
        """How it ended."""
        one, code = self.process, self.process.returncode
        how = "ended" if code is None else exit_text(code)
        return f"{one.name} (pid {one.pid}) {how} after {self.at - one.began:.2f} s"


@dataclass(eq=False)
class Gathering:
    """The ranks of one world that have come.

    Attributes:
        since: when the last thing happened that may save it.
        seconds: torch's shortest timeout.
        ranks: rank -> process.
    """

    identity: str
    size: int
    since: float
    seconds: float
    ranks: dict[int, Starter] = field(default_factory=dict)

    def missing(self) -> list[int]:
        """The ranks that have not come."""
        return [rank for rank in range(self.size) if rank not in self.ranks]

    def words(self, why: str) -> str:
        """What became of it, in lines."""
        here = f"joined {number_ranks(self.ranks)}; absent {number_ranks(self.missing())}"
        return (
            f"HANG  {len(self.ranks)} of {self.size} ranks can never go on\n"
            f"  init_process_group of {self.identity}: {here}\n"
            f"  cause: {why}, before init_process_group"
        )


class Gatherings:
    """All gatherings of a family.  Belongs to its loop.

    Args:
        loop: of the family.
        living: the processes of the family that run.
        answer: lets a process go on, with the ranks that cannot come, why, and that in lines for a report.
    """

    def __init__(
        self,
        loop: Loop,
        living: Callable[[], Iterable[Starter]],
        answer: Callable[[Starter, list[int], str, str], object],
    ) -> None:
        self._living, self._answer = living, answer
        self._open: list[Gathering] = []
        self._gone: list[Gone] = []
        self._came: set[int] = set()  # Pids.
        self._alarm = loop.alarm(self._look)

    def come(self, process: Starter, said: Coming) -> None:
        """A process comes, to the first gathering of this sort that lacks its rank."""
        self._came.add(process.pid)
        now = SYSTEM_CLOCK.monotonic()
        fitting = (one for one in self._open if (one.identity, one.size) == (said.identity, said.size))
        gathering = next((one for one in fitting if said.rank not in one.ranks), None)
        if gathering is None:
            gathering = Gathering(said.identity, said.size, now, said.seconds)
            self._open.append(gathering)
        gathering.ranks[said.rank], gathering.since = process, now
        gathering.seconds = min(gathering.seconds, said.seconds)
        if not gathering.missing():
            self._close(gathering)
        self._look()

    def started(self) -> None:
        """A process was started, which may be one that is waited for."""
        for gathering in self._open:
            gathering.since = SYSTEM_CLOCK.monotonic()
        self._look()

    def ended(self, process: Starter) -> None:
        """A process has ended."""
        now = SYSTEM_CLOCK.monotonic()
        held = [one for one in self._open if process in one.ranks.values()]
        for gathering in held:
            gathering.ranks = {rank: one for rank, one in gathering.ranks.items() if one is not process}
        if held or process.returncode or process.pid not in self._came:  # Else it did what it was to do.
            self._gone.append(Gone(process, now))
        for gathering in self._open:
            gathering.since = now
        self._open = [one for one in self._open if one.ranks]
        self._look()

    def _look(self) -> None:
        now, due = SYSTEM_CLOCK.monotonic(), math.inf
        for gathering in tuple(self._open):
            lost = self._lost(gathering)
            patience = _SETTLING if lost is not None else _PATIENCE
            until = gathering.since + min(patience, gathering.seconds * _SHARE)
            if until <= now:
                self._close(gathering, lost or ())
            else:
                due = min(due, until)
        self._alarm.at = due

    def _lost(self, gathering: Gathering) -> list[Gone] | None:
        """Who was to come and has ended; `None` while enough live that may come."""
        here = list(gathering.ranks.values())
        targets, first = {one.target for one in here}, min(one.began for one in here)
        busy = {id(one) for other in self._open for one in other.ranks.values()}
        able = [one for one in self._living() if id(one) not in busy and one.target in targets]
        if len(able) >= len(gathering.missing()):
            return None
        return [one for one in self._gone if one.process.target in targets and one.at > first]

    def _close(self, gathering: Gathering, lost: Iterable[Gone] = ()) -> None:
        """Its ranks go on, or are told why they cannot."""
        self._open.remove(gathering)
        why = "; ".join(one.words() for one in lost)
        told = (gathering.missing(), why, gathering.words(why)) if why else ([], "", "")
        for process in gathering.ranks.values():
            self._answer(process, *told)
