"""The verdict on a phase, merged from the ends of all ranks.

*Rules.*
1. A pass is N passes.  Other ends decide before it: an exit request, then failures, then skips.
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

from pytest_elastic.report._folding import first_line, fold_alike, value_table
from pytest_elastic.report._outcome import RankEnd
from pytest_elastic.report._stack_text import stack_sections
from pytest_elastic.wording import name_ranks, plural

PartialSkip = Literal["fail", "skip", "pass"]

TOGETHER, FORCED_TOGETHER = 0.02, 0.5  # Seconds.
_SEEN_LATE = 0.5  # Seconds from a death, which closes its connections, until it is seen.
_NAMES_RANKS = re.compile(r"missing_ranks=\[\d|\b[Rr]anks? [\d, -]+ (failed|did not come)")
# Before the name of an exception of this package, or of a private module.
_MODULES = re.compile(r"^(?:\w+\.)*(?:pytest_elastic|_\w+)\.(?:\w+\.)*(?=\w+(?::|\n|$))")


@dataclass(slots=True)
class PhaseVerdict:
    """The outcome of a phase on all ranks.

    Attributes:
        kind: the phase's outcome; `partial` is a skip of some ranks that counts as a failure.
        primary: the end that decides; `None` for a pass.
        alike: the ranks whose failures are the deciding one, that included.
        headline: one line on top of the report.
        summary: the cause, for lists of failures: what counts is its first line.
        sections: (title, text) below it, the least important last.
        duration: seconds that the slowest rank took, 0 where that is not known.
        page: path of the page that shows the run, as people are told it; `""` for none.
    """

    kind: Literal["passed", "skipped", "failed", "exit", "partial"]
    primary: RankEnd | None = None
    headline: str = ""
    summary: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    duration: float = 0.0
    page: str = ""
    alike: tuple[int, ...] = ()


def judge(
    ends: list[RankEnd], world_size: int, partial_skip: PartialSkip = "fail", together: float = TOGETHER
) -> PhaseVerdict:
    """The verdict on a phase, by its ends: at least one for every rank that was in it.

    Args:
        together: seconds within which failures came together (rule 3).
    """
    exits = [end for end in ends if end.kind == "exit"]
    if exits:
        return PhaseVerdict("exit", exits[0])
    failures = by_cause([end for end in ends if end.kind in ("failed", "died", "hung")], together)
    stopped = [end for end in ends if end.kind == "stopped"]
    if failures:
        return failure(failures, stopped, world_size)
    skips = [end for end in ends if end.kind == "skipped"]
    if not skips or (len(skips) < len(ends) and partial_skip == "pass"):
        return PhaseVerdict("passed", sections=[skip_section(skips)] if skips else [])
    if len(skips) == len(ends) or partial_skip == "skip":
        return PhaseVerdict("skipped", skips[0])
    others = [end.rank for end in ends if end.kind != "skipped"]
    line = f"{name_ranks([end.rank for end in skips])} skipped the test and {name_ranks(others)} did not"
    return PhaseVerdict("partial", skips[0], line, line, [skip_section(skips)])


def failure(failures: list[RankEnd], stopped: list[RankEnd], world_size: int) -> PhaseVerdict:
    """The verdict on these failures, the cause first."""
    alike = next(group for group in fold_alike(failures) if failures[0] in group)
    primary = next((end for end in alike if end.report is not None), alike[0])
    others = [end for end in failures if end not in alike]
    count = f"{len({end.rank for end in failures})} of {world_size} ranks failed"
    if primary.report is None:
        line = f"{_sentence(alike, primary.text)} ({count})"
    elif world_size == 1:
        line = ""
    else:
        how = "first" if others else "alike" if len(alike) > 1 else "alone"
        line = f"{count}: {name_ranks(end.rank for end in alike)} {how}"
    if stopped:
        line += f"; {name_ranks(end.rank for end in stopped)} {plural('was stopped', stopped)}"
    sections = further_sections(others, primary)
    if table := value_table(alike):
        sections.insert(0, (f"{name_ranks(end.rank for end in alike)} differ here", table))
    sections += stack_sections("died here", [end for end in failures if end.kind == "died" and end.stacks])
    sections += stack_sections("hung here", [end for end in failures if end.kind == "hung"])
    sections += stack_sections(
        "failed, and stood here then",
        [end for end in (primary, *others) if end.kind == "failed" and end.stacks],
    )
    sections += stack_sections("stood here when stopped", [end for end in stopped if end.stacks])
    summary, ranks = summary_of(primary, alike, world_size), tuple(sorted({end.rank for end in alike}))
    return PhaseVerdict("failed", primary, line, summary, sections, alike=ranks)


def summary_of(primary: RankEnd, alike: list[RankEnd], world_size: int) -> str:
    """A failure for lists: whose it is, and its text without the modules of private names."""
    if primary.report is None:
        return _sentence(alike, primary.text)
    text = _MODULES.sub("", primary.report.crash)
    if world_size == 1:
        return text
    if not value_table(alike):
        return f"{name_ranks(end.rank for end in alike)}: {text}"
    others = [end.rank for end in alike if end is not primary]
    first, newline, rest = text.partition("\n")
    return f"rank {primary.rank}: {first} ({name_ranks(others)} alike){newline}{rest}"


def further_sections(others: list[RankEnd], primary: RankEnd) -> list[tuple[str, str]]:
    """Sections for further failures; those of the primary's own line are short, and together."""
    sections, beside = [], []
    for ends in fold_alike(others):
        own = ends[0].report is not None and not ends[0].report.follows
        if own and primary.report is not None and ends[0].place and ends[0].place == primary.place:
            beside.append(ends)
        else:
            sections.append(further_section(ends))
    if not beside:
        return sections
    ranks = name_ranks(end.rank for ends in beside for end in ends)
    lines = [f"{name_ranks(end.rank for end in ends)}: {told(ends)}" for ends in beside]
    return [(f"{ranks} failed too, on the same line", "\n".join(lines)), *sections]


def further_section(ends: list[RankEnd]) -> tuple[str, str]:
    """A section for a further failure, shared by these ranks."""
    title, report = f"{name_ranks(end.rank for end in ends)} failed too", ends[0].report
    if report is None:
        return title, _sentence(ends, ends[0].text)
    if report.follows:
        return title, f"{report.crash} ({report.place})" if report.place else report.crash
    return title, "\n".join(filter(None, [report.details.get("text") or report.crash, value_table(ends)]))


def told(ends: list[RankEnd]) -> str:
    """What failures that are alike say, in a line, and how they differ."""
    return value_table(ends) or first_line(ends[0])


def _sentence(ends: list[RankEnd], text: str) -> str:
    ranks = {end.rank for end in ends}
    return f"{name_ranks(ranks)}{'' if text.startswith(':') else ' '}{plural(text, ranks)}"


def by_cause(failures: list[RankEnd], together: float) -> list[RankEnd]:
    """Failures in the order of rules 2 and 3."""
    left = sorted(failures, key=lambda end: (cause_row(end, failures), end.at, end.rank))
    ordered: list[RankEnd] = []
    while left:
        first = cause_row(left[0], failures), left[0].at + together
        same = [end for end in left if (cause_row(end, failures), end.at) <= first]
        ordered += sorted(same, key=lambda end: (end.kind != "died", end.turn, end.rank))
        left = left[len(same) :]
    return ordered


def cause_row(end: RankEnd, failures: list[RankEnd]) -> int:
    """The class of a failure: 0 own, 1 expected, 2 followers that name ranks, 3 followers, 4 hung."""
    if end.kind == "hung":
        return 4
    if not is_follower(end, failures):
        return int(end.report is not None and end.report.expected)
    assert end.report is not None
    return 2 if _NAMES_RANKS.search(end.report.crash) else 3


def is_follower(end: RankEnd, failures: list[RankEnd]) -> bool:
    """Whether the failure followed from another one, as far as rule 2 can tell."""
    kind = end.report.follows if end.report is not None else ""
    if kind != "connection":
        return kind == "peer"
    return any(
        other.at <= end.at + (_SEEN_LATE if other.kind == "died" else TOGETHER)
        for other in failures
        if other.rank != end.rank and other.kind != "hung" and not (other.report and other.report.follows)
    )


def skip_section(skips: list[RankEnd]) -> tuple[str, str]:
    reasons = [f"rank {end.rank}: {end.report.crash if end.report else end.text}" for end in skips]
    return "skipped on some ranks", "\n".join(reasons)
