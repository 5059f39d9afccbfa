"""Patches of `time`, `random`, `uuid`, timers and output, for code in simulated ranks.

While `installed` is active, the module-level functions of `time`, `random` and `uuid`, the package's own
clock and the timers of `expires` answer simulated ranks from the simulation.  All other callers get the
originals.  Names that a module imported before (`from time import sleep`) cannot be patched.
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pytest_elastic.clock import SystemClock
from pytest_elastic.simulator._simulated_rank import SimulatedRank
from pytest_elastic.timer import TimerClient, configure, configured

_RANDOM = (
    "random", "seed", "uniform", "triangular", "randint", "choice", "randrange", "sample", "shuffle",
    "choices", "normalvariate", "lognormvariate", "expovariate", "vonmisesvariate", "gammavariate", "gauss",
    "betavariate", "paretovariate", "weibullvariate", "getstate", "setstate", "getrandbits", "randbytes",
)  # fmt: skip
_ENTRIES = ("rendezvous", "_new_process_group_helper", "_get_default_group")  # Of torch's process groups.
_CLOCKS = ("time", "monotonic", "perf_counter")


Caller = Callable[[], SimulatedRank | None]
"""Returns the rank that is calling, `None` outside of simulated ranks."""

_installed: list[Caller] = []


def point(name: str = "") -> None:
    """Scheduling point: another simulated rank may run here; does nothing outside of a simulation.

    Args:
        name: a label, shown in the steps of an execution.

    >>> from pytest_elastic.simulator import simulate
    >>> print(*simulate(lambda rank, world_size, store: point("here"), ranks=2).steps, sep="; ")
    rank 0: point('here'); rank 1: point('here')
    """
    for caller in reversed(_installed):
        rank = caller()
        if rank is not None:
            rank.reach("point", "point", (name,) if name else ())
            return


class _Timers(TimerClient):
    """Timer client of simulated ranks; passes requests of other callers to the original client."""

    def __init__(self, caller: Caller, original: TimerClient | None) -> None:
        self._caller, self._original = caller, original

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        rank = self._caller()
        if rank is not None:
            rank.reach("timer", "acquire", (str(scope_id), expiration_time))
        else:
            self.original().acquire(scope_id, expiration_time)

    def release(self, scope_id: str) -> None:
        rank = self._caller()
        if rank is not None:
            rank.reach("timer", "release", (str(scope_id),))
        else:
            self.original().release(scope_id)

    def original(self) -> TimerClient:
        if self._original is None:
            raise RuntimeError("Configure timer client before using countdown timers.")
        return self._original


@contextmanager
def installed(caller: Caller) -> Iterator[None]:
    """Install the patches; restore the originals at the end of the block."""
    saved: list[tuple[Any, str, Any]] = []
    timers = configured()

    def replace(module: Any, name: str, simulated: Callable[..., Any]) -> None:
        original = getattr(module, name)
        saved.append((module, name, original))
        ours = patched(caller, original, simulated)
        setattr(module, name, staticmethod(ours) if module is SystemClock else ours)

    for name in _CLOCKS:
        replace(time, name, SimulatedRank.now)
        replace(time, f"{name}_ns", lambda rank: round(rank.now() * 1e9))
    for name in ("time", "monotonic"):  # It took these functions from the unpatched module.
        replace(SystemClock, name, SimulatedRank.now)
    replace(time, "sleep", simulated_sleep)
    for name in _RANDOM:
        replace(random, name, partial(simulated_draw, name))
    for version, name in ((1, "uuid1"), (4, "uuid4")):
        replace(uuid, name, partial(simulated_uuid, version))
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
def refusing(caller: Caller) -> Iterator[None]:
    """Let ranks have no process group of torch's: they would all have the same one."""
    c10d = sys.modules.get("torch.distributed.distributed_c10d")
    saved = {name: getattr(c10d, name) for name in (_ENTRIES if c10d is not None else ())}
    for name, original in saved.items():
        setattr(c10d, name, patched(caller, original, refuse_torch))
    try:
        yield
    finally:
        for name, original in saved.items():
            setattr(c10d, name, original)


def refuse_torch(rank: SimulatedRank, *_: Any, **__: Any) -> None:
    raise RuntimeError(
        f"simulated rank {rank.number} uses torch.distributed: its function has to be decorated"
        " with pytest_elastic.simulator.torch_ranks"
    )


def patched(caller: Caller, original: Any, simulated: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `simulated(rank, ...)` for simulated ranks and `original(...)` for others."""

    def call(*arguments: Any, **named: Any) -> Any:
        rank = caller()
        return original(*arguments, **named) if rank is None else simulated(rank, *arguments, **named)

    return call


def simulated_sleep(rank: SimulatedRank, seconds: float, /) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    rank.reach("sleep", "sleep", (float(seconds),))


def simulated_draw(name: str, rank: SimulatedRank, *arguments: Any, **named: Any) -> Any:
    return getattr(rank.chance(), name)(*arguments, **named)


def simulated_uuid(version: int, rank: SimulatedRank, *_: Any, **__: Any) -> uuid.UUID:
    return uuid.UUID(int=rank.chance().getrandbits(128), version=version)


@contextmanager
def listening(caller: Caller) -> Iterator[None]:
    """Report to ranks the text that they write to `sys.stdout` and `sys.stderr`."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, caller) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Tee:
    """Stream that also reports the text that ranks write."""

    def __init__(self, stream: Any, caller: Caller) -> None:
        self._stream, self._caller = stream, caller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        written = self._stream.write(text)
        rank = self._caller()
        if rank is not None:
            rank.wrote(text)
        return written
