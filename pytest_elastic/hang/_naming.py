"""How ranks, keys and barriers are named to people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Sized
from functools import lru_cache

from pytest_elastic.errors import name_ranks
from pytest_elastic.hang._nodes import Rank
from pytest_elastic.pristine import signal
from pytest_elastic.store import LAST_MEMBER

_OF_WORLD = re.compile(r"(?:.*/)?world/barrier/(?P<name>.*)/(?P<use>\d+)$")
_COLLECTIVE = re.compile(r"((?:.*/)?world/(?:gather|broadcast/(?P<src>\d+))/(?P<use>\d+))(?:/\d+)?$")
# Ranks wait for the same keys: a verdict asks for each name once for every rank.
_remembered = lru_cache(1024)


def barrier_name(prefix: str) -> str:
    """What the barrier with this prefix is called, quoted: `"epoch3"`, `"epoch3" (use 2)`."""
    match = _OF_WORLD.match(prefix)
    return f'"{prefix}"' if match is None else f'"{match["name"]}"{_use(match["use"])}'


@_remembered
def collective_of(key: str) -> str:
    """The prefix of the collective of the world that a key belongs to; `""` for any other key.

    A gather's has the ranks' keys below it, a broadcast's is its only key.
    """
    match = _COLLECTIVE.match(key)
    return "" if match is None else match[1]


@_remembered
def place_name(prefix: str) -> str:
    """What is joined, in words: `barrier "epoch3"`, `gather (use 2)`, `broadcast from rank 0`."""
    match = _COLLECTIVE.match(prefix)
    if match is None:
        return f"barrier {barrier_name(prefix)}"
    return ("gather" if match["src"] is None else f"broadcast from rank {match['src']}") + _use(match["use"])


@_remembered
def joined_name(prefix: str) -> str:
    """The same without the word for a barrier, which is named by its name: `"epoch3"`."""
    return place_name(prefix).removeprefix("barrier ")


def use_of(prefix: str) -> int:
    """How many times its callers have called a gather of the world by now; 0 for anything else."""
    match = _COLLECTIVE.match(prefix)
    return 0 if match is None or match["src"] is not None else int(match["use"])


def place_of(key: str) -> str:
    """The prefix of the barrier or collective that a key belongs to; else the key."""
    return collective_of(key) or key.removesuffix(LAST_MEMBER)


def family(prefix: str) -> str:
    """What all uses of a barrier or collective share; the prefix itself for one that has no uses."""
    if _OF_WORLD.match(prefix) or _COLLECTIVE.match(prefix):
        return prefix.rpartition("/")[0]
    return prefix


@_remembered
def key_name(key: str) -> str:
    """The key, quoted; what is joined there for a barrier's last key, or a key of a collective."""
    place = collective_of(key) or (key.removesuffix(LAST_MEMBER) if key.endswith(LAST_MEMBER) else "")
    return place_name(place) if place else f'"{key}"'


def key_names(keys: Iterable[str], most: int = 3) -> str:
    """The first ones, and how many more there are."""
    names = list(dict.fromkeys(map(key_name, keys)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _use(number: str) -> str:
    return "" if number == "1" else f" (use {number})"


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
    if rank.exited is not None and rank.exited.text:
        return rank.exited.text
    if rank.exited is not None:
        return exit_text(rank.exited.exitcode).removeprefix("was ") + (f": {report}" if report else "")
    if rank.ended is not None:
        return rank.ended.outcome + (f": {report}" if report else "")
    if rank.stood is not None and rank.stood.state == "stopped":
        return "stopped by a signal"
    if not rank.runs:
        return f"waits for {key_names(key for wait in rank.waits.values() for key in wait.lacks)}"
    if rank.stood is not None:
        return stand_text(rank)
    return "runs"


def stand_text(rank: Rank) -> str:
    """What the kernel says of a rank that is not blocked in the store."""
    assert rank.stood is not None
    if rank.stood.state == "stopped":
        return "is stopped by a signal"
    if rank.stood.state != "blocked":
        return "computes" if rank.stood.state == "spinning" else rank.stood.state
    where = f" in {rank.stood.channel}" if rank.stood.channel else ""
    return f"is blocked{where}" + (f", on a pipe of {rank.stood.peer}" if rank.stood.peer else "")


def plural(text: str, ranks: Sized) -> str:
    """A text that begins with its verb, as it is said of so many ranks: `are blocked`, `wait for "k"`."""
    verb, space, rest = text.partition(" ")
    return text if len(ranks) == 1 else _PLURALS.get(verb, verb) + space + rest


_PLURALS = {"is": "are", "waits": "wait", "computes": "compute"}


def ends_text(ranks: Sequence[Rank]) -> str:
    """How ranks ended, equal ends together: `ranks 0-1 passed, rank 3 skipped`."""
    ends: dict[str, list[int]] = {}
    for rank in ranks:
        ends.setdefault(end_text(rank), []).append(rank.number)
    return ", ".join(f"{names(alike)} {text}" for text, alike in ends.items())


def end_text(rank: Rank) -> str:
    """`passed`, `passed its setup`, `exited 1`: how a rank that is gone has ended."""
    if rank.exited is not None and rank.exited.text:
        return f"was killed: {rank.exited.text}"
    if rank.exited is not None and rank.died and (rank.ended is None or rank.exited.exitcode):
        return exit_text(rank.exited.exitcode)
    assert rank.ended is not None
    if rank.ended.outcome == "passed" and rank.ended.phase != "call":
        return f"passed its {rank.ended.phase}"
    return {"exit": "asked to exit"}.get(rank.ended.outcome, rank.ended.outcome)


def bracket(ranks: Iterable[int]) -> str:
    """`[0-3]`, `[0,2]`."""
    return f"[{numbers(ranks).replace(', ', ',')}]"
