"""Portfolio of randomised schedulers, for spaces too large to search; none of them is best everywhere.

Each serves one execution and draws from the source of random numbers that it is given, so that the same seed
repeats it.  `n` is the number of ranks, `k` of decisions, `d` the *depth* of a defect: the number of pairs of
steps that must come in a certain order for it to show.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pytest_elastic.scheduling import Decision, Scheduler, Step, default_choice
from pytest_elastic.store import OPERATIONS

_STRETCH = 0.5  # Of an execution, at most.


class RandomWalk:
    """Random walk: at every decision, each enabled step with the same probability.

    Interleaves densely: strong for a short window early on, weak where one rank has to starve.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def choose(self, decision: Decision) -> int:
        return self._chance.randrange(len(decision.steps))


class PartialOrderSampling:
    """POS: a random priority for each pending step; steps that race with the one chosen draw again.

    Yuan, Yang, Gu: Partial Order Aware Concurrency Sampling, CAV 2018.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._drawn: dict[tuple[int, bool], tuple[Step, float]] = {}

    def choose(self, decision: Decision) -> int:
        drawn = self._drawn
        best, highest = 0, -1.0
        for index, step in enumerate(decision.steps):
            own = step.rank, step.kind == "expire"
            if own not in drawn or drawn[own][0] != step:
                drawn[own] = step, self._chance.random()
            if drawn[own][1] > highest:
                best, highest = index, drawn[own][1]
        done = decision.steps[best]
        for own, (step, _) in list(drawn.items()):
            if step is done or _share(step, done):
                del drawn[own]
        return best


class PriorityChanges:
    """PCT: ranks have random priorities, the highest runs, and `d - 1` times the running one is put last.

    Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees of
    Finding Bugs, ASPLOS 2010.  One execution finds a defect of depth `d` with a probability of at least
    `1 / (n * k ** (d - 1))`, if there are at most `k` decisions.

    Args:
        depth: `d`, at least 1.
        length: `k`.
    """

    def __init__(self, chance: Random, depth: int, length: int) -> None:
        self._chance = chance
        self._priorities: dict[tuple[int, bool], float] = {}
        changes = min(depth - 1, length)
        self._changes = set(chance.sample(range(length), changes))
        self._decisions = 0
        self._lowest = 0.0

    def choose(self, decision: Decision) -> int:
        order = sorted(range(len(decision.steps)), key=lambda index: -self._priority(decision.steps[index]))
        if len(order) > 1:
            if self._decisions in self._changes:
                self._lowest -= 1
                step = decision.steps[order[0]]
                self._priorities[step.rank, step.kind == "expire"] = self._lowest
                order.append(order.pop(0))
            self._decisions += 1
        return order[0]

    def _priority(self, step: Step) -> float:
        own = step.rank, step.kind == "expire"
        if own not in self._priorities:
            self._priorities[own] = self._chance.random()
        return self._priorities[own]


class Starvation:
    """Starvation: a random set of ranks does nothing for a random stretch if others can; the rest take turns.

    For defects that need one rank to be far behind.  After rr's chaos mode (O'Callahan, 2016).
    """

    def __init__(self, chance: Random, ranks: int, length: int) -> None:
        self._chance, self._ranks = chance, ranks
        self._most = max(1, round(length * _STRETCH))
        self._left = 0
        self._starved: set[int] = set()

    def choose(self, decision: Decision) -> int:
        if not self._left:
            self._left = self._chance.randint(1, self._most)
            victims = self._chance.randint(1, max(1, self._ranks - 1))
            self._starved = set(self._chance.sample(range(self._ranks), victims))
        self._left -= 1
        steps = decision.steps
        fed = [index for index, step in enumerate(steps) if step.rank not in self._starved]
        if not fed:
            return default_choice(steps, decision.last)
        return next((index for index in fed if steps[index].rank > decision.last), fed[0])


Strategy = Callable[[Random], Scheduler]


def portfolio(ranks: int, length: int) -> dict[str, Strategy]:
    """The strategies by name, for a program whose default schedule has `length` decisions."""
    length = max(1, length)
    return {
        "random": RandomWalk,
        "pos": PartialOrderSampling,
        "pct2": lambda chance: PriorityChanges(chance, 2, length),
        "pct3": lambda chance: PriorityChanges(chance, 3, length),
        "starvation": lambda chance: Starvation(chance, ranks, length),
    }


def _share(one: Step, other: Step) -> bool:
    """Whether two steps touch a key in common that one of them may write."""
    if one.rank == other.rank:
        return False
    ours, theirs = one.keys, other.keys
    touching = ours is None or theirs is None or not set(ours).isdisjoint(theirs)
    return touching and not (_reads(one) and _reads(other))


def _reads(step: Step) -> bool:
    return step.name in OPERATIONS and not OPERATIONS[step.name].changes
