"""Outcomes of one phase on one rank: its own report, and its end where there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_elastic.hang import Stack
from pytest_elastic.report._follower import Follows

Outcome = Literal["passed", "skipped", "failed", "exit"]


@dataclass(slots=True)
class PhaseReport:
    """A rank's own report; everything in it pickles.

    Attributes:
        outcome: as hooks in the rank left it; `xfail` marks are judged by the launcher.
        at: when the phase ended, or its error left it (monotonic clock, which all processes share).
        duration: seconds.
        data: the runner's serialised report.
        crash: the error's message, `""` if there was none.
        place: `file:line` of it.
        error: the pickled exception, `None` where there is none or it does not pickle.
        error_type: the exception's type name.
        follows: whether the error only says that a peer was not there.
        details: for the runner, to raise a skip or an exit again.
        shown: the runner's output about fixtures, if asked for.
        properties: recorded by the test.
        warnings: (message, category, file, line) of each.
        marks: made by the test until then, pickled, by a key that is the same on each rank.
        threads: non-daemon threads that run after the teardown.
        inspection: of the rank's process, as `store/_inspection.py` gives it.
        of_timeout: whether a failure is a time-out of the store, or came of one.
        expected: whether the failure is one that an `xfail` mark expects, as the rank sees it.
        subtests: reports of the parts that the test reports by themselves.
        values: of fixtures, those that are plain.
        attributes: of the test, recorded by it for an XML report.
        suite_properties: likewise, of the whole run.
        params: names of the fixtures whose values are the test's parameters.
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
    follows: Follows = ""
    details: dict[str, Any] = field(default_factory=dict)
    shown: str = ""
    properties: list[tuple[str, Any]] = field(default_factory=list)
    warnings: list[tuple[Any, type, str, int]] = field(default_factory=list)
    marks: dict[bytes, bytes] = field(default_factory=dict)
    threads: int = 0
    inspection: tuple[float, bool, bool, tuple[int, ...], tuple[int, ...]] = (0.0, False, False, (), ())
    of_timeout: bool = True
    expected: bool = False
    subtests: list[PhaseReport] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    params: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    suite_properties: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Raised:
    """From a rank, ahead of its report, which may take its time: a phase has failed.

    Attributes:
        at: when (monotonic clock).
        error_type: the exception's type name.
        place: `file:line` of the code that raised it.
        follows: as in `PhaseReport`.
        crash: the first line of the error's message.
    """

    rank: int
    at: float
    error_type: str
    place: str
    follows: Follows
    crash: str = ""


EndKind = Literal["passed", "skipped", "failed", "exit", "died", "hung", "stopped"]


@dataclass(slots=True)
class RankEnd:
    """How a phase ended on one rank.

    Attributes:
        kind: `died` is an unexpected exit, `hung` is silence at the deadline, `stopped` is ours:
            the rank still worked when others had failed.  A rank that `failed` has a report, unless that
            did not come.
        at: when; `inf` where it had no end of its own.
        text: in words that follow the rank's name, where there is no report.
        report: the rank's own, where there is one.
        stacks: where it stood, for `hung` and `stopped`.
        turn: which of the group's operations of the store was its last one; -1 where it did none.
        place, error_type, crash: of its failure, as far as they are known; the report's, where there is one.
    """

    rank: int
    kind: EndKind
    at: float
    text: str = ""
    report: PhaseReport | None = None
    stacks: list[Stack] = field(default_factory=list)
    turn: int = -1
    place: str = ""
    error_type: str = ""
    crash: str = ""

    def __post_init__(self) -> None:
        if (report := self.report) is not None:
            self.place, self.error_type, self.crash = report.place, report.error_type, report.crash
