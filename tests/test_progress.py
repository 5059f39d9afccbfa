"""The line that tells how far the work is."""

from __future__ import annotations

import io
import threading
import time

import pytest

from pytest_elastic.clock import VirtualClock
from pytest_elastic.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_and_a_sentence_at_the_end() -> None:
    """How many, how fast, how much of all; a shorter text covers a longer one."""
    output, clock = Terminal(), VirtualClock()
    with Progress("exchange", "rounds", 10, output, clock) as progress:
        progress.count()
        assert output.getvalue() == ""
        clock.advance(2.0)
        progress.count()
    line = "exchange: 2 rounds, 1/s, no failure yet, 20% of 10 rounds"
    end = "exchange: 2 rounds, no failure (2.0 s)"
    assert output.getvalue() == f"\n\r{line}\r{end.ljust(len(line))}\n"


def test_a_file_gets_a_line_every_ten_seconds() -> None:
    """No line is written anew."""
    output, clock = io.StringIO(), VirtualClock()
    with Progress("exchange", "rounds", 100, output, clock) as progress:
        for _ in range(25):
            clock.advance(1.0)
            progress.count()
    lines = output.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "", "exchange: 10 rounds", "exchange: 20 rounds", "exchange: 25 rounds",
    ]  # fmt: skip
    assert "\r" not in output.getvalue()


@pytest.mark.parametrize("output", [Terminal(), io.StringIO()])
def test_what_is_over_at_once_is_not_shown(output: io.StringIO) -> None:
    """Nor how it ended."""
    clock = VirtualClock()
    with Progress("exchange", "rounds", 10, output, clock) as progress:
        clock.advance(0.9)
        progress.count()
    assert output.getvalue() == ""


def test_the_share_never_goes_back() -> None:
    """An estimate may."""
    output, clock = Terminal(), VirtualClock()
    with Progress("exchange", "schedules", 10, output, clock) as progress:
        for share in (0.5, 0.25, None, 0.75):
            clock.advance(2.0)
            progress.count(share)
    shown = [line.rpartition(", ")[2].partition("%")[0] for line in output.getvalue().split("\r")[1:-1]]
    assert [float(one) for one in shown] == [50, 50, 50, 75]


def test_not_too_often() -> None:
    """Ten times a second at most."""
    output, clock = Terminal(), VirtualClock()
    with Progress("exchange", "rounds", 1000, output, clock) as progress:
        for _ in range(200):
            clock.advance(0.01)
            progress.count()
    assert 9 <= output.getvalue().count("\r") <= 12


@pytest.mark.parametrize(("kind", "begin"), [(Terminal, "\n\r"), (io.StringIO, "\n")])
def test_a_step_that_takes_long_is_shown_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO], begin: str
) -> None:
    """Nobody counts then; what looks at it is gone at the end."""
    monkeypatch.setattr("pytest_elastic.progress.PATIENCE", 0.01)
    monkeypatch.setattr("pytest_elastic.progress.IN_FILE", 0.01)
    output, deadline = kind(), time.monotonic() + 20
    with Progress("exchange", "runs", 1, output):
        while not output.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert output.getvalue().startswith(f"{begin}exchange: 0 runs in 0 s, no failure yet, 0% of 1 run")
    assert "progress" not in [thread.name for thread in threading.enumerate()]


def test_a_failure_is_the_end_of_it() -> None:
    """Which passes on."""
    output, clock = Terminal(), VirtualClock()
    with pytest.raises(ValueError, match="no"), Progress("exchange", "rounds", 10, output, clock) as progress:
        clock.advance(2.0)
        progress.count()
        raise ValueError("no")
    assert output.getvalue().rstrip().endswith("exchange: 1 round, stopped by a failure (2.0 s)")
