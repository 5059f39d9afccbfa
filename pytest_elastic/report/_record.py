"""What one rank tells of one phase of a test, and what became of the ranks that told nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_elastic.hang import Stack

Outcome = Literal["passed", "skipped", "failed", "exit"]


@dataclass(slots=True)
class PhaseReport:
    """A rank's own report; everything in it pickles.

    Attributes:
        outcome: before any judgement of `xfail`, which is the launcher's.
        at: when the phase ended (monotonic clock, which all processes share).
        duration: seconds.
        data: the runner's serialised report.
        crash: the error's message, `""` if there was none.
        place: `file:line` of it.
        error: the pickled exception, `None` where there is none or it does not pickle.
        error_type: the exception's type name.
        details: what the runner needs to raise a skip or an exit again.
        shown: what the runner printed about fixtures, if asked for.
        properties: recorded by the test.
        warnings: (message, category, file, line) of each.
        marks: those that the test made until then, pickled, by what makes them the same on each rank.
        threads: non-daemon threads that run after the teardown.
        inspection: what else may go on in the rank's process, as `store/_inspection.py` gives it.
    """

    rank: int
    when: str
    outcome: Outcome
    at: float
    duration: float
    data: dict[str, Any]
    crash: str = ""
    place: str = ""
    error: bytes | None = None
    error_type: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    shown: str = ""
    properties: list[tuple[str, Any]] = field(default_factory=list)
    warnings: list[tuple[Any, type, str, int]] = field(default_factory=list)
    marks: dict[bytes, bytes] = field(default_factory=dict)
    threads: int = 0
    inspection: tuple[float, bool, bool, tuple[int, ...], tuple[int, ...]] = (0.0, False, False, (), ())


EndKind = Literal["passed", "skipped", "failed", "exit", "died", "hung", "stopped"]


@dataclass(slots=True)
class RankEnd:
    """How a phase ended on one rank.

    Attributes:
        kind: `died` is an end that nobody asked for, `hung` is silence at the deadline, `stopped` is ours:
            the rank still worked when others had failed.
        at: when; `inf` where it had no end of its own.
        text: in words that follow the rank's name, where there is no report.
        report: the rank's own, where there is one.
        stacks: where it stood, for `hung` and `stopped`.
    """

    rank: int
    kind: EndKind
    at: float
    text: str = ""
    report: PhaseReport | None = None
    stacks: list[Stack] = field(default_factory=list)
