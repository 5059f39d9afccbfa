"""Outcomes of a phase on its ranks and the verdict merged from them; `exporters`: files of a failed test."""

from pytest_elastic.report._folding import fair_limit, shorten
from pytest_elastic.report._follower import Follows, follows
from pytest_elastic.report._merge import (
    FORCED_TOGETHER,
    TOGETHER,
    PartialSkip,
    PhaseVerdict,
    judge,
    stack_text,
)
from pytest_elastic.report._outcome import Outcome, PhaseReport, Raised, RankEnd

__all__ = [
    "FORCED_TOGETHER",
    "TOGETHER",
    "Follows",
    "Outcome",
    "PartialSkip",
    "PhaseReport",
    "PhaseVerdict",
    "Raised",
    "RankEnd",
    "follows",
    "judge",
    "stack_text",
]
