"""N ends of a phase, one verdict.

*Rules.*
1. A pass is N passes.  Whatever else came of a rank decides before it: an exit request, then failures,
   then skips.
2. The first failure in time is the cause: a timer's expiry, a death, an exception when it left the test.
   Followers come after it, whenever they came: errors that say that another rank was not there
   (`_follower`).  A lost connection of the test's own is one if a rank had ended before it, or was seen to
   end soon after, as a death is seen late.  Of followers alone, one that names ranks leads.
3. What comes within `TOGETHER` of the first came together with it: no clock of a busy machine tells them
   apart.  There a death leads, since it is seen late; else the rank that came first to its last operation
   of the store; else the lower rank.  So a forced order of the store has one first failure, with
   `FORCED_TOGETHER`, which is longer: what was forced took its time.
4. Ranks that we stopped are no failures; the report says where they stood.
5. A failure that an `xfail` mark expects comes after those that it does not, so all ranks' have to be.
6. Skips are unanimous, or they are a failure that names the ranks (`partial_skip` may say otherwise).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pytest_elastic.errors import name_ranks
from pytest_elastic.hang import Stack, cut_harness, fold
from pytest_elastic.report._record import PhaseReport, RankEnd

PartialSkip = Literal["fail", "skip", "pass"]

TOGETHER, FORCED_TOGETHER = 0.02, 0.5  # Seconds.
_SEEN_LATE = 0.5  # Seconds from a death, which closes its connections, until it is seen.
_NAMES_RANKS = re.compile(r"missing_ranks=\[\d|\b[Rr]anks? [\d, -]+ failed")
# What differs from rank to rank in what libraries say of a peer: addresses, ports, sizes, spans.
_VARYING = re.compile(r"\[[\d.:a-fA-F]+\](:\d+)?|0x[\da-f]+|\d+")


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


def judge(
    ends: list[RankEnd], world_size: int, partial_skip: PartialSkip = "fail", together: float = TOGETHER
) -> Verdict:
    """The verdict on what ended a phase: at least one end for every rank that was in it.

    Args:
        together: seconds within which failures came together (rule 3).
    """
    exits = [end for end in ends if end.kind == "exit"]
    if exits:
        return Verdict("exit", exits[0])
    failures = _ordered([end for end in ends if end.kind in ("failed", "died", "hung")], together)
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
    sections += _where(
        "failed, and stood here then", [e for e in failures if e.kind == "failed" and e.stacks]
    )
    sections += _where("stood here when stopped", stopped)
    return Verdict("failed", primary, line, sections)


def _also(ends: list[RankEnd], primary: RankEnd) -> tuple[str, str]:
    """A section for a further failure; short where it came from the primary's own line."""
    ranks, report = name_ranks([end.rank for end in ends]), ends[0].report
    if report is None:
        return f"{ranks} failed too", _sentence(ranks, ends[0].text)
    if report.follows:
        return f"{ranks} failed too", f"{report.crash} ({report.place})" if report.place else report.crash
    if primary.report is not None and report.place and report.place == primary.report.place:
        return f"{ranks} failed too, on the same line", report.crash
    return f"{ranks} failed too", report.details.get("text") or report.crash


def _sentence(ranks: str, text: str) -> str:
    return f"{ranks}{text}" if text.startswith(":") else f"{ranks} {text}"


def _where(what: str, ends: list[RankEnd]) -> list[tuple[str, str]]:
    stacks = {end.rank: [cut_harness(stack) for stack in end.stacks] for end in ends}
    return [(f"{name_ranks(ranks)} {what}", stack_text(folded)) for ranks, folded in fold(stacks)]


def _ordered(failures: list[RankEnd], together: float) -> list[RankEnd]:
    """Rules 2 and 3."""
    left = sorted(failures, key=lambda end: (_place(end, failures), end.at, end.rank))
    ordered: list[RankEnd] = []
    while left:
        first = _place(left[0], failures), left[0].at + together
        same = [end for end in left if (_place(end, failures), end.at) <= first]
        ordered += sorted(same, key=lambda end: (end.kind != "died", end.turn, end.rank))
        left = left[len(same) :]
    return ordered


def _place(end: RankEnd, failures: list[RankEnd]) -> int:
    """Its row of causes: own failures, expected ones, followers that name ranks, followers, the hung."""
    if end.kind == "hung":
        return 4
    if not _is_follower(end, failures):
        return int(end.report is not None and end.report.expected)
    assert end.report is not None
    return 2 if _NAMES_RANKS.search(end.report.crash) else 3


def _is_follower(end: RankEnd, failures: list[RankEnd]) -> bool:
    kind = end.report.follows if end.report is not None else ""
    if kind != "connection":
        return kind == "peer"
    return any(
        other.at <= end.at + (_SEEN_LATE if other.kind == "died" else TOGETHER)
        for other in failures
        if other.rank != end.rank and other.kind != "hung" and not (other.report and other.report.follows)
    )


def _same(one: RankEnd, other: RankEnd) -> bool:
    if one.report is None or other.report is None:
        return one.kind == other.kind and one.text == other.text
    first, second = one.report, other.report
    if first.error_type == second.error_type == "DistStoreError":  # Each rank says it in words of its own.
        return first.place == second.place
    return _key(first) == _key(second)


def _key(report: PhaseReport) -> tuple[str, str, str]:
    crash = _VARYING.sub("#", report.crash) if report.follows else report.crash
    return crash, report.place, report.error_type


def _skip_section(skips: list[RankEnd]) -> tuple[str, str]:
    reasons = [f"rank {end.rank}: {end.report.crash if end.report else end.text}" for end in skips]
    return "skipped on some ranks", "\n".join(reasons)
