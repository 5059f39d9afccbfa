"""What became of the ranks of a phase, and the one verdict on it."""

from pytest_elastic.report._follower import Follows, follows
from pytest_elastic.report._record import Outcome, PhaseReport, Raised, RankEnd
from pytest_elastic.report._verdict import FORCED_TOGETHER, TOGETHER, PartialSkip, Verdict, judge, stack_text

__all__ = [
    "FORCED_TOGETHER",
    "TOGETHER",
    "Follows",
    "Outcome",
    "PartialSkip",
    "PhaseReport",
    "Raised",
    "RankEnd",
    "Verdict",
    "follows",
    "judge",
    "stack_text",
]
