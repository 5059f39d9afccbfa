"""Hangs and their causes: the wait graph of a group, verdicts on it, and the ranks' stacks."""

from pytest_elastic.hang._diagnosis import (
    BlockedOutside,
    CollectiveMismatch,
    CountMismatch,
    Deadlock,
    Diagnosis,
    DoomedWait,
    Exited,
    HangUntilTimeout,
    MissingRank,
    OrderMismatch,
    Spinning,
    StalePrefix,
    Stopped,
    Unreachable,
)
from pytest_elastic.hang._frames import Frame, Stack, cut_harness, fold, is_library, is_ours, parse_stacks
from pytest_elastic.hang._group_calls import GroupCall, short_place
from pytest_elastic.hang._naming import key_name, key_names, place_name
from pytest_elastic.hang._nodes import Rank, Wait
from pytest_elastic.hang._outside import diagnose_outside, review
from pytest_elastic.hang._report import consequence, report_dot, report_json, report_text
from pytest_elastic.hang._rules import diagnose, find_stale
from pytest_elastic.hang._snapshot import CallSeen, Snapshot, WaitSeen
from pytest_elastic.hang._stack_tree import Branch, main_stack, merge, tree_dot, tree_text
from pytest_elastic.hang._waitgraph import WaitGraph

__all__ = [
    "BlockedOutside", "Branch", "CollectiveMismatch", "CountMismatch", "Deadlock", "Diagnosis",
    "DoomedWait", "Exited", "Frame", "HangUntilTimeout", "MissingRank", "OrderMismatch", "Snapshot",
    "Spinning", "Stack", "StalePrefix", "Stopped", "Unreachable", "WaitGraph", "WaitSeen", "diagnose",
    "diagnose_outside", "find_stale", "is_library", "merge", "parse_stacks", "report_dot",
    "report_json", "report_text", "tree_dot", "tree_text",
]  # fmt: skip
