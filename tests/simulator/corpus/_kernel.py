"""What a kernel is: a small program that fails as a real one did, and its repaired twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RankFunction = Callable[[int, int, Any], Any]


@dataclass(frozen=True)
class Kernel:
    """One row of the corpus.

    Attributes:
        number: its place in the list of known hangs.
        buggy: the rank function that fails.
        fixed: its twin, which must not.
        always: whether every schedule fails, or some.
        fails: what the failing schedule ends with: `"hang"`, or `"error"` on a rank.
        delays: how many delays of the default schedule the failure needs at least.
        options: what the simulator is told besides (wake rule, ...).
    """

    number: int
    buggy: RankFunction
    fixed: RankFunction
    always: bool
    fails: str = "hang"
    ranks: int = 3
    delays: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.buggy.__name__
