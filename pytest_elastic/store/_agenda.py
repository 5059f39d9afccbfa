"""What a serving thread is asked to do besides serving."""

from __future__ import annotations

import math
from collections.abc import Callable

Act = Callable[[], None]


class Agenda:
    """One thing for when all that has arrived is served, and one for a moment.

    Attributes:
        settled: the former; `None` for nothing.
        at: the moment of the latter; `inf` for never.
    """

    def __init__(self) -> None:
        self.settled: Act | None = None
        self.at = math.inf
        self._alarm: Act | None = None

    def take_settled(self) -> Act | None:
        """What is to be called after this round; it is off the agenda."""
        settled, self.settled = self.settled, None
        return settled

    def set_alarm(self, at: float, act: Act) -> None:
        """Call `act` then; in place of what was to be called so."""
        self.at, self._alarm = at, act

    def ring(self, now: float) -> None:
        """Call what is due."""
        if self._alarm is not None and self.at <= now:
            alarm, self._alarm, self.at = self._alarm, None, math.inf
            alarm()
