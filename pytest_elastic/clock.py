"""The only reader of time.

A *deadline* is a point on the monotonic clock, a *timeout* a span: seconds as `float` or `int`, or a
`timedelta`.  Nothing here looks at the wall clock, except `SystemClock.time`, for records that people read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pytest_elastic.pristine import time

Span = float | timedelta


class Clock(Protocol):
    """Where "now" comes from; an implementation must never go backwards."""

    def monotonic(self) -> float:
        """Seconds since some fixed point."""

    def time(self) -> float:
        """Seconds since the epoch."""


class SystemClock:
    """The machine's clock, also where a test has put another in the place of `time`'s functions."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def follow(self, ahead: float) -> None:
        """Be ahead of this machine's monotonic clock from now on, as that of another machine is."""
        self.monotonic = lambda: time.monotonic() + ahead


class VirtualClock:
    """A clock that moves only when told to; starts at 0.  Not thread-safe."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward; a negative span is `ValueError`."""
        if not seconds >= 0:
            raise ValueError(f"a clock moves forward only, not by {seconds!r} s")
        self.now += seconds


class LeapingClock:
    """The machine's clock, which can be put forward.  Not thread-safe.

    Attributes:
        ahead: by how many seconds in all.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.ahead

    def leap(self, seconds: float) -> None:
        """Put it forward; a negative span is `ValueError`."""
        if not seconds >= 0:
            raise ValueError(f"a clock moves forward only, not by {seconds!r} s")
        self.ahead += seconds


SYSTEM_CLOCK = SystemClock()


def to_seconds(span: Span, name: str = "timeout") -> float:
    """The span in seconds.

    Raises:
        TypeError: it is neither a number nor a `timedelta`.
        ValueError: it is NaN.
    """
    if isinstance(span, timedelta):
        return span.total_seconds()
    if isinstance(span, bool) or not isinstance(span, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(span).__name__}")
    if math.isnan(span):
        raise ValueError(f"{name} must be a number of seconds, not NaN")
    return float(span)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on `clock`; `at` is `math.inf` where there is none."""

    at: float
    clock: Clock = SYSTEM_CLOCK

    @classmethod
    def after(cls, timeout: Span | None, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The point `timeout` from now; `None` is never."""
        if timeout is None:
            return cls(math.inf, clock)
        return cls(clock.monotonic() + to_seconds(timeout), clock)

    def remaining(self) -> float:
        """Seconds left, 0.0 when it has passed, `math.inf` when there is no deadline."""
        return max(0.0, self.at - self.clock.monotonic())

    def passed(self) -> bool:
        """Whether the point has been reached."""
        return self.clock.monotonic() >= self.at

    def later(self, seconds: float) -> Deadline:
        """The point so much after this one."""
        return Deadline(self.at + seconds, self.clock)

    def earlier(self, other: Deadline) -> Deadline:
        """The nearer one of the two."""
        return self if self.at <= other.at else other
