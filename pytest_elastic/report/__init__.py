"""What became of the ranks of a phase, and the one verdict on it."""

from pytest_elastic.report._record import Outcome, PhaseReport, RankEnd
from pytest_elastic.report._verdict import PartialSkip, Verdict, judge, stack_text

__all__ = ["Outcome", "PartialSkip", "PhaseReport", "RankEnd", "Verdict", "judge", "stack_text"]
