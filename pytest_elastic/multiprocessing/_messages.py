"""Messages between a launcher and the guardian of a group, and how each rank of a group begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RankStart:
    """How one rank begins.

    Attributes:
        rank: its number.
        env: added to the environment; `None` removes a name.
        stdout: file for descriptor 1, `""` to inherit it.
        stderr: likewise for descriptor 2.
        job: what the zygote's `run_rank` makes of it; anything that pickles.
        descriptors: names of the descriptors that travel with it; in the rank, their numbers.  One named
            `stdout` or `stderr` becomes that stream where there is no file for it.
        session: whether the rank leads a session of its own, not only a process group.
        descriptor_limit: soft limit of open descriptors in the rank, 0 to leave it.
    """

    rank: int
    env: dict[str, str | None]
    stdout: str
    stderr: str
    job: Any
    descriptors: dict[str, int] = field(default_factory=dict)
    session: bool = False
    descriptor_limit: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """All ranks were forked: rank -> pid."""

    pids: dict[int, int]


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A rank could not be forked; those before it are gone again."""

    rank: int
    error: OSError


@dataclass(frozen=True, slots=True)
class RankExited:
    """A rank has ended; `exitcode` is -n for signal n, `at` is on the monotonic clock.

    Attributes:
        lost: a verb phrase, where nobody saw it end: `was lost with node 7c3dfbfa (10.0.0.2)`.
    """

    rank: int
    exitcode: int
    at: float
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """A process that outlived its group's ranks; `rank` is `None` where it cannot be told."""

    pid: int
    command: str
    rank: int | None


@dataclass(frozen=True, slots=True)
class Dying:
    """What is left was killed, and the kernel takes its time to take it apart."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of the group is left but `survivors` (pid -> command)."""

    leaks: tuple[Leak, ...]
    survivors: dict[int, str]


@dataclass(frozen=True, slots=True)
class Signal:
    """Command: send `signum` to these ranks' processes."""

    ranks: tuple[int, ...]
    signum: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Command: the stop sequence; a second one may only shorten the grace (seconds)."""

    signum: int
    grace: float
