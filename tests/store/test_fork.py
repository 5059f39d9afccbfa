"""What is let go of in a forked child."""

from __future__ import annotations

import gc
from typing import Any

from pytest_elastic.store import _fork


class One:
    def __init__(self) -> None:
        self.forked = False

    def after_fork(self) -> None:
        self.forked = True


def test_the_child_lets_go_and_the_parent_does_not(fork: Any) -> None:
    """Each of those that are alive."""
    one, other = One(), One()
    _fork.watch(one)
    _fork.watch(other)
    assert fork(lambda: (one.forked, other.forked)).outcome() == (True, True)
    assert (one.forked, other.forked) == (False, False)


def test_watching_keeps_nothing_alive() -> None:
    """What is gone is not asked."""
    before = len(_fork._watched)
    _fork.watch(One())
    gc.collect()
    assert len(_fork._watched) <= before
