"""Orders of rank 0 to an agent, and what an agent tells; between processes of one version of this package.

What comes first, `Join`, is made of plain values only, so that a process of another version can be refused
in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_elastic.multiprocessing import RankStart

AGENT, QUESTIONS = b"a", b"q"  # What an agent connects for.

Join = dict[str, Any]
"""From the agent, first: `version` of the package, `python`, `pid`, `tests` (ids, in order), `failed`."""


@dataclass(frozen=True, slots=True)
class FromGuardian:
    """From the agent: what the guardian of its rank in a group has told."""

    group: int
    message: Any


@dataclass(frozen=True, slots=True)
class GuardianGone:
    """From the agent: a guardian has closed its channel."""

    group: int


@dataclass(frozen=True, slots=True)
class NodeGone:
    """From the agent, last: what holds its machine for the launcher is gone, and the agent ends.

    Attributes:
        how: in words.
    """

    how: str


@dataclass(frozen=True, slots=True)
class StartRank:
    """To the agent: start this rank of a group, by that start method; it is now `now` at rank 0."""

    group: int
    method: str
    start: RankStart
    now: float


@dataclass(frozen=True, slots=True)
class ToGuardian:
    """To the agent: a command for the guardian of its rank in a group."""

    group: int
    command: Any


@dataclass(frozen=True, slots=True)
class LetGo:
    """To the agent: close the channel to a guardian, which sweeps its rank."""

    group: int


@dataclass(frozen=True, slots=True)
class Leave:
    """To the agent: the run is over, end with this exit status."""

    status: int
