"""Time, chance and identity inside of simulated ranks.

Inside of `installed`, the module-level functions of `time`, `random` and `uuid`, our own clock, and the
timers of `expires` ask whether a simulated rank is calling, and answer from the simulation if it is; any
other caller gets what it always got.  Names that a module took before (`from time import sleep`) are out of
reach.
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pytest_elastic.clock import SystemClock
from pytest_elastic.simulator._scheduler import Kind
from pytest_elastic.timer import TimerClient, configure
from pytest_elastic.timer._api import configured

_RANDOM = (
    "random", "seed", "uniform", "triangular", "randint", "choice", "randrange", "sample", "shuffle",
    "choices", "normalvariate", "lognormvariate", "expovariate", "vonmisesvariate", "gammavariate", "gauss",
    "betavariate", "paretovariate", "weibullvariate", "getstate", "setstate", "getrandbits", "randbytes",
)  # fmt: skip
_CLOCKS = ("time", "monotonic", "perf_counter")


class Caller(Protocol):
    """A simulated rank, as its surroundings see it."""

    def now(self) -> float:
        """Virtual seconds on its own clock."""

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""

    def chance(self) -> random.Random:
        """Its own source of random numbers."""

    def wrote(self, text: str) -> None:
        """It wrote this to its output."""

    def reach(self, kind: Kind, name: str, arguments: tuple[Any, ...]) -> Any:
        """Come to a scheduling point."""


Callers = Callable[[], Caller | None]
_installed: list[Callers] = []


def point(name: str = "") -> None:
    """A scheduling point: in a simulated rank others may run here; elsewhere nothing happens."""
    for caller in reversed(_installed):
        rank = caller()
        if rank is not None:
            rank.reach("point", "point", (name,) if name else ())
            return


class _Timers(TimerClient):
    """The timers of simulated ranks; others' go to the client that was there."""

    def __init__(self, caller: Callers, original: TimerClient | None) -> None:
        self._caller, self._original = caller, original

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        rank = self._caller()
        if rank is not None:
            rank.reach("timer", "acquire", (str(scope_id), expiration_time))
        else:
            self._others().acquire(scope_id, expiration_time)

    def release(self, scope_id: str) -> None:
        rank = self._caller()
        if rank is not None:
            rank.reach("timer", "release", (str(scope_id),))
        else:
            self._others().release(scope_id)

    def _others(self) -> TimerClient:
        if self._original is None:
            raise RuntimeError("Configure timer client before using countdown timers.")
        return self._original


@contextmanager
def installed(caller: Callers) -> Iterator[None]:
    """Take the place of the functions; give it back at the end.

    Args:
        caller: the rank that is calling, `None` for a caller outside of the simulation.
    """
    saved: list[tuple[Any, str, Any]] = []
    timers = configured()

    def replace(module: Any, name: str, ours: Any) -> None:
        saved.append((module, name, getattr(module, name)))
        setattr(module, name, ours)

    for name in _CLOCKS:
        replace(time, name, _clock(caller, getattr(time, name), float))
        replace(time, f"{name}_ns", _clock(caller, getattr(time, f"{name}_ns"), _nanoseconds))
    for name in ("time", "monotonic"):  # Which has these functions since before anybody could replace them.
        replace(SystemClock, name, staticmethod(_clock(caller, getattr(SystemClock, name), float)))
    replace(time, "sleep", _sleep(caller, time.sleep))
    for name in _RANDOM:
        replace(random, name, _chance(caller, getattr(random, name), name))
    for version, name in ((1, "uuid1"), (4, "uuid4")):
        replace(uuid, name, _identity(caller, getattr(uuid, name), version))
    configure(_Timers(caller, timers))
    _installed.append(caller)
    try:
        yield
    finally:
        _installed.remove(caller)
        configure(timers)
        for module, name, original in saved:
            setattr(module, name, original)


@contextmanager
def listening(caller: Callers) -> Iterator[None]:
    """Tell ranks what they write to `sys.stdout` and `sys.stderr`."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Overheard(stream, caller) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Overheard:
    """A stream that is another one, but for what ranks write."""

    def __init__(self, stream: Any, caller: Callers) -> None:
        self._stream, self._caller = stream, caller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        written = self._stream.write(text)
        rank = self._caller()
        if rank is not None:
            rank.wrote(text)
        return written


def _clock(caller: Callers, original: Any, convert: Callable[[float], Any]) -> Any:
    def read() -> Any:
        rank = caller()
        return original() if rank is None else convert(rank.now())

    return read


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _sleep(caller: Callers, original: Any) -> Any:
    def sleep(seconds: float, /) -> None:
        rank = caller()
        if rank is None:
            original(seconds)
        elif seconds < 0:
            raise ValueError("sleep length must be non-negative")
        else:
            rank.sleep(seconds)

    return sleep


def _chance(caller: Callers, original: Any, name: str) -> Any:
    def draw(*arguments: Any, **named: Any) -> Any:
        rank = caller()
        return (original if rank is None else getattr(rank.chance(), name))(*arguments, **named)

    return draw


def _identity(caller: Callers, original: Any, version: int) -> Any:
    def make(*arguments: Any, **named: Any) -> Any:
        rank = caller()
        if rank is None:
            return original(*arguments, **named)
        return uuid.UUID(int=rank.chance().getrandbits(128), version=version)

    return make
