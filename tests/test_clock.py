"""Clocks that are not the machine's."""

from __future__ import annotations

import time

import pytest

from pytest_elastic.clock import LeapingClock


def test_a_leaping_clock_goes_on_from_where_it_was_put():
    """It is the machine's, and so much ahead."""
    clock = LeapingClock()
    clock.leap(300.0)
    clock.leap(10.0)
    assert clock.ahead == 310.0
    before = time.monotonic()
    assert before + 310.0 <= clock.monotonic() <= time.monotonic() + 310.0


def test_a_leaping_clock_never_goes_back():
    """A negative leap, and one that is no number, are errors."""
    for span in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="forward only"):
            LeapingClock().leap(span)
