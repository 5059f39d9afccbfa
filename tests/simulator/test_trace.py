"""Happens-before, races and traces."""

from __future__ import annotations

from pytest_elastic.simulator._dependence import AWAIT, CREATE, DELETE, LAST, MEET, OVERWRITE, PRESENCE, VALUE
from pytest_elastic.simulator._trace import Trace


def test_independent_steps_are_not_ordered() -> None:
    """Their clocks do not know of each other, and their order is no part of the trace."""
    one, other = Trace(2), Trace(2)
    for trace, order in ((one, [0, 1]), (other, [1, 0])):
        for process in order:
            assert trace.add(process, f"of {process}", {f"k{process}": CREATE}) == []
    assert one.canonical() == other.canonical()
    assert [event.clock for event in one.events] == [(1, 0, 0, 0), (0, 1, 0, 0)]


def test_dependent_steps_race() -> None:
    """And are another trace in the other order."""
    one, other = Trace(2), Trace(2)
    for trace, order in ((one, [0, 1]), (other, [1, 0])):
        trace.add(order[0], "first", {"k": CREATE})
        assert trace.add(order[1], "second", {"k": OVERWRITE}) == [0]
    assert one.canonical() != other.canonical()


def test_only_the_latest_of_what_is_ordered_races() -> None:
    """What happened before another rival is ordered by that already."""
    trace = Trace(3)
    trace.add(0, "", {"k": CREATE})
    trace.add(1, "", {"k": OVERWRITE})
    assert trace.add(2, "", {"k": OVERWRITE}) == [1]


def test_two_readers_both_race_with_a_writer() -> None:
    """Latest first."""
    trace = Trace(3)
    trace.add(0, "", {"k": VALUE})
    trace.add(1, "", {"k": VALUE})
    assert trace.add(2, "", {"k": OVERWRITE}) == [1, 0]


def test_what_a_waiter_does_next_comes_after_the_write() -> None:
    """Whether the wait began before it or after it; the wait itself is not ordered."""
    for early in (True, False):
        trace = Trace(2)
        if early:
            trace.add(1, "wait", {"k": AWAIT})
            trace.wait(1, ["k"], ["k"])
            assert trace.add(0, "set", {"k": CREATE}) == []
        else:
            trace.add(0, "set", {"k": CREATE})
            assert trace.add(1, "wait", {"k": AWAIT}) == []
            trace.wait(1, ["k"], [])
        assert trace.add(1, "next", {"k": PRESENCE}) == [], "enabled by the write: no race"
        assert [event.clock for event in trace.canonical() if event.label != "'next'"] == [  # type: ignore[attr-defined]
            (1, 0, 0, 0),
            (0, 1, 0, 0),
        ]
        assert trace.events[-1].clock == (1, 2, 0, 0)


def test_a_wait_races_with_the_deletion_beyond_the_write() -> None:
    """The set in between is looked past."""
    trace = Trace(2)
    trace.add(0, "set", {"k": CREATE})
    trace.add(0, "delete", {"k": DELETE})
    trace.add(0, "set", {"k": CREATE})
    assert trace.add(1, "wait", {"k": AWAIT}) == [1]


def test_all_who_meet_go_on_after_all() -> None:
    """Whoever was last."""
    for order in ([0, 1], [1, 0]):
        trace = Trace(2)
        trace.add(order[0], "barrier", {"b": MEET})
        trace.wait(order[0], ["b"], ["b"])
        assert trace.add(order[1], "barrier", {"b": LAST}) == []
        for process in (0, 1):
            trace.add(process, "next", {})
        assert {event.clock[:2] for event in trace.events[2:]} == {(2, 1), (1, 2)}


def test_who_has_left_does_not_meet() -> None:
    """A rank whose wait expired goes its own way."""
    trace = Trace(2)
    trace.add(0, "barrier", {"b": MEET})
    trace.wait(0, ["b"], ["b"])
    trace.add(2, "expiry", {})
    trace.add(1, "barrier", {"b": LAST})
    trace.add(0, "next", {})
    assert trace.events[-1].clock == (2, 0, 1, 0)


def test_an_expiry_comes_after_what_its_rank_did() -> None:
    """And not after what could have answered the wait."""
    trace = Trace(2)
    trace.add(0, "wait", {"k": AWAIT})
    trace.wait(0, ["k"], ["k"])
    trace.add(1, "set", {"k": CREATE})
    assert trace.would_race(2, {"k": PRESENCE}) == [(1, [2])]
    assert len(trace.events) == 2


def test_a_jump_orders_everything() -> None:
    """What comes after it races with nothing before."""
    trace = Trace(2)
    trace.add(0, "", {"k": CREATE})
    trace.add(1, "", {"j": CREATE})
    trace.jump()
    assert trace.add(1, "", {"k": OVERWRITE}) == []


def test_initials() -> None:
    """Who can begin what leads to the later event without the earlier: whoever does not need it."""
    trace = Trace(4)
    trace.add(0, "earlier", {"k": CREATE, "m": CREATE})
    trace.add(1, "noise", {"n": CREATE})
    trace.add(3, "needs it", {"m": VALUE})
    assert trace.add(2, "later", {"k": OVERWRITE}) == [0]
    assert trace.initials(0, 3) == [1, 2]


def test_initials_are_not_what_needs_others() -> None:
    """The later event comes after the noise here."""
    trace = Trace(3)
    trace.add(0, "earlier", {"k": CREATE})
    trace.add(1, "noise", {"n": CREATE})
    assert trace.add(2, "later", {"k": OVERWRITE, "n": PRESENCE}) == [1, 0]
    assert trace.initials(0, 2) == [1]
