"""A world of adopted processes: its store, and the detector of its hangs.

It is for its ranks what a group's loop is for those that we start, but for what it cannot know: nobody
reports what a rank's code returned or raised, so an exit is all that is heard of its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from pytest_elastic import events
from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.hang import Stack, report_text
from pytest_elastic.launch import HangDetector, RankStacks
from pytest_elastic.loop import Loop
from pytest_elastic.pristine import signal
from pytest_elastic.processes import Family
from pytest_elastic.store import StoreServer

_STOPPED = (-signal.SIGTERM, -signal.SIGKILL)  # Such an end is the test's doing, and says nothing of a hang.


class Process(Protocol):
    """What a family and a world need of an adopted process."""

    pid: int
    directory: Path
    returncode: int | None

    def learn_end(self) -> None:
        """It has ended: have its exit code; blocks for seconds at most."""

    def signal(self, signum: int) -> None:
        """Send a signal, if it runs; does not block."""


@dataclass
class _Control:
    """The processes of a world, as those who take stacks see them."""

    members: Mapping[int, Process]
    pids: dict[int, int]
    exits: dict[int, int] = field(default_factory=dict)

    def signal(self, ranks: tuple[int, ...], signum: int) -> None:
        for rank in ranks:
            self.members[rank].signal(signum)


class AdoptedWorld:
    """Adopted processes that are ranks of one world.  All methods but `words` belong to the loop.

    Args:
        loop: of the family.
        members: rank -> process; all are there.
        clock: `"auto"`, or `"real"`: then no wait ends before its time.

    Attributes:
        members: as given.
        server: of the store that they share.
    """

    def __init__(self, loop: Loop, members: Mapping[int, Process], clock: str) -> None:
        self.loop, self.members = loop, members
        self._control = _Control(members, {rank: one.pid for rank, one in members.items()})
        self._stacks = RankStacks({rank: one.directory for rank, one in members.items()}, loop)
        self._detector = HangDetector(self, len(members), clock, launcher_waits=True)
        self.server = StoreServer(sink=self._detector.sink, loop=loop)
        now = SYSTEM_CLOCK.monotonic()
        self._detector.note([events.RankStarted(now, rank, pid) for rank, pid in self._control.pids.items()])

    def pids(self) -> dict[int, int]:
        """Rank -> process id."""
        return self._control.pids

    def family(self, rank: int) -> Family:
        """The process of a rank, and those below it."""
        return Family(self.pids()[rank])

    def next_timer(self) -> float:
        """Nothing but its own code ends an adopted process."""
        return math.inf

    def dump_stacks(self, ranks: Sequence[int], done: Callable[[dict[int, list[Stack]]], object]) -> None:
        """Have these ranks write their stacks, and call `done` with them within half a second."""
        self._stacks.dump(self._control, list(ranks), done)

    def note_exit(self, rank: int, exitcode: int) -> None:
        """A rank's process has ended; what it had sent before was served."""
        self.server.tell()
        if exitcode not in _STOPPED and self._detector.did_more(rank):
            self._detector.went_on(rank)
        self._control.exits[rank] = exitcode
        self._detector.note([events.RankExited(SYSTEM_CLOCK.monotonic(), rank, exitcode)])
        self.server.drop(rank)

    def words(self) -> str:
        """Why its ranks hang, or hung and failed of it, in lines; `""` for nothing."""
        known = self.loop.call(partial(self._detector.known, None))
        return "" if known.diagnosis is None else report_text(known.diagnosis, known.stacks)

    def close(self) -> None:
        """Its last process has ended: let go of everything but what is known."""
        self._detector.close()
        self._stacks.close()
        self.server.close()

    def let_go(self) -> None:
        """Close this process's descriptors, in a forked child."""
        self.server.let_go()
        self._detector.close()
