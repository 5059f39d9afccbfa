"""Grace after a stall: ranks that did not run while their timers expired.

*Theory of operation.*  Who enforces timers sleeps until the next deadline.  If it wakes much later than that,
the machine stood still (a virtual machine does, when others need the processor), or was too busy to run it.
It did not run the ranks either then: one that would have left its block in time has just been woken, too.  So
nobody is killed yet, for as long as the wake-up was late, within bounds.  After that a timer that stands has
expired, however late it is by then: one stall, one grace.
"""

from __future__ import annotations

import math

LATE = 0.02
"""Seconds by which an enforcer that is not hindered wakes too late, at most."""

SHORTEST, LONGEST = 0.05, 0.5
"""Bounds of a grace, in seconds."""


class Grace:
    """The periods in which an enforcer of timers kills nobody.  Points are on the monotonic clock."""

    def __init__(self) -> None:
        self._due, self._until = math.inf, -math.inf

    def plan(self, deadline: float, now: float) -> float:
        """When to wake for the next deadline: now if it is past, at the end of a grace if it falls in one."""
        self._due = self._until if max(deadline, now) < self._until else max(deadline, now)
        return self._due

    def over(self, now: float) -> bool:
        """Whether what has expired may be enforced; begins a grace if this was planned for much earlier."""
        if now < self._until:
            return False
        late = now - self._due
        if late <= LATE or self._due == self._until:
            return True
        self._until = now + min(max(late, SHORTEST), LONGEST)
        return False
