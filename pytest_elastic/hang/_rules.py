"""The rules by which a hang gets its verdict.

*Theory: waits in the store.*  Doomed waits have one root: follow what blocks a wait, and then what blocks
that, until it is no wait any more, or a circle.  Several verdicts may fit; the one nearest to the root wins,
in this order:

1. A rank failed (`MissingRank` where others wait for it to join, `DoomedWait` for a key) or its process ended
   without a report (`Exited`).  The first accident in time explains the others; of the
   targets that lack that rank, the one with most waits is named.
2. `DoomedWait` for a key that was there and was deleted, though nobody had read it: a lost wake-up.
3. A rank ended its phase in peace, absent from a barrier or a collective: `CountMismatch` if it had called
   some, but fewer than those who wait, else `MissingRank`.  Likewise the one writer of a key: `DoomedWait`.
4. Ranks at different barriers or collectives, absent from each other's: `OrderMismatch`; `StalePrefix` where
   these are two uses of one name.
5. `Deadlock`: a circle of waits, each for a key that only a rank of the circle can bring.
6. `DoomedWait`: a rank that has ended in peace could have written a key.  One that passed its setup or call
   may still write it in a later phase, but waits until all have ended this one.
7. `Deadlock`: a circle of waits for keys that any rank may write.
8. `HangUntilTimeout`: all wait for the same; nothing but the timeout will happen, and no rank is the cause.

So a rank that has ended leads, whichever ranks may wait for each other besides, unless these are known to do.

A barrier that is called more often than it counts does not hang: it lets its callers pass too early.  So
`StalePrefix` is also a finding of its own (`find_stale`), and a note on the others.

A verdict is exact if every thread that might have ended its waits is known to be unable to: no connection
that belongs to no rank, no rank with threads that may write behind the back of the one that waits.

*Theory: waits outside of the store.*  What the store does not see has no graph.  But a rank that is blocked,
in the store or in a library (a futex, a poll, a socket), waits for another, and the cause is a rank that can
end nobody's wait.  These are, in this order:

1. a rank that failed, or whose process ended without a report;
2. one that is stopped by a signal;
3. one that computes;
4. one that passed, or skipped, early, while others are blocked;
5. one that sleeps: a library that waits may look, and sleep, and look again.

There is one verdict over all ranks.  Those that are blocked are not called the cause while such a rank is
known; where there is none, the cause is not known, but for the holder of a pipe's end.  It is never exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from pytest_elastic.hang._case import Case, Target
from pytest_elastic.hang._diagnosis import (
    BlockedOutside,
    CountMismatch,
    Deadlock,
    Diagnosis,
    DoomedWait,
    Exited,
    HangUntilTimeout,
    MissingRank,
    OrderMismatch,
    Spinning,
    StalePrefix,
    Stopped,
)
from pytest_elastic.hang._naming import (
    barrier_name,
    end_text,
    ends_text,
    family,
    joined_name,
    key_name,
    key_names,
    place_name,
    place_of,
    stand_text,
    use_of,
)
from pytest_elastic.hang._nodes import Rank, Wait
from pytest_elastic.hang._snapshot import take_snapshot
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.processes import sleeps
from pytest_elastic.wording import name_ranks, plural

_SHOWN = 8  # Waits of a circle, or keys, that the sentence names.


def diagnose(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on the doomed waits; `None` if there are none."""
    if not graph.doomed:
        return None
    case = Case(graph)
    found = next(filter(None, (rule(case) for rule in RULES)))
    remaining = max(0.0, min(wait.deadline for wait in graph.doomed) - graph.last)
    stale = find_stale(graph)
    snapshot = take_snapshot(graph, found.keys, "" if stale is None else stale.cause)
    return replace(found, exact=case.exact(), remaining=remaining, snapshot=snapshot)


def find_stale(graph: WaitGraph) -> StalePrefix | None:
    """The first call of a barrier that synchronised nothing, whether or not anybody hangs."""
    if not graph.stale:
        return None
    first = graph.stale[0]
    again = {call.rank for call in graph.stale if call.prefix == first.prefix and call.rank is not None}
    what = f"barrier {barrier_name(first.prefix)} again (call {first.count} of {first.world_size})"
    cause = f"{name_ranks(again)} called {what}: a prefix synchronises only once"
    return StalePrefix(tuple(sorted(again)), (first.prefix,), cause)


# The rules, in their order.


def accident(case: Case) -> Diagnosis | None:
    """Rule 1."""
    found = [
        (rank.gone_at, -len(target.waiting), number)
        for number, target in enumerate(case.targets)
        for rank in case.ranks(target.writers & case.accidents)
    ]
    if not found:
        return None
    target = case.targets[min(found)[-1]]
    ranks = sorted(case.ranks(target.writers & case.accidents), key=lambda rank: rank.gone_at)
    first = ranks[0]
    alike = _numbers(rank for rank in ranks if (rank.died, rank.reason) == (first.died, first.reason))
    ended = f": {first.reason}" if first.reason else f" {plural(end_text(first), alike)}"
    cause = f"{name_ranks(alike)}{ended} {_before(target, first)}"
    if first.died:
        return Exited(alike, (place_of(target.key),), cause)
    place = first.ended.place if first.ended is not None else ""
    if target.joined and target.absent & first.bit:
        return MissingRank(alike, (target.name,), cause, place)
    return DoomedWait(target.waiting, (target.key,), cause, place)


def early_deletion(case: Case) -> Diagnosis | None:
    """Rule 2."""
    for target in case.targets:
        key, joined = target.key, 0 if target.barrier is None else target.barrier.joined
        waiting = tuple(rank for rank in target.waiting if not joined >> rank & 1)
        if waiting and key in case.graph.deleted and case.graph.unread(key):
            by = case.graph.deleted[key]
            who = "somebody outside of the group" if by is None else name_ranks([by])
            cause = (
                f"{key_name(key)} was there, but {who} deleted it before {name_ranks(waiting)} waited for it"
            )
            return DoomedWait(waiting, (key,), cause)
    return None


def absence(case: Case) -> Diagnosis | None:
    """Rule 3."""
    for target in case.targets:
        gone = case.ranks(target.writers & case.gone) if target.chosen else []
        if gone and not target.joined:
            cause = f"{ends_text(gone)} without writing {key_name(target.key)}"
            return DoomedWait(target.waiting, (target.key,), cause)
        if gone:
            cause = f"{ends_text(gone)} without joining {joined_name(target.name)}"
            return count_mismatch(case, target, gone) or MissingRank(_numbers(gone), (target.name,), cause)
    return None


def count_mismatch(case: Case, target: Target, gone: list[Rank]) -> Diagnosis | None:
    """Rule 3, where some of the ranks have joined before, but fewer times than those that wait."""
    if target.barrier is None:  # Whoever is at use 3 of a gather has had everybody's part of two.
        most, noun = use_of(target.name), "gather"
        counts = dict.fromkeys(gone, most - 1)
    else:
        most, noun = min(case.graph.ranks[rank].barriers for rank in target.waiting), "barrier"
        counts = {rank: rank.barriers for rank in gone if rank.barriers < most}
    if max(counts.values(), default=0) < 1:
        return None
    said = []
    for count in sorted(set(counts.values()), reverse=True):
        calls = f"{count} {noun}{'' if count == 1 else 's'}"
        said.append(f"{ends_text([rank for rank in counts if counts[rank] == count])} after {calls}")
    others = f"{name_ranks(target.waiting)} {plural('is', target.waiting)} at number {most}"
    cause = f"{', '.join(said)}; {others}, {joined_name(target.name)}"
    return CountMismatch(_numbers(counts), (target.name,), cause)


def mismatch(case: Case) -> Diagnosis | None:
    """Rule 4."""
    joined = [target for target in case.targets if target.joined]
    for target in joined:
        absent = {rank.number for rank in case.graph.ranks if target.absent & rank.bit}
        others = [one for one in joined if one is not target and absent.intersection(one.waiting)]
        if others:
            return mismatch_of([target, *others])
    return None


def mismatch_of(places: Sequence[Target]) -> Diagnosis:
    """The verdict on ranks that wait at these places."""
    at = [
        f"{name_ranks(one.waiting)} {plural('is', one.waiting)} at {place_name(one.name)}" for one in places
    ]
    ranks = tuple(sorted({rank for one in places for rank in one.waiting}))
    keys = tuple(one.name for one in places)
    if len(set(map(family, keys))) > 1:
        return OrderMismatch(ranks, keys, ", ".join(at))
    what = place_name(keys[0]).partition(" ")[0]
    return StalePrefix(ranks, keys, f"different uses of one {what} meet: {', '.join(at)}")


def known_circle(case: Case) -> Diagnosis | None:
    """Rule 5."""
    return deadlock(case, case.circle(guess=False))


def guessed_circle(case: Case) -> Diagnosis | None:
    """Rule 7."""
    return deadlock(case, case.circle(guess=True))


def deadlock(case: Case, circle: Sequence[Wait]) -> Deadlock | None:
    """The verdict on a circle of waits; `None` for an empty one."""
    if not circle:
        return None
    ranks = tuple(sorted({wait.rank for wait in circle}))
    keys = tuple(dict.fromkeys(place_of(key) for wait in circle for key in case.stuck[wait]))
    shown = ", ".join(f"rank {wait.rank} for {key_names(case.stuck[wait])}" for wait in circle[:_SHOWN])
    more = f", and {len(circle) - _SHOWN} more" if len(circle) > _SHOWN else ""
    who = f"{name_ranks(ranks)} wait" if len(ranks) > 1 else f"threads of {name_ranks(ranks)} wait"
    return Deadlock(ranks, keys, f"{who} for each other: {shown}{more}")


def nobody_left(case: Case) -> Diagnosis | None:
    """Rule 6."""
    targets = [target for target in case.targets if not target.chosen]
    gone = case.ranks(case.gone)
    if not targets or not gone:
        return None
    resting, ended = [rank for rank in gone if rank.resting], [rank for rank in gone if not rank.resting]
    what = _end_of(targets)
    cause = f"{ends_text(ended)} and nobody is left to {what}"
    if resting:
        phase = resting[0].resting
        wait = f"{ends_text(resting)} and {plural('waits', resting)} for the others to finish their {phase}"
        also = f"; {ends_text(ended)}" if ended else ""
        cause = f"{wait} (tests run in lockstep), and nobody else can {what}{also}"
    ranks = tuple(sorted({rank for target in targets for rank in target.waiting}))
    return DoomedWait(ranks, tuple(target.key for target in targets), cause)


def timeout(case: Case) -> Diagnosis:
    """Rule 8."""
    first = min(case.graph.doomed, key=lambda wait: wait.deadline)
    ranks = tuple(sorted({wait.rank for wait in case.stuck}))
    did = "wrote" if _verb(case.targets) == "write" else "releases"
    left = f"the first timeout is {max(0.0, first.deadline - case.graph.last):.3g} s away"
    what = _listed(case.targets) + _came(case)
    cause = f"{name_ranks(ranks)} {plural('waits', ranks)} for {what}, which nobody {did}; {left}"
    return HangUntilTimeout(ranks, tuple(place_of(target.key) for target in case.targets), cause)


RULES = (accident, early_deletion, absence, mismatch, known_circle, nobody_left, guessed_circle, timeout)


# Waits outside of the store.


def diagnose_outside(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on ranks that run, by what the kernel says (`RankStood`); `None` where it says nothing."""
    kinds: dict[str, list[Rank]] = {}
    for rank in graph.ranks:
        if rank.runs and rank.stood is not None:
            asleep = rank.stood.state == "blocked" and sleeps(rank.stood.channel)
            kinds.setdefault("sleeping" if asleep else rank.stood.state, []).append(rank)
    if not kinds:
        return None
    verdict, ranks, cause = judge_outside(kinds, [rank for rank in graph.ranks if rank.gone])
    return verdict(_numbers(ranks), (), cause, exact=False, snapshot=take_snapshot(graph))


def judge_outside(
    kinds: Mapping[str, list[Rank]], gone: Sequence[Rank]
) -> tuple[type[Diagnosis], Sequence[Rank], str]:
    """The verdict, its ranks and the cause, for ranks that run (by kind), and those that are gone."""
    accidents, blocked = [rank for rank in gone if rank.is_accident], kinds.get("blocked", [])
    idle = "and did nothing in the store"
    verdict: type[Diagnosis]
    for kind, verdict in (("stopped", Stopped), ("spinning", Spinning), ("sleeping", BlockedOutside)):
        ranks = kinds.get(kind)
        if ranks and not accidents and not (gone and blocked and kind == "sleeping"):
            also = f"; {ends_text(gone)}" if gone and (blocked or kind == "sleeping") else ""
            return verdict, ranks, f"{stances_text(ranks)}, {idle}{also}"
    if gone:
        ended, running = accidents or gone, sorted(chain(*kinds.values()), key=lambda rank: rank.number)
        cause = f"{ends_text(ended)}, while {stances_text(running)}"
        return Exited if ended[0].died else MissingRank, ended, cause
    known = all(rank.stood is not None and rank.stood.peer for rank in blocked)
    unknown = "" if known else "; nobody is known to be the cause"
    return BlockedOutside, blocked, f"{stances_text(blocked)}, {idle}{unknown}"


def stances_text(ranks: Sequence[Rank]) -> str:
    """States by the kernel, equal ones together: `ranks 0-1 are blocked in do_poll, rank 2 computes`."""
    alike: dict[str, list[int]] = {}
    for rank in ranks:
        alike.setdefault(stand_text(rank), []).append(rank.number)
    return ", ".join(f"{name_ranks(numbers)} {plural(text, numbers)}" for text, numbers in alike.items())


# Words.


def _before(target: Target, rank: Rank) -> str:
    """The missing deed of a rank that is gone, as the end of a sentence."""
    if target.barrier is not None and target.barrier.releaser == rank.number:
        return f"between joining {joined_name(target.name)} and releasing the others"
    if target.joined and target.absent & rank.bit:
        return f"before joining {joined_name(target.name)}"
    if target.chosen and target.barrier is None:
        return f"before writing {key_name(target.key)}"
    return f"and nobody is left to {target.end} {target.text}"


def _end_of(targets: list[Target]) -> str:
    """The end of the waits for these, as a verb and names: `write "a", "b"`."""
    return f"{_verb(targets)} {_listed(targets)}"


def _verb(targets: list[Target]) -> str:
    return "release" if all(target.end == "release" for target in targets) else "write"


def _listed(targets: list[Target]) -> str:
    more = f" and {len(targets) - _SHOWN} more" if len(targets) > _SHOWN else ""
    return ", ".join(dict.fromkeys(target.text for target in targets[:_SHOWN])) + more


def _came(case: Case) -> str:
    """How many of the keys came, where all waits are for the same."""
    asked = {(wait.event.keys, wait.missing) for wait in case.graph.doomed}
    keys, missing = next(iter(asked))
    if len(asked) > 1 or len(keys) == len(missing):
        return ""
    return f" ({len(keys) - len(missing)} of {len(keys)} expected came)"


def _numbers(ranks: Iterable[Rank]) -> tuple[int, ...]:
    return tuple(sorted(rank.number for rank in ranks))
