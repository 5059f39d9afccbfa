"""Hangs outside of the store: what ranks do that hang in a library, by the kernel and by their stacks.

*Theory.*  What the store does not see has no graph.  But a rank that is blocked,
in the store or in a library (a futex, a poll, a socket), waits for another, and the cause is a rank that can
end nobody's wait.  These are, in this order:

1. a rank that failed, or whose process ended without a report;
2. one that is stopped by a signal;
3. one that computes;
4. one that is blocked in something of its own process, while nobody waits for a rank that has ended;
5. one that passed, or skipped, early, while others are blocked;
6. one that sleeps: a library that waits may look, and sleep, and look again.

There is one verdict over all ranks.  Those that are blocked are not called the cause while such a rank is
known; where there is none, the cause is not known, but for the holder of a pipe's end.  It is never exact.

The frames of libraries that wait say for what (`waits in all_reduce at train.py:12`).  Those that wait for
other ranks, in a collective or for a message, are not the cause while a rank waits for something of its own:
a queue, a thread, a child.  MPI computes while it waits, and torch sleeps between two looks at a peer: both
are blocked.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, takewhile
from pathlib import PurePath

from pytest_elastic.events import RankStood, StoreCalled
from pytest_elastic.hang._diagnosis import (
    BlockedOutside,
    CollectiveMismatch,
    Diagnosis,
    Exited,
    MissingRank,
    Spinning,
    Stopped,
    Unreachable,
)
from pytest_elastic.hang._frames import Frame, Stack, is_library
from pytest_elastic.hang._naming import ends_text, key_names, stand_text, state_text, told_of
from pytest_elastic.hang._nodes import Rank
from pytest_elastic.hang._rules import absent_verdict, diagnose, numbers_of, timed_out
from pytest_elastic.hang._snapshot import take_snapshot
from pytest_elastic.hang._stack_tree import main_stack
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.processes import SHARED, sleeps


def diagnose_outside(
    graph: WaitGraph, stacks: Mapping[int, Sequence[Stack]] | None = None
) -> Diagnosis | None:
    """The verdict on ranks that run, by what the kernel says (`RankStood`); `None` where it says nothing.

    Args:
        stacks: by rank, where they are known: what libraries wait for is read from them.
    """
    note_words(graph, stacks or {})
    for rank in graph.ranks:
        if rank.stood is not None:
            rank.repeats = repeats_text(graph, rank, rank.stood)
            if polls(rank, rank.stood):
                rank.stood = replace(rank.stood, state="blocked", channel="")
            if rank.stood.peer == SHARED:
                rank.words = rank.words.replace("of another thread", "that processes share")
    kinds: dict[str, list[Rank]] = {}
    for rank in graph.ranks:
        if rank.runs and rank.stood is not None:
            asleep = rank.stood.state == "blocked" and sleeps(rank.stood.channel)
            kinds.setdefault("sleeping" if asleep else rank.stood.state, []).append(rank)
    if not kinds:
        return None
    running = [rank for ranks in kinds.values() for rank in ranks]
    awaited = absence_below(graph, kinds.get("blocked", [])) or absence_outside(graph, running)
    if awaited is not None:
        return replace(awaited, exact=False, snapshot=take_snapshot(graph, awaited.keys))
    inside = [rank for rank in graph.ranks if not rank.gone and not rank.runs]
    verdict, ranks, cause = judge_outside(kinds, [rank for rank in graph.ranks if rank.gone], inside)
    return verdict(numbers_of(ranks), (), cause, exact=False, snapshot=take_snapshot(graph))


def review(
    graph: WaitGraph, known: Diagnosis | None, stacks: Mapping[int, Sequence[Stack]]
) -> Diagnosis | None:
    """A verdict again, with what has become known since: later calls of a mismatch, or stacks.

    Where there was none: one on ranks whose time was up in a call of a group.
    """
    if known is None:
        note_words(graph, stacks)
        return timed_out(graph)
    if isinstance(known, CollectiveMismatch):
        found = diagnose(graph)
        return None if found is None else replace(found, elapsed=known.elapsed)
    if known.doomed or known.exact or not stacks:
        return known
    # The signal for its stack may let a rank go on, as from a full pipe: the verdict is of the time before.
    if any(known.snapshot.progress[rank][1] < graph.ranks[rank].calls for rank in known.ranks):
        return known
    return diagnose_outside(graph, stacks) or known


def absence_below(graph: WaitGraph, blocked: Sequence[Rank]) -> Diagnosis | None:
    """The verdict on members that are gone from a call whose backend some are blocked in.

    The root of a broadcast waits for nobody before the real operation, which may block for the others.
    """
    for call in graph.calls.open.values():
        inside = [rank for rank in blocked if graph.calls.is_last(call, rank.number)]
        gone = [graph.ranks[rank] for rank in call.absent(len(graph.ranks)) if graph.ranks[rank].gone]
        if inside and gone:
            return absent_verdict(graph, call, sorted(call.calls), gone, ends_text)
    return None


def absence_outside(graph: WaitGraph, running: Sequence[Rank]) -> Diagnosis | None:
    """The verdict on ranks that stay away from a call where others wait; `None` if nobody waits so."""
    for wait in graph.waits():
        if wait.call is None or wait.patient:
            continue
        known = (
            {wait.writers[key] for key in wait.lacks} if wait.writers else wait.call.absent(len(graph.ranks))
        )
        absent = [rank for rank in running if rank.number in known]
        if absent:
            waiting = sorted({one.rank for one in graph.waits() if one.call is wait.call})
            return absent_verdict(graph, wait.call, waiting, absent, stances_text)
    return None


def judge_outside(
    kinds: Mapping[str, list[Rank]], gone: Sequence[Rank], inside: Sequence[Rank]
) -> tuple[type[Diagnosis], Sequence[Rank], str]:
    """The verdict, its ranks and the cause, for ranks that run (by kind), and for others.

    Args:
        gone: those that have ended; `inside`: those that wait in the store.
    """
    accidents, blocked = [rank for rank in gone if rank.is_accident], kinds.get("blocked", [])
    verdict: type[Diagnosis]
    if unreachable := kinds.get("unreachable"):
        return Unreachable, unreachable, stances_text(unreachable)
    for kind, verdict in (("stopped", Stopped), ("spinning", Spinning), ("sleeping", BlockedOutside)):
        ranks = kinds.get(kind)
        if ranks and not accidents and not (gone and blocked and kind == "sleeping"):
            also = f"; {ends_text(gone)}" if gone and (blocked or kind == "sleeping") else ""
            return verdict, ranks, f"{idle_text(ranks)}{also}"
    own = [rank for rank in blocked if _OWN.match(rank.words)]
    if gone and not accidents and len(own) == len(list(chain(*kinds.values()))):
        return BlockedOutside, own, f"{idle_text(own)}; {ends_text(gone)}"
    if gone:
        ended, running = accidents or gone, sorted(chain(*kinds.values()), key=lambda rank: rank.number)
        cause = f"{ends_text(ended)}, while {stances_text(running)}"
        return Exited if ended[0].died else MissingRank, ended, cause
    busy = [rank for rank in blocked if rank.words and not waits_for_ranks(rank)]
    others = [rank for rank in blocked if waits_for_ranks(rank)]
    if busy and (others or inside):
        waiting = told_of([*others, *inside], state_text)
        return BlockedOutside, busy, f"{idle_text(busy)}, while {waiting}"
    peers = [rank.stood.peer if rank.stood is not None else "" for rank in blocked]
    known = all(peer and not peer.startswith("port") for peer in peers)
    unknown = "" if known else "; nobody is known to be the cause"
    if inside and others == blocked:  # Each may wait for the others: here nobody is the victim.
        blocked = sorted([*blocked, *inside], key=lambda rank: rank.number)
        return BlockedOutside, blocked, f"{told_of(blocked, state_text)}{unknown}"
    return BlockedOutside, blocked, f"{idle_text(blocked)}{unknown}"


def idle_text(ranks: Sequence[Rank]) -> str:
    """States of ranks by the kernel, and that these asked nothing of the store, unless they did."""
    return stances_text(ranks) + (
        "" if any(rank.repeats for rank in ranks) else ", and did nothing in the store"
    )


def repeats_text(graph: WaitGraph, rank: Rank, stood: RankStood) -> str:
    """Which request a rank makes again and again, in words: a loop looks, and sleeps; `""` for none."""
    mine = (one for one in reversed(graph.done) if isinstance(one, StoreCalled) and one.rank == rank.number)
    last = next(mine, None)
    if last is None or last.at < stood.at - _LATELY:
        return ""
    asked = (last.name, last.keys)
    alike = [*islice(takewhile(lambda one: (one.name, one.keys) == asked, mine), _MANY)]
    return f"calls {last.name}({key_names(last.keys)}) again and again" if len(alike) == _MANY else ""


def stances_text(ranks: Sequence[Rank]) -> str:
    """States by the kernel, equal ones together: `ranks 0-1 wait for a lock, rank 2 computes`."""
    return told_of(ranks, stand_text)


# Words of stacks.


def note_words(graph: WaitGraph, stacks: Mapping[int, Sequence[Stack]]) -> None:
    """Note what each rank waits for by its stacks."""
    for number, threads in stacks.items():
        rank = graph.ranks[number]
        rank.words, rank.place = read_stacks(threads)


def polls(rank: Rank, stood: RankStood) -> bool:
    """Whether a rank that computes, or sleeps, does so in a library that waits for other ranks."""
    if stood.state == "spinning":
        return rank.words.startswith("waits in MPI's")
    return sleeps(stood.channel) and rank.words.startswith("waits in ")


def waits_for_ranks(rank: Rank) -> bool:
    """Whether a blocked rank's stack, or its pipe, says that it waits for other ranks."""
    peer = rank.stood.peer if rank.stood is not None else ""
    return peer.startswith("rank") or rank.words.startswith("waits in ")


def read_stacks(threads: Sequence[Stack]) -> tuple[str, str]:
    """What a rank waits for by its main thread's frames, and where; `""` for what these do not tell.

    The one is `waits in all_reduce at train.py:12`, the other `train.py:12`.
    """
    stack = main_stack(threads)
    frames = () if stack is None else tuple(frame for frame in stack.frames if not frame.native)
    last = max((i for i, one in enumerate(frames) if not is_library(one.file)), default=-1)
    if last < 0:
        return "", ""
    user, words = frames[last], ""
    for frame in frames[last + 1 :]:
        words = frame_text(frame)
        if words:
            break
    words = words or line_text(user)
    place = f"{PurePath(user.file).name}:{user.line}"
    return f"{words} at {place}" if words else "", place


def frame_text(frame: Frame) -> str:
    """What a library's function waits for; `""` for one that is not known to wait."""
    for file, function, words in _WAITS:
        if file.search(frame.file) and re.fullmatch(function, frame.function):
            return words.format(frame.function)
    return ""


def line_text(frame: Frame) -> str:
    """What a user's line waits for that calls a function in C, by the name of that."""
    line = linecache.getline(frame.file, frame.line)
    mpi = re.search(rf"\.({_MPI})\(", line)
    if mpi is not None and any("mpi4py" in one for one in linecache.getlines(frame.file)):
        return f"waits in MPI's {mpi[1]}"
    return next((words for pattern, words in _CALLS if pattern.search(line)), "")


_MANY, _LATELY = 10, 1.0  # How many equal calls are a loop, and seconds since the last of them.
_OWN = re.compile(
    r"waits for (a|an event of another) thread|waits for a lock of another thread"
    r"|waits for (an item of|room in|the tasks of) a queue|waits for a (future|(sub|child )process) "
)
_ANY = ".+"
_MPI = (
    r"Barrier|I?[Bb]cast|[Aa]llreduce|[Rr]educe|[Rr]educe_scatter|[Ss]can|[Gg]atherv?|[Aa]llgatherv?|[Ss]catterv?"
    r"|[Aa]lltoallv?|barrier|[Ss]?[Ss]end|[Rr]ecv|[Ss]endrecv|[Pp]robe|[Ww]aitall|[Ww]ait|Split|Dup"
)
_WAITS = [
    (re.compile(file), function, words)
    for file, function, words in (
        (r"/torch/distributed/", r"(?!wrapper$|inner$|_).+", "waits in {}"),
        (r"/mpi4py/", _MPI, "waits in MPI's {}"),
        (r"/torch/utils/data/", _ANY, "waits for a worker of a DataLoader"),
        (r"/multiprocessing/queues\.py$", "get|put", "waits for a multiprocessing queue ({})"),
        (r"/multiprocessing/pool\.py$", _ANY, "waits for a multiprocessing pool"),
        (r"/multiprocessing/connection\.py$", "accept", "waits for a connection of another process"),
        (r"/multiprocessing/connection\.py$", _ANY, "waits for data of another process"),
        (r"/multiprocessing/(process|popen_\w+)\.py$", "join|wait|poll", "waits for a child process to end"),
        (r"/multiprocessing/synchronize\.py$", "wait|wait_for", "waits for an event of another process"),
        (r"/multiprocessing/synchronize\.py$", _ANY, "waits for a lock that processes share"),
        (r"/concurrent/futures/", _ANY, "waits for a future"),
        (r"/subprocess\.py$", _ANY, "waits for a subprocess to end"),
        (r"/queue\.py$", "get", "waits for an item of a queue"),
        (r"/queue\.py$", "put", "waits for room in a queue"),
        (r"/queue\.py$", "join", "waits for the tasks of a queue"),
        (r"/threading\.py$", "join|_wait_for_tstate_lock", "waits for a thread to end"),
        (r"/threading\.py$", "wait|wait_for", "waits for an event of another thread"),
        (r"/threading\.py$", "acquire|__enter__", "waits for a lock of another thread"),
        (r"/(asyncio|selectors)\b", _ANY, "waits for events of its loop"),
        (r"/(socket|ssl|socketserver)\.py$", "accept", "waits for a connection at a socket"),
        (r"/(socket|ssl|socketserver|http/\w+)\.py$", _ANY, "waits for data at a socket"),
    )
]
_CALLS = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\.accept\(", "waits for a connection at a socket"),
        (r"\.recv(_into|from|msg)?\(", "waits for data at a socket"),
        (r"\.acquire\(|^\s*with .*lock", "waits for a lock of another thread"),
        (r"\bwaitpid\(|\bos\.wait\(", "waits for a child process to end"),
        (r"\bsleep\(", "sleeps"),
    )
]
