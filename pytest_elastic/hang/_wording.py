"""How ranks, keys and barriers are named to people."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from pytest_elastic.errors import name_ranks
from pytest_elastic.hang._nodes import LAST_MEMBER, Rank

_OF_WORLD = re.compile(r"(?:.*/)?world/barrier/(?P<name>.*)/(?P<use>\d+)$")


def barrier_name(prefix: str) -> str:
    """What the barrier with this prefix is called, quoted: `"epoch3"`, `"epoch3" (use 2)`."""
    match = _OF_WORLD.match(prefix)
    if match is None:
        return f'"{prefix}"'
    use = "" if match["use"] == "1" else f" (use {match['use']})"
    return f'"{match["name"]}"{use}'


def barrier_family(prefix: str) -> str:
    """The name that all uses of a barrier share; the prefix itself for one that has no uses."""
    match = _OF_WORLD.match(prefix)
    return prefix if match is None else match["name"]


def key_name(key: str) -> str:
    """The key, quoted; for a barrier's last key, the barrier."""
    if key.endswith(LAST_MEMBER):
        return f"barrier {barrier_name(key.removesuffix(LAST_MEMBER))}"
    return f'"{key}"'


def key_names(keys: Iterable[str], most: int = 3) -> str:
    """The first ones, and how many more there are."""
    names = [key_name(key) for key in keys]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def names(ranks: Iterable[int]) -> str:
    """`rank 1`, `ranks 0-2`."""
    return name_ranks(list(ranks))


def numbers(ranks: Iterable[int]) -> str:
    """`1`, `0-2, 5`."""
    return names(ranks).split(" ", 1)[1]


def exit_text(code: int) -> str:
    """`exited 1`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def state_text(rank: Rank) -> str:
    """What the rank does, in the words that follow its number."""
    report = ""
    if rank.ended is not None:
        report = ", ".join(part for part in (rank.ended.text, rank.ended.place) if part)
    if rank.exited is not None:
        return exit_text(rank.exited.exitcode).removeprefix("was ") + (f": {report}" if report else "")
    if rank.ended is not None:
        return rank.ended.outcome + (f": {report}" if report else "")
    if rank.stood is not None and rank.stood.state == "stopped":
        return "stopped by a signal"
    if not rank.runs:
        return f"waits for {key_names(dict.fromkeys(k for w in rank.waits.values() for k in w.missing))}"
    if rank.stood is not None:
        return stand_text(rank)
    return "runs"


def stand_text(rank: Rank) -> str:
    """What the kernel says of a rank that is not blocked in the store."""
    assert rank.stood is not None
    if rank.stood.state != "blocked":
        return "computes" if rank.stood.state == "spinning" else rank.stood.state
    where = f" in {rank.stood.channel}" if rank.stood.channel else ""
    return f"is blocked{where}" + (f", on a pipe of {rank.stood.peer}" if rank.stood.peer else "")


def bracket(ranks: Iterable[int]) -> str:
    """`[0-3]`, `[0,2]`."""
    return f"[{numbers(ranks).replace(', ', ',')}]"
