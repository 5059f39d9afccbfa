"""Events: frozen, and the same after a way through JSON."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from pytest_elastic.events import (
    KINDS,
    BarrierJoined,
    ClientLeft,
    CollectiveJoined,
    Event,
    LineWritten,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankInspected,
    RankStarted,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
    dump,
    load,
)

EVENTS = [
    RankStarted(0.5, 0, 4711),
    RankExited(1.25, 1, -9),
    PhaseBegan(1.5, 0, "call"),
    PhaseEnded(2.0, 0, "call", "failed", "ValueError: boom", "t.py:41"),
    RankStood(2.5, 3, "blocked", "pipe_write", "pid 12"),
    StoreCalled(3.0, None, 7, "multi_get", ("a", "ü\n")),
    StoreCalled(3.1, 0, 7, "compare_set", ("a",), False),
    ClientLeft(3.2, 0, 7),
    BarrierJoined(3.5, 2, 7, "epoch3", 4, 1),
    CollectiveJoined(3.6, 2, 7, "world", 3, (0, 2), 1, "barrier", "barrier()", "barrier\t\t\t\t"),
    WaitBegan(4.0, 2, 7, "wait", ("a", "b"), ("b",), 300.0, True, (0, 1), 1.5),
    WaitEnded(4.5, 2, 7, "jumped"),
    RankInspected(4.6, 2, 0.5, True, False, (4712,), (4713,)),
    LineWritten(5.0, 1, "stdout", "a line with \x00 in it"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_json_there_and_back(event: Event) -> None:
    """An event is one line, and comes back equal and frozen."""
    line = dump(event)
    assert "\n" not in line
    assert load(line) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_made_by_name(event: Event) -> None:
    """The constructor takes the fields by name, in any order, and those without a default are needed."""
    values = dataclasses.asdict(event)
    made = type(event)(**dict(reversed(values.items())))
    assert made == event
    assert dataclasses.replace(event, at=7.0) == type(event)(**{**values, "at": 7.0})
    assert pickle.loads(pickle.dumps(event)) == event
    del values["rank"]
    with pytest.raises(TypeError, match="rank"):
        type(event)(**values)


def test_defaults() -> None:
    """What is not given has its default."""
    assert WaitBegan(4.0, 2, 7, "wait", ("a",), ("a",), 300.0) == WaitBegan(
        4.0, 2, 7, "wait", ("a",), ("a",), 300.0, False, ()
    )


def test_every_kind_is_covered() -> None:
    """The table of kinds is what the tests above go through."""
    assert set(KINDS.values()) == {type(event) for event in EVENTS}


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"event": "Nothing"}', '{"event": "RankStarted"}', '{"event": "Event", "x": 1}']
)
def test_what_is_no_event(line: str) -> None:
    """One error that shows the line."""
    with pytest.raises(ValueError, match="no event: "):
        load(line)
