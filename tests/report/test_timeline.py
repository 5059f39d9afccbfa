"""Events put together: spans, meetings, and who released whom."""

from __future__ import annotations

import pytest
from report.histories import failed_barrier, meeting

from pytest_elastic.events import (
    BarrierJoined,
    Event,
    PhaseBegan,
    PhaseEnded,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.report._timeline import cut, timeline_of
from pytest_elastic.report.exporters import RunHistory


def scene_of(*events, nprocs=2):
    return timeline_of(RunHistory("t", nprocs, events))


def test_waits_end_by_connection():
    """Rule 1: an answer ends the wait of its own connection; the other one is open."""
    first, second = (
        WaitBegan(1.0, 0, 7, "get", ("a",), ("a",), 9.0),
        WaitBegan(2.0, 0, 8, "get", ("b",), ("b",), 9.0),
    )
    done = WaitEnded(3.0, 0, 8, "timed out")
    waits = scene_of(done, second, first).waits
    assert [(one.began, one.ended, one.good) for one in waits] == [
        (first, None, False),
        (second, done, False),
    ]


def test_an_answer_without_a_wait_is_no_span():
    """A recording may begin in the middle."""
    assert scene_of(WaitEnded(3.0, 0, 8, "done"), PhaseEnded(3.0, 0, "call", "passed")).waits == []


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([(2.0, "set", 1), (3.0, "add", 1)], 1),
        ([(2.0, "set", 1), (3.0, "get", 1)], 0),
        ([(0.5, "set", 1)], None),
        ([(2.0, "set", 0)], None),
    ],
    ids=["the last write", "a read releases nobody", "a write before the wait", "its own connection"],
)
def test_who_released_a_wait(writes, expected):
    """Rule 2."""
    calls = [StoreCalled(at, client, client, name, ("a",)) for at, name, client in writes]
    scene = scene_of(
        *calls, WaitBegan(1.0, 0, 0, "wait", ("a", "b"), ("a",), 9.0), WaitEnded(4.0, 0, 0, "done")
    )
    assert scene.waits[0].by == (None if expected is None else calls[expected])


def test_a_call_that_changed_nothing_releases_nobody():
    """Rule 2 is about writes: a `compare_set` that found another value is none."""
    call, vain = StoreCalled(2.0, 1, 1, "set", ("a",)), StoreCalled(3.0, 1, 1, "compare_set", ("a",), False)
    scene = scene_of(
        call, vain, WaitBegan(1.0, 0, 0, "wait", ("a",), ("a",), 9.0), WaitEnded(4.0, 0, 0, "done")
    )
    assert scene.waits[0].by == call


def test_only_an_answer_has_a_releaser():
    """A wait that timed out was released by nobody, whatever was written."""
    began, call = WaitBegan(1.0, 0, 0, "wait", ("a",), ("a",), 9.0), StoreCalled(2.0, 1, 1, "set", ("a",))
    assert scene_of(began, call, WaitEnded(4.0, 0, 0, "jumped")).waits[0].by is None


def test_a_prefix_used_again_is_another_meeting():
    """Rule 3, for a barrier that was released, and for one whose count begins again."""
    twice = [*meeting("b", 1.0, [0], 1, 2), *meeting("b", 2.0, [0], 1, 2)]
    assert [one.complete for one in scene_of(*twice).meetings] == [True, True]
    again = [BarrierJoined(at, 0, 0, "b", 2, 1) for at in (1.0, 2.0)]
    assert [one.absent for one in scene_of(*again).meetings] == [[1], [1]]


def test_who_is_absent():
    """The ranks that never came, where the barrier was not released; the group's size where none was said."""
    scene = scene_of(BarrierJoined(1.0, 2, 0, "b", 0, 1), nprocs=4)
    assert [(one.expected, one.complete, one.absent) for one in scene.meetings] == [(4, False, [0, 1, 3])]
    assert [one.absent for one in timeline_of(failed_barrier()).meetings] == [[], [1]]


def test_phases():
    """A phase ends on its own rank."""
    scene = scene_of(
        PhaseBegan(1.0, 0, "call"), PhaseBegan(1.0, 1, "call"), PhaseEnded(2.0, 1, "call", "passed")
    )
    assert [(one.began.rank, one.ended and one.ended.outcome) for one in scene.phases] == [
        (0, None),
        (1, "passed"),
    ]


def test_what_has_nothing_to_be_seen_is_passed_over():
    """Rule 4: it is a moment of the run all the same."""
    scene = scene_of(PhaseBegan(1.0, 0, "call"), Event(2.0, 0))
    assert (len(scene.phases), scene.last) == (1, 2.0)


def test_a_run_without_events():
    """Nothing happened: nothing is there, and it is no error."""
    scene = scene_of()
    assert (scene.first, scene.last, scene.waits, scene.meetings) == (0.0, 0.0, [], [])


def test_cut_says_how_much():
    """Nothing goes silently."""
    assert (cut("abc", 3), cut("abcdef", 3)) == ("abc", "abc… (3 more characters)")
