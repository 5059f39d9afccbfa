"""The rules by which a hang gets its verdict.

*Theory: waits in the store.*  Doomed waits have one root: follow what blocks a wait, and then what blocks
that, until it is no wait any more, or a circle.  Several verdicts may fit; the one nearest to the root wins,
in this order:

0. Ranks called different collectives as the same one of their group: `CollectiveMismatch`, known at the
   second call, whether or not anybody waits by then.
1. A rank failed (`MissingRank` where others wait for it to join, `DoomedWait` for a key) or its process ended
   without a report (`Exited`).  The first accident in time explains the others; of the
   targets that lack that rank, the one with most waits is named.
2. `DoomedWait` for a key that was there and was deleted, though nobody had read it: a lost wake-up.
3. A rank ended its phase in peace, absent from a barrier or a collective: `CountMismatch` if it had called
   some, but fewer than those who wait, else `MissingRank`.  Likewise the one writer of a key: `DoomedWait`.
   A message of a process group is a collective of two.
4. Ranks at different barriers or collectives, absent from each other's: `OrderMismatch`; `StalePrefix` where
   these are two uses of one name.  Messages make circles (5).
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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pytest_elastic.hang._case import Case, Target
from pytest_elastic.hang._diagnosis import (
    CollectiveMismatch,
    CountMismatch,
    Deadlock,
    Diagnosis,
    DoomedWait,
    Exited,
    HangUntilTimeout,
    MissingRank,
    OrderMismatch,
    StalePrefix,
)
from pytest_elastic.hang._group_calls import (
    GroupCall,
    call_text_of,
    count_text,
    group_text,
    ordinal,
    waiting_places,
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
    told_of,
    use_of,
)
from pytest_elastic.hang._nodes import Rank, Wait
from pytest_elastic.hang._snapshot import take_snapshot
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.wording import name_ranks, plural

_SHOWN = 8  # Waits of a circle, or keys, that the sentence names.


def diagnose(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on the doomed waits, or on calls that mismatch; `None` if there are neither."""
    mismatch = graph.calls.mismatch
    if mismatch is not None:
        return mismatched(graph, mismatch)
    if not graph.doomed:
        return None
    case = Case(graph)
    found = next(filter(None, (rule(case) for rule in RULES)))
    remaining = max(0.0, min(wait.deadline for wait in graph.doomed) - graph.last)
    snapshot = take_snapshot(graph, found.keys, note_of(graph, case))
    return replace(found, exact=case.exact(), remaining=remaining, snapshot=snapshot)


def mismatched(graph: WaitGraph, call: GroupCall) -> CollectiveMismatch:
    """Rule 0."""
    odd = call.odd()
    snapshot = take_snapshot(graph, (call.name,), divergence_text(graph, call.group))
    place = call.calls[odd[0]].place
    return CollectiveMismatch(odd, (call.name,), call.mismatch_text(), place, snapshot=snapshot)


def note_of(graph: WaitGraph, case: Case) -> str:
    """What else may have led to a hang: a barrier that was called too often, or ways that part."""
    stale = find_stale(graph)
    if stale is not None:
        return stale.cause
    groups = dict.fromkeys(target.call.group for target in case.targets if target.call is not None)
    return next(filter(None, (divergence_text(graph, group) for group in groups)), "")


def divergence_text(graph: WaitGraph, group: str) -> str:
    """The first call of a group that ranks made at different lines, in a sentence; `""` if there is none."""
    call = graph.calls.divergences.get(group)
    return "" if call is None else f"{call.title} was the first called from different lines: {call.places()}"


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
    alike = numbers_of(rank for rank in ranks if (rank.died, rank.reason) == (first.died, first.reason))
    ended = f": {first.reason}" if first.reason else f" {plural(end_text(first), alike)}"
    cause = f"{name_ranks(alike)}{ended} {_before(target, first)}"
    if first.died:
        return Exited(alike, (target.name if target.call is not None else place_of(target.key),), cause)
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
    """Rule 3.  Of several calls that nobody can end the first one is told of."""
    for target in sorted(case.targets, key=lambda one: -1 if one.call is None else one.call.number):
        if target.call is not None:
            found = absence_in_group(case, target, target.call)
            if found is not None:
                return found
            continue
        gone = case.ranks(target.writers & case.gone) if target.chosen else []
        if gone and not target.joined:
            cause = f"{ends_text(gone)} without writing {key_name(target.key)}"
            return DoomedWait(target.waiting, (target.key,), cause)
        if gone:
            cause = f"{ends_text(gone)} without joining {joined_name(target.name)}"
            return count_mismatch(case, target, gone) or MissingRank(numbers_of(gone), (target.name,), cause)
    return None


def absence_in_group(case: Case, target: Target, call: GroupCall) -> Diagnosis | None:
    """Rule 3, for a call of a process group."""
    gone = case.ranks(target.writers & case.gone)
    if not target.chosen and any(
        rank.number not in target.waiting for rank in case.ranks(target.writers & ~case.gone)
    ):
        return None
    return absent_verdict(case.graph, call, target.waiting, gone, ends_text) if gone else None


def absent_verdict(
    graph: WaitGraph,
    call: GroupCall,
    waiting: Sequence[int],
    absent: Sequence[Rank],
    said: Callable[[Sequence[Rank]], str],
    over: str = "",
) -> Diagnosis:
    """The verdict on ranks that are absent from a call where these wait.

    Args:
        said: what ranks do instead, in words.
        over: how the waits ended, in words, if they did.
    """
    counts = {rank: graph.calls.count(call.group, rank.number) for rank in absent}
    if call.number >= 0:  # Who came too late has called it.
        counts = {rank: min(count, call.number) for rank, count in counts.items()}
    where = f"{call.title}{waiting_places(call, waiting)}"
    most = max(counts.values())
    if not most or call.number < 0:
        others = f"{name_ranks(waiting)} {over or plural('waits', waiting)}"
        cause = f"{said(absent)} without joining {where}, in which {others}"
        return MissingRank(numbers_of(absent), (call.name,), cause)
    parts = []
    for count in sorted(set(counts.values()), reverse=True):
        alike = [rank for rank in absent if counts[rank] == count]
        parts.append(f"{said(alike)} after {count_text(count, call)}{group_text(call.group)}")
    others = f"{name_ranks(waiting)} {over or plural('is', waiting)} in the {ordinal(call.number)}, {where}"
    return CountMismatch(numbers_of(absent), (call.name,), f"{', '.join(parts)}; {others}")


def timed_out(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on ranks that did not come in time to a call of which others failed; `None` for none.

    Of lapses that led to each other the first one counts: that whose absent ranks did not time out.
    """
    failed = {rank.number for rank in graph.ranks if rank.is_accident}
    lapses = {rank: one for rank, one in graph.calls.lapses.items() if rank in failed and one.absent}
    if not lapses:
        return None
    first = [one for one in lapses.values() if not lapses.keys() & set(one.absent)] or [*lapses.values()]
    call, absent, seconds = first[0]
    absent = tuple(rank for rank in absent if not graph.ranks[rank].waits) or absent
    waited = sorted(rank for rank, lapse in lapses.items() if lapse.call is call)

    def tell(rank: Rank) -> str:
        if rank.number in call.calls:
            return "came too late"
        return end_text(rank) if rank.gone else rank.words or "stayed away"

    ranks, over = [graph.ranks[rank] for rank in absent], f"timed out after {seconds:g} s"
    found = absent_verdict(graph, call, waited, ranks, lambda alike: told_of(alike, tell), over)
    snapshot = take_snapshot(graph, found.keys, divergence_text(graph, call.group), (call,))
    return replace(found, timed_out=tuple(waited), snapshot=snapshot)


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
    return CountMismatch(numbers_of(counts), (target.name,), cause)


def mismatch(case: Case) -> Diagnosis | None:
    """Rule 4."""
    joined = [
        one for one in case.targets if one.joined and not (one.call is not None and one.call.is_message)
    ]
    for target in joined:
        others = [one for one in joined if one is not target and target.lacks(one) and one.lacks(target)]
        if others:
            return mismatch_of([target, *others])
    return None


def mismatch_of(places: Sequence[Target]) -> Diagnosis:
    """The verdict on ranks that wait at these places."""
    at = [
        f"{name_ranks(one.waiting)} {plural('is', one.waiting)} {where_text(one)}{address_text(one)}"
        for one in places
    ]
    ranks = tuple(sorted({rank for one in places for rank in one.waiting}))
    keys = tuple(one.name for one in places)
    if len(set(map(family, keys))) > 1:
        return OrderMismatch(ranks, keys, ", ".join(at))
    what = place_name(keys[0]).partition(" ")[0]
    return StalePrefix(ranks, keys, f"different uses of one {what} meet: {', '.join(at)}")


def where_text(target: Target) -> str:
    """Where those are who wait for a target: `at barrier "a"`, `in all_reduce #2 of group world (t.py:3)`."""
    if target.call is None:
        return f"at {place_name(target.name)}"
    return f"in {target.call.title}{waiting_places(target.call, target.waiting)}"


def address_text(target: Target) -> str:
    """By what ranks meet that make a world, which no title tells: ` by file:///tmp/world`; else `""`."""
    _, of_world, address = ("" if target.call is None else target.call.group).partition("init ")
    return f" by {address}" if of_world else ""


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
    keys = tuple(
        dict.fromkeys(
            place_of(key) if wait.call is None else wait.call.name
            for wait in circle
            for key in case.stuck[wait]
        )
    )
    shown = ", ".join(f"rank {wait.rank} {goal_text(case, wait)}" for wait in circle[:_SHOWN])
    more = f", and {len(circle) - _SHOWN} more" if len(circle) > _SHOWN else ""
    who = f"{name_ranks(ranks)} wait" if len(ranks) > 1 else f"threads of {name_ranks(ranks)} wait"
    return Deadlock(ranks, keys, f"{who} for each other: {shown}{more}")


def goal_text(case: Case, wait: Wait) -> str:
    """What a wait is for: `for "a"`, `in send(float32[4], to 1) at t.py:3`."""
    if wait.call is None:
        return f"for {key_names(case.stuck[wait])}"
    return f"in {call_text_of(case.graph.ranks[wait.rank], wait.call)}"


def nobody_left(case: Case) -> Diagnosis | None:
    """Rule 6."""
    targets = [target for target in case.targets if not target.chosen]
    gone = case.ranks(case.gone)
    if not targets or not gone:
        return None
    resting, ended = [rank for rank in gone if rank.resting], [rank for rank in gone if not rank.resting]
    what = f"{_verb(targets)} {_listed(targets)}"
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
    keys = tuple(place_of(one.key) if one.call is None else one.name for one in case.targets)
    return HangUntilTimeout(ranks, keys, cause)


RULES = (accident, early_deletion, absence, mismatch, known_circle, nobody_left, guessed_circle, timeout)


# Words.


def _before(target: Target, rank: Rank) -> str:
    """The missing deed of a rank that is gone, as the end of a sentence."""
    if target.call is not None and (target.chosen or not target.absent & ~rank.bit):
        return f"before joining {target.text}{waiting_places(target.call, target.waiting)}"
    if target.barrier is not None and target.barrier.releaser == rank.number:
        return f"between joining {joined_name(target.name)} and releasing the others"
    if target.joined and target.absent & rank.bit:
        return f"before joining {joined_name(target.name)}"
    if target.chosen and target.barrier is None:
        return f"before writing {key_name(target.key)}"
    return f"and nobody is left to {target.end} {target.text}"


def _verb(targets: list[Target]) -> str:
    ends = {target.end for target in targets}
    return ends.pop() if len(ends) == 1 else "write"


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


def numbers_of(ranks: Iterable[Rank]) -> tuple[int, ...]:
    """The numbers of these ranks, ascending."""
    return tuple(sorted(rank.number for rank in ranks))
