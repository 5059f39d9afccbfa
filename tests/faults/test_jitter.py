"""Seeded jitter."""

from __future__ import annotations

import math

from pytest_elastic.faults._jitter import JitterStage
from pytest_elastic.store import OpenGate


def spans(rig, clock, seed):
    """By how much each of 40 requests of two ranks is late."""
    stage = rig.use(JitterStage(seed, 2, OpenGate()))
    found = []
    for number in range(40):
        rig.notes.clear()
        now = clock(0)
        rig.ask(number % 2, "add", "n", 1)
        found.append(0.0 if rig.notes else round(stage.due() - now, 6))
        stage.tick(clock(1))
        assert (rig.of(number % 2), stage.due()) == (["ok"], math.inf)
    return found


def test_a_seed_is_a_schedule(rig, clock):
    """The same one twice, another one for another seed."""
    one, again, other = (spans(rig, clock, seed) for seed in ("1/0", "1/0", "2/0"))
    assert one == again
    assert one != other


def test_some_are_late(rig, clock):
    """By less than 10 ms, in each of some seeds; in some a rank is always late."""
    found = [spans(rig, clock, seed) for seed in range(20)]
    assert all(0 < max(late) < 0.01 for late in found)
    starved = [late for late in found if min(late[::2]) > 0 or min(late[1::2]) > 0]
    assert 0 < len(starved) < 20
