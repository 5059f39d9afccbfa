"""The line on the terminal."""

from __future__ import annotations

import io

from pytest_elastic.clock import VirtualClock
from pytest_elastic.simulator._progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_nothing() -> None:
    """Only terminals have a line that can be wiped."""
    stream, clock = io.StringIO(), VirtualClock()
    progress = Progress("t", 10, stream, clock)
    for _ in range(3):
        clock.advance(1.0)
        progress.count()
    progress.close()
    assert stream.getvalue() == ""
    assert progress.schedules == 3


def test_a_terminal_gets_a_line_that_goes_again() -> None:
    """How many, how fast, and which part of the budget; in the end it is wiped."""
    stream, clock = Terminal(), VirtualClock()
    progress = Progress("exchange", 10, stream, clock)
    clock.advance(0.5)
    progress.count()
    assert stream.getvalue() == "\rexchange: 1 schedules, 2/s, no failure, 10% of the budget"
    width = len(stream.getvalue()) - 1
    progress.close()
    assert stream.getvalue().endswith("\r" + " " * width + "\r")


def test_the_share_of_the_space_where_it_is_known() -> None:
    """By the exhaustive search."""
    stream, clock = Terminal(), VirtualClock()
    progress = Progress("exchange", 10, stream, clock)
    clock.advance(1.0)
    progress.count(0.25)
    assert "25.0% of the space" in stream.getvalue()


def test_not_too_often() -> None:
    """Ten times a second at most."""
    stream, clock = Terminal(), VirtualClock()
    progress = Progress("exchange", 1000, stream, clock)
    for _ in range(100):
        clock.advance(0.01)
        progress.count()
    assert 8 <= stream.getvalue().count("\r") <= 10


def test_nothing_to_wipe() -> None:
    """A search that is over at once leaves the terminal as it was."""
    stream = Terminal()
    Progress("exchange", 10, stream, VirtualClock()).close()
    assert stream.getvalue() == ""
