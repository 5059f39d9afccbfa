"""Outcomes of a phase on its ranks and the verdict merged from them; `exporters`: files of a failed test."""

from pytest_elastic.report._folding import fair_limit, shorten
from pytest_elastic.report._follower import Follows, follows
from pytest_elastic.report._merge import (
    FORCED_TOGETHER,
    TOGETHER,
    PartialSkip,
    PhaseVerdict,
    judge,
)
from pytest_elastic.report._outcome import Outcome, PhaseReport, Raised, RankEnd
from pytest_elastic.report._stack_text import stack_text

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
