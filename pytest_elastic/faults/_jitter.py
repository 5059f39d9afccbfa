"""Seeded jitter at the store: requests of real ranks come in other orders.

*Theory of operation.*  Each request is late by a time that depends on the seed, the rank and its number only.
Most are not late at all; the others by a span that doubles from 0.1 ms to 6.4 ms, so that both near misses
and long overtakings happen.  In half of the runs one rank starves: all that it does is late.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from functools import partial

from pytest_elastic.faults._stage import Stage
from pytest_elastic.store import Gate, Request

_LATE = 0.4
_SHORTEST = 0.0001
_DOUBLINGS = 6
_STARVED = 0.002


class JitterStage(Stage):
    """Delays requests of `nprocs` ranks by what a seed says."""

    def __init__(self, seed: int | str, nprocs: int, following: Gate) -> None:
        super().__init__(following)
        self._seed = seed
        dice = random.Random(f"{seed}")
        self._starved = dice.randrange(nprocs) if dice.random() < 0.5 else None
        self._counts: Counter[tuple[Hashable, int]] = Counter()

    def asked(self, request: Request) -> None:
        party = request.label, request.client
        self._counts[party] += 1
        dice = random.Random(f"{self._seed}/{party}/{self._counts[party]}")
        seconds = _STARVED if request.label == self._starved else 0.0
        if dice.random() < _LATE:
            seconds += _SHORTEST * 2.0 ** dice.randint(0, _DOUBLINGS)
        if seconds:
            self.after(seconds, partial(super().asked, request))
        else:
            super().asked(request)
