"""Which verdict a wait graph deserves.

*Theory.*  Doomed waits have one root: follow what blocks a wait, and then what blocks that, until it is no
wait any more, or a circle.  Several verdicts may fit; the one nearest to the root wins, in this order:

1. A rank failed (`MissingRank` where others wait for it to join, `DoomedWait` for a key) or its process ended
   without a report (`Exited`).  The first accident in time explains the others; of what lacks that rank, the
   one where most wait is named.
2. `DoomedWait` for a key that was there and was deleted, though nobody had read it: a lost wake-up.
3. A rank ended its phase in peace, absent from a barrier or a collective: `CountMismatch` if it had called
   some, but fewer than those who wait, else `MissingRank`.  Likewise the one writer of a key: `DoomedWait`.
4. Ranks at different barriers or collectives, absent from each other's: `OrderMismatch`; `StalePrefix` where
   these are two uses of one name.
5. `Deadlock`: a circle of waits, each for what a rank of the circle alone can bring.
6. `DoomedWait`: a rank that has ended in peace could have written a key.  One that passed its setup or call
   may still write it in a later phase, but waits until all have ended this one.
7. `Deadlock`: a circle of waits for what anybody may write.
8. `HangUntilTimeout`: all wait for the same; nothing but the timeout will happen, and nobody is to blame.

So who has ended leads, whoever may wait for each other besides, unless these are known to do.

A barrier that is called more often than it counts does not hang: it lets its callers pass too early.  So
`StalePrefix` is also a finding of its own (`find_stale`), and a note on the others.

A verdict is exact if whoever might have ended its waits is known to be unable to: no connection that
belongs to no rank, no rank with threads that may write behind the back of the one that waits.

Waits for what the store does not see are judged in `_outside`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pytest_elastic.hang._case import Case, Target
from pytest_elastic.hang._diagnosis import (
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
from pytest_elastic.hang._nodes import Rank, Wait
from pytest_elastic.hang._picture import draw
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.hang._wording import (
    barrier_name,
    collective_of,
    end_text,
    ends_text,
    family,
    joined_name,
    key_name,
    key_names,
    place_name,
    use_of,
)
from pytest_elastic.store import LAST_MEMBER
from pytest_elastic.wording import name_ranks, plural

_SHOWN = 8  # Waits of a circle, or keys, that the sentence names.


def diagnose(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on the doomed waits; `None` if there are none."""
    if not graph.doomed:
        return None
    case = Case(graph)
    rules = (_accident, _deleted, _absent, _order, _known_circle, _nobody_left, _guessed_circle)
    found = next((one for rule in rules if (one := rule(case)) is not None), None) or _timeout(case)
    remaining = max(0.0, min(wait.deadline for wait in graph.doomed) - graph.last)
    stale = find_stale(graph)
    picture = draw(graph, found.keys, "" if stale is None else stale.cause)
    return replace(found, exact=case.exact(), remaining=remaining, picture=picture)


def find_stale(graph: WaitGraph) -> StalePrefix | None:
    """The first call of a barrier that synchronised nothing, whether or not anybody hangs."""
    if not graph.stale:
        return None
    first = graph.stale[0]
    again = {call.rank for call in graph.stale if call.prefix == first.prefix and call.rank is not None}
    what = f"barrier {barrier_name(first.prefix)} again (call {first.count} of {first.world_size})"
    cause = f"{name_ranks(again)} called {what}: a prefix synchronises only once"
    return StalePrefix(_sorted(again), (first.prefix,), cause)


# The rules, in their order.


def _accident(case: Case) -> Diagnosis | None:
    found = [
        (_when(rank), -len(target.waiting), number)
        for number, target in enumerate(case.targets)
        for rank in case.ranks(target.writers)
        if rank.is_accident
    ]
    if not found:
        return None
    target = case.targets[min(found)[-1]]
    ranks = sorted((rank for rank in case.ranks(target.writers) if rank.is_accident), key=_when)
    first = ranks[0]
    why = _why(first)
    alike = _numbers(rank for rank in ranks if (rank.died, _why(rank)) == (first.died, why))
    ended = f": {why}" if why else f" {plural(end_text(first), alike)}"
    cause = f"{name_ranks(alike)}{ended} {_before(target, first)}"
    if first.died:
        return Exited(alike, (_place(target.key),), cause)
    place = first.ended.place if first.ended is not None else ""
    if target.joined and target.absent & first.bit:
        return MissingRank(alike, (target.name,), cause, place)
    return DoomedWait(target.waiting, (target.key,), cause, place)


def _deleted(case: Case) -> Diagnosis | None:
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


def _absent(case: Case) -> Diagnosis | None:
    for target in case.targets:
        gone = [rank for rank in case.ranks(target.writers) if rank.gone] if target.chosen else []
        if gone and not target.joined:
            cause = f"{ends_text(gone)} without writing {key_name(target.key)}"
            return DoomedWait(target.waiting, (target.key,), cause)
        if gone:
            cause = f"{ends_text(gone)} without joining {joined_name(target.name)}"
            return _fewer(case, target, gone) or MissingRank(_numbers(gone), (target.name,), cause)
    return None


def _fewer(case: Case, target: Target, gone: list[Rank]) -> Diagnosis | None:
    """Some of them have joined before, but not as often as those who wait."""
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


def _order(case: Case) -> Diagnosis | None:
    joined = [target for target in case.targets if target.joined]
    for target in joined:
        absent = {rank.number for rank in case.graph.ranks if target.absent & rank.bit}
        others = [one for one in joined if one is not target and absent.intersection(one.waiting)]
        if others:
            return _mismatch([target, *others])
    return None


def _mismatch(places: list[Target]) -> Diagnosis:
    at = [
        f"{name_ranks(one.waiting)} {plural('is', one.waiting)} at {place_name(one.name)}" for one in places
    ]
    ranks, keys = _sorted(rank for one in places for rank in one.waiting), tuple(one.name for one in places)
    if len(set(map(family, keys))) > 1:
        return OrderMismatch(ranks, keys, ", ".join(at))
    what = place_name(keys[0]).partition(" ")[0]
    return StalePrefix(ranks, keys, f"different uses of one {what} meet: {', '.join(at)}")


def _known_circle(case: Case) -> Diagnosis | None:
    return _circle(case, guess=False)


def _guessed_circle(case: Case) -> Diagnosis | None:
    return _circle(case, guess=True)


def _circle(case: Case, guess: bool) -> Diagnosis | None:
    ahead = _blocking(case, guess)
    behind: dict[Wait, list[Wait]] = {wait: [] for wait in ahead}
    for wait, others in ahead.items():
        for other in others:
            behind[other].append(wait)
    for wait in ahead:
        circle = _reachable(ahead, wait) & _reachable(behind, wait)
        if wait in circle:
            return _deadlock(case, sorted(circle, key=lambda one: (one.rank, one.client)))
    return None


def _deadlock(case: Case, circle: list[Wait]) -> Deadlock:
    ranks = _sorted(wait.rank for wait in circle)
    keys = tuple(dict.fromkeys(_place(key) for wait in circle for key in case.stuck[wait]))
    shown = ", ".join(f"rank {wait.rank} for {key_names(case.stuck[wait])}" for wait in circle[:_SHOWN])
    more = f", and {len(circle) - _SHOWN} more" if len(circle) > _SHOWN else ""
    who = f"{name_ranks(ranks)} wait" if len(ranks) > 1 else f"threads of {name_ranks(ranks)} wait"
    return Deadlock(ranks, keys, f"{who} for each other: {shown}{more}")


def _blocking(case: Case, guess: bool) -> dict[Wait, list[Wait]]:
    """For each wait those whose ranks would have to go on for it to end: known, or guessed besides.

    Who waits for a key itself is not guessed to be the one who is to write it.
    """
    lacks = {wait: set(keys) for wait, keys in case.stuck.items()}
    ahead: dict[Wait, list[Wait]] = {}
    for wait, keys in case.stuck.items():
        known, anybodys = 0, set()
        for key in keys:
            if case.chosen(wait, key):
                known |= case.graph.writers(wait, key)
            elif guess:
                anybodys.add(key)
        ahead[wait] = [
            one
            for one, its in lacks.items()
            if one is not wait and (known >> one.rank & 1 or not anybodys <= its)
        ]
    return ahead


def _reachable(edges: dict[Wait, list[Wait]], start: Wait) -> set[Wait]:
    seen: set[Wait] = set()
    ahead = list(edges[start])
    while ahead:
        wait = ahead.pop()
        if wait not in seen:
            seen.add(wait)
            ahead += edges[wait]
    return seen


def _nobody_left(case: Case) -> Diagnosis | None:
    targets = [target for target in case.targets if not target.chosen]
    gone = [rank for rank in case.graph.ranks if rank.gone]
    if not targets or not gone:
        return None
    resting, ended = [rank for rank in gone if rank.resting], [rank for rank in gone if not rank.resting]
    what = f"{_write(targets)} {_names(targets)}"
    cause = f"{ends_text(ended)} and nobody is left to {what}"
    if resting:
        phase = resting[0].resting
        wait = f"{ends_text(resting)} and {plural('waits', resting)} for the others to finish their {phase}"
        also = f"; {ends_text(ended)}" if ended else ""
        cause = f"{wait} (tests run in lockstep), and nobody else can {what}{also}"
    ranks = _sorted(rank for target in targets for rank in target.waiting)
    return DoomedWait(ranks, tuple(target.key for target in targets), cause)


def _timeout(case: Case) -> Diagnosis:
    first = min(case.graph.doomed, key=lambda wait: wait.deadline)
    ranks = _sorted(wait.rank for wait in case.stuck)
    did = "wrote" if _write(case.targets) == "write" else "releases"
    left = f"the first timeout is {max(0.0, first.deadline - case.graph.last):.3g} s away"
    what = _names(case.targets) + _came(case)
    cause = f"{name_ranks(ranks)} {plural('waits', ranks)} for {what}, which nobody {did}; {left}"
    return HangUntilTimeout(ranks, tuple(_place(target.key) for target in case.targets), cause)


# Words and small questions.


def _why(rank: Rank) -> str:
    """Why we ended it, if we did."""
    return "" if rank.exited is None else rank.exited.text


def _when(rank: Rank) -> float:
    ends = [event.at for event in (rank.ended, rank.exited) if event is not None]
    return min(ends)


def _before(target: Target, rank: Rank) -> str:
    """What the rank had not done when it went."""
    if target.barrier is not None and target.barrier.releaser == rank.number:
        return f"between joining {joined_name(target.name)} and releasing the others"
    if target.joined and target.absent & rank.bit:
        return f"before joining {joined_name(target.name)}"
    if target.chosen and target.barrier is None:
        return f"before writing {key_name(target.key)}"
    return f"and nobody is left to {_write([target])} {_names([target])}"


def _write(targets: list[Target]) -> str:
    """What would end the waits for these."""
    return "release" if all(target.key.endswith(LAST_MEMBER) for target in targets) else "write"


def _names(targets: list[Target]) -> str:
    """Of the first ones; where ranks of another number are waited for than there are, how many came."""
    found = []
    for target in targets[:_SHOWN]:
        barrier = target.barrier
        expected = barrier.world_size if barrier is not None and not barrier.declared else 0
        came = f" ({barrier.count} of {expected} expected came)" if barrier is not None and expected else ""
        found.append(f"{key_name(target.key)}{came}")
    more = f" and {len(targets) - _SHOWN} more" if len(targets) > _SHOWN else ""
    return ", ".join(dict.fromkeys(found)) + more


def _came(case: Case) -> str:
    """How many keys are there of those that all ask for."""
    asked = {(wait.event.keys, wait.missing) for wait in case.graph.doomed}
    keys, missing = next(iter(asked))
    if len(asked) > 1 or len(keys) == len(missing):
        return ""
    return f" ({len(keys) - len(missing)} of {len(keys)} expected came)"


def _place(key: str) -> str:
    """What is joined by its prefix; other keys as they are."""
    return collective_of(key) or key.removesuffix(LAST_MEMBER)


def _numbers(ranks: Iterable[Rank]) -> tuple[int, ...]:
    return _sorted(rank.number for rank in ranks)


def _sorted(ranks: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(ranks)))
