"""N ends of a phase, one verdict.

*Rules.*
1. A pass is N passes.  Whatever else came of a rank decides before it: an exit request, then failures,
   then skips.
2. The first failure in time is the cause.  Followers come after it, whenever they came: errors that say
   that another rank was not there (a lost connection, a time-out of a store).
3. Ranks that we stopped are no failures; the report says where they stood.
4. Skips are unanimous, or they are a failure that names the ranks (`partial_skip` may say otherwise).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pytest_elastic.errors import name_ranks
from pytest_elastic.hang import Stack, cut_harness, fold
from pytest_elastic.report._record import RankEnd

PartialSkip = Literal["fail", "skip", "pass"]

_FOLLOWER_TYPES = frozenset(
    {"DistStoreError", "DistNetworkError", "ConnectionResetError", "BrokenPipeError", "EOFError"}
)
_FOLLOWER_TEXT = re.compile(r"[Cc]onnection (reset|closed|was aborted|refused)")


@dataclass(slots=True)
class Verdict:
    """What the launcher makes of a phase.

    Attributes:
        kind: the phase's outcome; `partial` is a skip of some ranks that counts as a failure.
        primary: the end that decides; `None` for a pass.
        headline: one line on top of the report.
        sections: (title, text) below it, the least important last.
        duration: seconds that the slowest rank took, 0 where that is not known.
    """

    kind: Literal["passed", "skipped", "failed", "exit", "partial"]
    primary: RankEnd | None = None
    headline: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    duration: float = 0.0


def judge(ends: list[RankEnd], world_size: int, partial_skip: PartialSkip = "fail") -> Verdict:
    """The verdict on what ended a phase: at least one end for every rank that was in it."""
    exits = [end for end in ends if end.kind == "exit"]
    if exits:
        return Verdict("exit", exits[0])
    failures = sorted((end for end in ends if end.kind in ("failed", "died", "hung")), key=_order)
    stopped = [end for end in ends if end.kind == "stopped"]
    if failures:
        return _failed(failures, stopped, world_size)
    skips = [end for end in ends if end.kind == "skipped"]
    if not skips or (len(skips) < len(ends) and partial_skip == "pass"):
        return Verdict("passed", sections=[_skip_section(skips)] if skips else [])
    if len(skips) == len(ends) or partial_skip == "skip":
        return Verdict("skipped", skips[0])
    others = [end.rank for end in ends if end.kind != "skipped"]
    line = f"{name_ranks([end.rank for end in skips])} skipped the test and {name_ranks(others)} did not"
    return Verdict("partial", skips[0], line, [_skip_section(skips)])


def stack_text(stacks: list[Stack], indent: str = "  ") -> str:
    """Stacks for people: innermost call last, the current thread first, harness frames cut."""
    lines = []
    for number, stack in enumerate(sorted(map(cut_harness, stacks), key=lambda stack: not stack.current)):
        if number:
            lines.append(f"{indent}another thread:")
        lines += [f"{indent}{frame}" for frame in stack.frames]
    return "\n".join(lines) or f"{indent}(no Python stack could be had)"


def _failed(failures: list[RankEnd], stopped: list[RankEnd], world_size: int) -> Verdict:
    primary = failures[0]
    alike = [end for end in failures if _same(end, primary)]
    others = [end for end in failures if not _same(end, primary)]
    first = name_ranks([end.rank for end in alike])
    count = f"{len({end.rank for end in failures})} of {world_size} ranks failed"
    if primary.report is None:
        line = f"{_sentence(first, primary.text)} ({count})"
    elif world_size == 1:
        line = ""
    else:
        line = f"{count}: {first} {'first' if others else 'alike' if len(alike) > 1 else 'alone'}"
    if stopped:
        verb = "was" if len(stopped) == 1 else "were"
        line += f"; {name_ranks([end.rank for end in stopped])} {verb} stopped"
    sections = []
    while others:
        same = [end for end in others if _same(end, others[0])]
        sections.append(_also(same, primary))
        others = [end for end in others if end not in same]
    sections += _where("died here", [end for end in failures if end.kind == "died" and end.stacks])
    sections += _where("hung here", [end for end in failures if end.kind == "hung"])
    sections += _where("stood here when stopped", stopped)
    return Verdict("failed", primary, line, sections)


def _also(ends: list[RankEnd], primary: RankEnd) -> tuple[str, str]:
    """A section for a further failure; short where it came from the primary's own line."""
    ranks, report = name_ranks([end.rank for end in ends]), ends[0].report
    if report is None:
        return f"{ranks} failed too", _sentence(ranks, ends[0].text)
    if _is_follower(ends[0]):
        return f"{ranks} failed too", f"{report.crash} ({report.place})" if report.place else report.crash
    if primary.report is not None and report.place and report.place == primary.report.place:
        return f"{ranks} failed too, on the same line", report.crash
    return f"{ranks} failed too", report.details.get("text") or report.crash


def _sentence(ranks: str, text: str) -> str:
    return f"{ranks}{text}" if text.startswith(":") else f"{ranks} {text}"


def _where(what: str, ends: list[RankEnd]) -> list[tuple[str, str]]:
    stacks = {end.rank: [cut_harness(stack) for stack in end.stacks] for end in ends}
    return [(f"{name_ranks(ranks)} {what}", stack_text(folded)) for ranks, folded in fold(stacks)]


def _order(end: RankEnd) -> tuple[bool, bool, float, int]:
    return end.kind == "hung", _is_follower(end), end.at, end.rank


def _is_follower(end: RankEnd) -> bool:
    if end.report is None:
        return False
    return end.report.error_type in _FOLLOWER_TYPES or bool(_FOLLOWER_TEXT.search(end.report.crash))


def _same(one: RankEnd, other: RankEnd) -> bool:
    if one.report is None or other.report is None:
        return one.kind == other.kind and one.text == other.text
    first, second = one.report, other.report
    if first.error_type == second.error_type == "DistStoreError":  # Each rank says it in words of its own.
        return first.place == second.place
    return (first.crash, first.place, first.error_type) == (second.crash, second.place, second.error_type)


def _skip_section(skips: list[RankEnd]) -> tuple[str, str]:
    reasons = [f"rank {end.rank}: {end.report.crash if end.report else end.text}" for end in skips]
    return "skipped on some ranks", "\n".join(reasons)
