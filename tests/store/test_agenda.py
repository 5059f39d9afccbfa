"""What a serving thread is asked to do besides serving."""

from __future__ import annotations

import math

from pytest_elastic.store._agenda import Agenda


def test_what_is_taken_is_off() -> None:
    """Who asks later takes the earlier one's place."""
    agenda, done = Agenda(), []
    agenda.settled = lambda: done.append(1)
    agenda.settled = lambda: done.append(2)
    settled = agenda.take_settled()
    assert settled is not None
    settled()
    assert (done, agenda.take_settled()) == ([2], None)


def test_an_alarm_rings_once_and_not_before() -> None:
    """And may set the next one."""
    agenda, rung = Agenda(), []

    def ring() -> None:
        rung.append(agenda.at)
        if len(rung) == 1:
            agenda.set_alarm(7.0, ring)

    agenda.set_alarm(5.0, ring)
    agenda.ring(4.9)
    assert rung == []
    for now in (5.0, 6.0, 7.0, 8.0):
        agenda.ring(now)
    assert (len(rung), agenda.at) == (2, math.inf)
