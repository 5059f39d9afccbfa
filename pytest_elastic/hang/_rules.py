"""Which verdict a wait graph deserves.

*Theory.*  Doomed waits have one root: follow what blocks a wait, and then what blocks that, until it is no
wait any more, or a circle.  Several verdicts may fit; the one nearest to the root wins, in this order:

1. A rank failed (`MissingRank` at a barrier, `DoomedWait` for a key) or its process ended without a
   report (`Exited`).  The first accident in time explains the others; of the barriers and keys that lack
   that rank, the one where most wait is named.
2. `DoomedWait` for a key that was there and was deleted: a lost wake-up.
3. A rank ended its phase in peace, absent from a barrier: `CountMismatch` if it had called barriers, but
   fewer than those who wait, else `MissingRank`.  Likewise the one writer of a key: `DoomedWait`.
4. Ranks at different barriers, absent from each other's: `OrderMismatch`; `StalePrefix` where these are
   two uses of one name.
5. `Deadlock`: a circle of waits.
6. `DoomedWait`: all who could have written a key ended in peace.
7. `HangUntilTimeout`: all wait for the same; nothing but the timeout will happen, and nobody is to blame.

A barrier that is called more often than it counts does not hang: it lets its callers pass too early.  So
`StalePrefix` is also a finding of its own (`find_stale`), and a note on the others.

A verdict is exact if whoever might have ended its waits is known to be unable to: no connection that
belongs to no rank, no rank with threads that may write behind the back of the one that waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
from pytest_elastic.hang._nodes import LAST_MEMBER, Barrier, Rank, Wait, ranks_of
from pytest_elastic.hang._picture import draw
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.hang._wording import (
    barrier_family,
    barrier_name,
    exit_text,
    key_name,
    key_names,
    names,
    stand_text,
)

_STANDING: dict[str, type[Diagnosis]] = {
    "stopped": Stopped,
    "spinning": Spinning,
    "blocked": BlockedOutside,
}
_SHOWN = 8  # Waits of a circle that the sentence names.


def diagnose(graph: WaitGraph) -> Diagnosis | None:
    """The verdict on the doomed waits; `None` if there are none."""
    if not graph.doomed:
        return None
    case = _Case(graph)
    rules = (_accident, _deleted, _absent, _order, _circle, _nobody_left)
    found = next((one for rule in rules if (one := rule(case)) is not None), None) or _timeout(case)
    remaining = max(0.0, min(wait.deadline for wait in graph.doomed) - graph.last)
    stale = find_stale(graph)
    picture = draw(graph, found.keys, "" if stale is None else stale.cause)
    return replace(found, exact=case.exact(), remaining=remaining, picture=picture)


def diagnose_outside(graph: WaitGraph) -> list[Diagnosis]:
    """What the kernel says (`RankStood`) of ranks that are not blocked in the store; never exact."""
    found: list[Diagnosis] = []
    for state, verdict in _STANDING.items():
        ranks = [
            rank for rank in graph.ranks if rank.runs and rank.stood is not None and rank.stood.state == state
        ]
        for text in dict.fromkeys(stand_text(rank) for rank in ranks):
            alike = tuple(rank.number for rank in ranks if stand_text(rank) == text)
            cause = f"{names(alike)} {_plural(text, alike)}, and did nothing in the store"
            found.append(verdict(alike, (), cause, exact=False, picture=draw(graph, ())))
    return found


def find_stale(graph: WaitGraph) -> StalePrefix | None:
    """The first call of a barrier that synchronised nothing, whether or not anybody hangs."""
    if not graph.stale:
        return None
    first = graph.stale[0]
    again = {call.rank for call in graph.stale if call.prefix == first.prefix and call.rank is not None}
    what = f"barrier {barrier_name(first.prefix)} again (call {first.count} of {first.world_size})"
    cause = f"{names(again)} called {what}: a prefix synchronises only once"
    return StalePrefix(_sorted(again), (first.prefix,), cause)


class _Case:
    """The doomed waits, and what blocks each.

    Attributes:
        stuck: for each wait the keys that cannot come.
        keys: each of these keys once, with the first wait for it.
        waiting: the ranks that wait for it, ascending.
    """

    def __init__(self, graph: WaitGraph) -> None:
        self.graph = graph
        self.stuck = {wait: graph.stuck(wait) for wait in graph.doomed}
        self.keys: dict[str, Wait] = {}
        ranks: dict[str, set[int]] = {}
        for wait, keys in self.stuck.items():
            for key in keys:
                self.keys.setdefault(key, wait)
                ranks.setdefault(key, set()).add(wait.rank)
        self.waiting = {key: _sorted(there) for key, there in ranks.items()}

    def writers(self, key: str) -> list[Rank]:
        return [self.graph.ranks[number] for number in ranks_of(self.graph.writers(self.keys[key], key))]

    def chosen(self, wait: Wait, key: str) -> bool:
        """Whether the key's writers are known, rather than just everybody."""
        barrier = self.graph.barrier(key)
        known = barrier is not None and (barrier.declared or barrier.releaser is not None)
        return key in wait.writers or known

    def exact(self) -> bool:
        if self.graph.outsiders:
            return False
        writers = 0
        for wait, keys in self.stuck.items():
            for key in keys:
                writers |= self.graph.writers(wait, key)
        return not any(_has_more_threads(self.graph.ranks[number]) for number in ranks_of(writers))


def _has_more_threads(rank: Rank) -> bool:
    if rank.exited is not None:
        return False
    return rank.extra_threads > 0 or (rank.ended is not None and len(rank.clients) > 1)


# The rules, in their order.


def _accident(case: _Case) -> Diagnosis | None:
    found = [
        (_when(rank), -len(case.waiting[key]), number, key)
        for number, key in enumerate(case.keys)
        for rank in case.writers(key)
        if _is_accident(rank)
    ]
    if not found:
        return None
    key = min(found)[-1]
    ranks = sorted((rank for rank in case.writers(key) if _is_accident(rank)), key=_when)
    first = ranks[0]
    alike = _sorted(rank.number for rank in ranks if _died(rank) == _died(first))
    barrier = case.graph.barrier(key)
    cause = f"{names(alike)} {_end_text(first)} {_before(case, key, first)}"
    if _died(first):
        return Exited(alike, (_plain(key),), cause)
    place = first.ended.place if first.ended is not None else ""
    if barrier is not None and not barrier.joined & first.bit:
        return MissingRank(alike, (_plain(key),), cause, place)
    return DoomedWait(case.waiting[key], (key,), cause, place)


def _deleted(case: _Case) -> Diagnosis | None:
    for key in case.keys:
        if key in case.graph.deleted:
            waiting, by = case.waiting[key], case.graph.deleted[key]
            who = "somebody outside of the group" if by is None else names([by])
            cause = f"{key_name(key)} was there, but {who} deleted it before {names(waiting)} waited for it"
            return DoomedWait(waiting, (key,), cause)
    return None


def _absent(case: _Case) -> Diagnosis | None:
    for key, wait in case.keys.items():
        gone = [rank for rank in case.writers(key) if rank.gone] if case.chosen(wait, key) else []
        if not gone:
            continue
        ranks, barrier = tuple(rank.number for rank in gone), case.graph.barrier(key)
        text = f"{names(ranks)} {_end_text(gone[0])}"
        if barrier is None or key in wait.writers:
            cause = f"{text} without writing {key_name(key)}"
            return DoomedWait(case.waiting[key], (key,), cause)
        waiting = case.waiting[key]
        most = min(case.graph.ranks[number].barriers for number in waiting)
        fewer = [rank for rank in gone if 0 < rank.barriers < most]
        if fewer:
            ranks = tuple(rank.number for rank in fewer)
            fewest = fewer[0].barriers
            calls = f"{fewest} barrier{'' if fewest == 1 else 's'}"
            others = f"{names(waiting)} {_be(waiting)} at number {most}, {barrier_name(barrier.prefix)}"
            cause = f"{names(ranks)} {_end_text(fewer[0])} after {calls}; {others}"
            return CountMismatch(ranks, (barrier.prefix,), cause)
        cause = f"{text} without joining {barrier_name(barrier.prefix)}"
        return MissingRank(ranks, (barrier.prefix,), cause)
    return None


def _order(case: _Case) -> Diagnosis | None:
    blocked = _blocked_barriers(case)
    at = {barrier.prefix: case.waiting[barrier.prefix + LAST_MEMBER] for barrier in blocked}
    for barrier in blocked:
        absent = ranks_of(~barrier.joined & (1 << len(case.graph.ranks)) - 1)
        others = [p for p, ranks in at.items() if p != barrier.prefix and set(ranks) & set(absent)]
        if others:
            places = [barrier.prefix, *others]
            where = ", ".join(f"{names(at[p])} {_be(at[p])} at barrier {barrier_name(p)}" for p in places)
            ranks = _sorted(rank for p in places for rank in at[p])
            if len({barrier_family(p) for p in places}) == 1:
                return StalePrefix(ranks, tuple(places), f"different uses of one barrier meet: {where}")
            return OrderMismatch(ranks, tuple(places), where)
    return None


def _circle(case: _Case) -> Diagnosis | None:
    ahead = {wait: _blocking(case, wait) for wait in case.stuck}
    behind: dict[Wait, list[Wait]] = {wait: [] for wait in ahead}
    for wait, others in ahead.items():
        for other in others:
            behind[other].append(wait)
    for wait in ahead:
        circle = _reachable(ahead, wait) & _reachable(behind, wait)
        if wait in circle:
            return _deadlock(case, sorted(circle, key=lambda one: (one.rank, one.client)))
    return None


def _deadlock(case: _Case, circle: list[Wait]) -> Deadlock:
    ranks = _sorted(wait.rank for wait in circle)
    keys = tuple(dict.fromkeys(_plain(key) for wait in circle for key in case.stuck[wait]))
    shown = ", ".join(f"rank {wait.rank} for {key_names(case.stuck[wait])}" for wait in circle[:_SHOWN])
    more = f", and {len(circle) - _SHOWN} more" if len(circle) > _SHOWN else ""
    who = f"{names(ranks)} wait" if len(ranks) > 1 else f"threads of {names(ranks)} wait"
    return Deadlock(ranks, keys, f"{who} for each other: {shown}{more}")


def _blocking(case: _Case, wait: Wait) -> list[Wait]:
    """The waits whose ranks would have to go on for this one to end."""
    chosen = others = 0
    for key in case.stuck[wait]:
        if case.chosen(wait, key):
            chosen |= case.graph.writers(wait, key)
        else:
            others |= case.graph.writers(wait, key)
    return [
        one
        for one, keys in case.stuck.items()
        if one is not wait
        and (chosen >> one.rank & 1 or (others >> one.rank & 1 and keys != case.stuck[wait]))
    ]


def _reachable(edges: dict[Wait, list[Wait]], start: Wait) -> set[Wait]:
    seen: set[Wait] = set()
    ahead = list(edges[start])
    while ahead:
        wait = ahead.pop()
        if wait not in seen:
            seen.add(wait)
            ahead += edges[wait]
    return seen


def _nobody_left(case: _Case) -> Diagnosis | None:
    for key in case.keys:
        gone = tuple(rank.number for rank in case.writers(key) if rank.gone)
        if gone:
            text = f"{names(gone)} {_end_text(case.graph.ranks[gone[0]])}"
            return DoomedWait(case.waiting[key], (key,), f"nobody is left to {_write(key)}: {text}")
    return None


def _timeout(case: _Case) -> Diagnosis:
    first = min(case.graph.doomed, key=lambda wait: wait.deadline)
    keys = tuple(case.keys)
    ranks = _sorted(wait.rank for wait in case.stuck)
    verb = "wait" if len(ranks) > 1 else "waits"
    did = "releases" if all(key.endswith(LAST_MEMBER) for key in keys) else "wrote"
    left = f"the first timeout is {max(0.0, first.deadline - case.graph.last):.3g} s away"
    cause = f"{names(ranks)} {verb} for {key_names(keys)}, which nobody {did}; {left}"
    return HangUntilTimeout(ranks, tuple(map(_plain, keys)), cause)


# Words and small questions.


def _blocked_barriers(case: _Case) -> list[Barrier]:
    return [one for one in case.graph.barriers() if one.prefix + LAST_MEMBER in case.keys]


def _died(rank: Rank) -> bool:
    """Whether its process ended without a report that explains it."""
    return rank.exited is not None and (rank.ended is None or rank.ended.outcome == "passed")


def _is_accident(rank: Rank) -> bool:
    if rank.ended is not None and rank.ended.outcome in ("failed", "exit"):
        return True
    if rank.exited is None:
        return False
    return rank.exited.exitcode != 0 or (rank.phased and rank.ended is None)


def _when(rank: Rank) -> float:
    ends = [event.at for event in (rank.ended, rank.exited) if event is not None]
    return min(ends)


def _end_text(rank: Rank) -> str:
    if rank.exited is not None and _died(rank) and (rank.ended is None or rank.exited.exitcode):
        return exit_text(rank.exited.exitcode)
    assert rank.ended is not None
    return {"exit": "asked to exit"}.get(rank.ended.outcome, rank.ended.outcome)


def _before(case: _Case, key: str, rank: Rank) -> str:
    """What the rank had not done when it went."""
    barrier = case.graph.barrier(key)
    if barrier is not None and barrier.releaser == rank.number:
        return f"between joining {barrier_name(barrier.prefix)} and releasing the others"
    if barrier is not None and not barrier.joined & rank.bit:
        return f"before joining {barrier_name(barrier.prefix)}"
    if key in case.keys[key].writers:
        return f"before writing {key_name(key)}"
    return f"and nobody is left to {_write(key)}"


def _write(key: str) -> str:
    return f"{'release' if key.endswith(LAST_MEMBER) else 'write'} {key_name(key)}"


def _plain(key: str) -> str:
    """A barrier's prefix for its last key; other keys as they are."""
    return key.removesuffix(LAST_MEMBER)


def _plural(text: str, ranks: tuple[int, ...]) -> str:
    if text == "computes":
        return text if len(ranks) == 1 else "compute"
    if text == "stopped":
        return f"{_be(ranks)} stopped by a signal"
    return text if len(ranks) == 1 else text.replace("is ", "are ", 1)


def _be(ranks: tuple[int, ...]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _sorted(ranks: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(ranks)))
