"""Table of armed timers and their expiry, behind every kind of channel.

*Theory of operation.*  There is one timer per owner (rank or worker), thread and scope.  Arming it again
replaces its deadline, so that of a recursion on one line the last call's timer counts, and the first release
takes it away.  Deadlines are points on the monotonic clock.  A timer has expired when its deadline is reached
*and its process has not ended*: the timers of a process that ended are forgotten when somebody asks for them,
or when the table has doubled since the last look.  Nothing here sleeps, signals, or reads a clock.

Every method is one operation on a dictionary, or works on a copy of its values: the table may be used by
several threads.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from pytest_elastic.processes import Process

What = TypeVar("What")


class Key(NamedTuple):
    """Identity of a timer.

    Attributes:
        owner: the rank or worker that is killed.
        pid: the process that acquired, the owner's own or a fork of it.
        thread: 0 for a request that does not say.
        scope: which timer of the thread.
    """

    owner: Hashable
    pid: int
    thread: int
    scope: str


@dataclass(frozen=True, slots=True)
class Timer(Generic[What]):
    """An armed timer.

    Attributes:
        process: whose end ends it too; `None` if nobody had the pid when the request came.
        deadline: on the monotonic clock.
        what: the request that armed it, as its channel has it.
    """

    key: Key
    process: Process | None
    deadline: float
    what: What


class Timers(Generic[What]):
    """Table of the armed timers."""

    def __init__(self) -> None:
        self._timers: dict[Key, Timer[What]] = {}
        self._room = 64

    def __len__(self) -> int:
        return len(self._timers)

    def arm(self, timer: Timer[What]) -> None:
        """Add it, in place of one with the same key."""
        self._timers[timer.key] = timer
        if len(self._timers) > self._room:
            self.expired(math.inf)
            self._room = max(64, 2 * len(self._timers))

    def disarm(self, key: Key) -> None:
        """Remove a timer if it is armed; a key without a thread means the scope in every thread."""
        self._timers.pop(key, None)
        if key.thread == 0:
            for other in list(self._timers):
                if other._replace(thread=0) == key:
                    self._timers.pop(other, None)

    def drop(self, owner: Hashable) -> None:
        """Remove all timers of an owner."""
        for key in list(self._timers):
            if key.owner == owner:
                self._timers.pop(key, None)

    def armed(self) -> list[Timer[What]]:
        """All timers, in the order in which they were armed."""
        return list(self._timers.values())

    def expired(self, at: float) -> list[Timer[What]]:
        """The timers whose deadline is reached at that point, the earliest first.

        Removes those of processes that have ended.
        """
        due = [timer for timer in self.armed() if timer.deadline <= at]
        ended = {process for process in {timer.process for timer in due} if process and process.ended()}
        for timer in due:
            if timer.process in ended:
                self._timers.pop(timer.key, None)
        return sorted((timer for timer in due if timer.process not in ended), key=attrgetter("deadline"))

    def next_deadline(self, after: float = -math.inf) -> float:
        """The earliest deadline later than that point; `math.inf` if there is none."""
        return min((timer.deadline for timer in self.armed() if timer.deadline > after), default=math.inf)
