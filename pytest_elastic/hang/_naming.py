"""Names of keys, barriers and collectives, and states of ranks, in messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from pytest_elastic.hang._group_calls import waiting_places
from pytest_elastic.hang._nodes import Rank
from pytest_elastic.processes import SHARED
from pytest_elastic.store import LAST_MEMBER
from pytest_elastic.wording import exit_label, exit_text, name_ranks, number_ranks, plural

_OF_WORLD = re.compile(r"(?:.*/)?world/barrier/(?P<name>.*)/(?P<use>\d+)$")
_UNNAMED = "without a name"
_COLLECTIVE = re.compile(r"((?:.*/)?world/(?:gather|broadcast/(?P<src>\d+))/(?P<use>\d+))(?:/\d+)?$")
# Ranks wait for the same keys: a verdict asks for each name once for every rank.
_remembered = lru_cache(1024)


def barrier_name(prefix: str) -> str:
    """The name of the barrier with this prefix, quoted: `"epoch3"`, `"epoch3" (use 2)`; `without a name`."""
    match = _OF_WORLD.match(prefix)
    if match is None:
        return f'"{prefix}"'
    return (f'"{match["name"]}"' if match["name"] else _UNNAMED) + _use(match["use"])


@_remembered
def collective_of(key: str) -> str:
    """The prefix of the collective of the world that a key belongs to; `""` for any other key.

    A gather's has the ranks' keys below it, a broadcast's is its only key.
    """
    match = _COLLECTIVE.match(key)
    return "" if match is None else match[1]


@_remembered
def place_name(prefix: str) -> str:
    """The barrier or collective in words: `barrier "epoch3"`, `gather (use 2)`, `broadcast from rank 0`."""
    match = _COLLECTIVE.match(prefix)
    if match is None:
        return f"barrier {barrier_name(prefix)}"
    return ("gather" if match["src"] is None else f"broadcast from rank {match['src']}") + _use(match["use"])


@_remembered
def joined_name(prefix: str) -> str:
    """The same without the word "barrier", where it has a name: `"epoch3"`."""
    place = place_name(prefix)
    return f"a {place}" if place.startswith(f"barrier {_UNNAMED}") else place.removeprefix("barrier ")


def use_of(prefix: str) -> int:
    """The number of a gather of the world among its callers' gathers; 0 for anything else."""
    match = _COLLECTIVE.match(prefix)
    return 0 if match is None or match["src"] is not None else int(match["use"])


def place_of(key: str) -> str:
    """The prefix of the barrier or collective that a key belongs to; else the key."""
    return collective_of(key) or key.removesuffix(LAST_MEMBER)


def family(prefix: str) -> str:
    """The prefix that all uses of a barrier or collective share; the whole prefix for one without uses."""
    if _OF_WORLD.match(prefix) or _COLLECTIVE.match(prefix):
        return prefix.rpartition("/")[0]
    return prefix


@_remembered
def key_name(key: str) -> str:
    """The key, quoted; the barrier or collective, where it is a key of one."""
    place = collective_of(key) or (key.removesuffix(LAST_MEMBER) if key.endswith(LAST_MEMBER) else "")
    return place_name(place) if place else f'"{key}"'


def key_names(keys: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(dict.fromkeys(map(key_name, keys)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _use(number: str) -> str:
    return "" if number == "1" else f" (use {number})"


def state_text(rank: Rank) -> str:
    """The rank's state, in the words that follow its number."""
    report = ""
    if rank.ended is not None:
        report = ", ".join(part for part in (rank.ended.text, rank.ended.place) if part)
    if rank.exited is not None and rank.exited.text:
        return rank.exited.text
    if rank.exited is not None:
        return exit_label(rank.exited.exitcode) + (f": {report}" if report else "")
    if rank.ended is not None:
        return rank.ended.outcome + (f": {report}" if report else "")
    if rank.stood is not None and rank.stood.state == "stopped":
        return "stopped by a signal"
    if not rank.runs:
        return waits_text(rank)
    if rank.stood is not None:
        return stand_text(rank)
    return rank.words or "runs"


def waits_text(rank: Rank) -> str:
    """What a rank waits for that is blocked in the store."""
    calls = list(dict.fromkeys(wait.call for wait in rank.waits.values() if wait.call is not None))
    keys = [key for wait in rank.waits.values() if wait.call is None for key in wait.lacks]
    if not calls:
        return f"waits for {key_names(keys)}"
    named = ", ".join(f"{call.title}{waiting_places(call, [rank.number])}" for call in calls)
    return f"waits in {named}" + (f" and for {key_names(keys)}" if keys else "")


def stand_text(rank: Rank) -> str:
    """The state of a rank that is not blocked in the store, as the kernel tells it."""
    assert rank.stood is not None
    if rank.stood.state == "stopped":
        return "is stopped by a signal"
    if rank.stood.state == "unreachable":
        return "is on a machine that does not answer"
    if rank.repeats:
        return rank.repeats
    if rank.stood.state != "blocked":
        return "computes" if rank.stood.state == "spinning" else rank.stood.state
    peer = rank.stood.peer
    if peer.startswith("port"):
        _, at, place = rank.words.rpartition(" at ")
        return f"waits in accept() on {peer}{at}{place}"
    if rank.words and not peer.startswith("rank"):
        return rank.words
    place = f" at {rank.place}" if rank.place else ""
    who, _, descriptor = peer.partition(" at ")
    if not peer or peer == SHARED:
        return kernel_text(rank.stood.channel) + place
    at = f" ({descriptor})" if descriptor else ""
    if "lock" in rank.stood.channel or "lk" in rank.stood.channel:
        return f"waits for a lock of a file that {who} holds{at}{place}"
    verb = "writes to" if "write" in rank.stood.channel else "reads from"
    return f"{verb} a pipe whose other end {who} holds{at}{place}"


def kernel_text(channel: str) -> str:
    """What a thread does that is blocked in this function of the kernel, in words that follow its rank."""
    words = next((words for pattern, words in _CHANNELS if pattern.search(channel)), "")
    return words or ("is blocked" + (f" in the kernel ({channel})" if channel else ""))


_CHANNELS = [
    (re.compile(pattern), words)
    for pattern, words in (
        ("futex", "waits for a lock"),
        ("nanosleep", "sleeps"),
        ("pipe_read", "reads from a pipe"),
        ("pipe_write", "writes to a pipe"),
        ("accept|wait_for_connect", "waits in accept()"),
        ("epoll|ep_poll|do_poll|do_sys_poll|poll_schedule|do_select", "waits for events of descriptors"),
        ("recv|skb_wait|sk_wait_data|unix_stream_read|wait_woken", "waits for data at a socket"),
        ("do_wait|kernel_wait", "waits for a child process to end"),
        ("flock|posix_lock|locks_lock|setlk", "waits for a lock of a file"),
        ("sigsuspend|sigtimedwait|do_pause", "waits for a signal"),
        ("tty_read", "reads from the terminal"),
    )
]


def ends_text(ranks: Sequence[Rank]) -> str:
    """The ends of ranks, equal ones together: `ranks 0-1 passed, rank 3 skipped`."""
    return told_of(ranks, end_text)


def told_of(ranks: Sequence[Rank], tell: Callable[[Rank], str]) -> str:
    """What there is to tell of each rank, in words that follow its name; equal ones together."""
    alike: dict[str, list[int]] = {}
    for rank in ranks:
        alike.setdefault(tell(rank), []).append(rank.number)
    return ", ".join(f"{name_ranks(numbers)} {plural(text, numbers)}" for text, numbers in alike.items())


def end_text(rank: Rank) -> str:
    """The end of a rank that is gone: `passed`, `passed its setup`, `exited with code 1`."""
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
    return f"[{number_ranks(ranks).replace(', ', ',')}]"
