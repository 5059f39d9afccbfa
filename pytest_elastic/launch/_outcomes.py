"""Outcomes: how a phase ended on each rank, from what the group answered and what the rank left to be read.

A rank failed of a wait if a time-out of a store is its failure, or in the chain of it (cause or context): so
also where it was told in other words, or where a `finally` failed besides.  An assertion is about what the
test expects, whatever it was made in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_elastic.events import BarrierJoined, Event, StoreCalled, WaitBegan
from pytest_elastic.launch._group_plan import Answers
from pytest_elastic.launch._hang_report import give_up
from pytest_elastic.launch._timers import describe_expiry
from pytest_elastic.pristine import json
from pytest_elastic.report import PhaseReport, RankEnd, fair_limit
from pytest_elastic.wording import exit_text, name_ranks

if TYPE_CHECKING:
    from pytest_elastic.launch._ranks import RankGroup
    from pytest_elastic.multiprocessing.errors import ProcessFailure


_LOG_LINES = 40  # That a report shows of what a rank wrote; of many ranks in all, and twice that of `_FEW`.
_FEW = 8  # Ranks.
_CALLS = 8  # The innermost, of a rank that is late.
_TIMEOUT = re.compile(r"DistStoreError|[Tt]imed? ?out")  # Also as C++ tells of an error of ours.


def why_not_started(group: RankGroup, answers: Answers, missing: int, limit: float) -> str:
    """Why ranks have not come up, as far as is known; `missing` is the first that has not."""
    plan, codes = group.plan, {rank: end.exitcode for rank, end in answers.exits.items()}
    how = f"; start method {plan.how}" if plan.how else ""
    first = next(iter(codes), missing)
    if codes:
        said = f"exit codes {codes}{how}"
    else:
        early = limit < plan.start_timeout
        again = f" of {plan.start_timeout:g} s, since the one before was late" if early else ""
        said = f"not ready after {limit:g} s{again}{how}; the ini elastic_start_timeout allows more"
        stacks = group.stacks([first])[first]
        if calls := [call for stack in stacks if stack.current for call in stack.frames]:
            shown = "\n".join(f"  {call}" for call in calls[-_CALLS:])  # pytest's, too: it is on its way.
            said += f"; rank {first} stood here:\n{shown}\n"
    text = group.logs[first].tail()
    ends = f"ends:\n{text}" if text else "is empty"
    return f"{said}; the log of rank {first} {ends}"


def ends_of(answers: Answers, group: RankGroup, expect: Mapping[int, int], limit: str) -> list[RankEnd]:
    """How a phase ended on each rank; asks silent ranks for their stacks.

    Args:
        expect: rank -> exit code with which it is to die; such an end is a pass.
        limit: the deadline in words.
    """
    ends = [_reported(report) for report in answers.replies.values()]
    for rank, exited in answers.exits.items():
        at = answers.raised[rank].at if rank in answers.raised else exited.at
        if group.group.lost:
            text = "died with the guardian of their group, which was killed"
            ends.append(RankEnd(rank, "died", at, text))
        elif exited.lost:
            ends.append(RankEnd(rank, "died", at, exited.lost))
        elif expect.get(rank) == exited.exitcode:
            ends.append(RankEnd(rank, "passed", exited.at))
        elif rank in group.timers.expiries:
            expiry = group.timers.expiries[rank]
            text, stood = f": {describe_expiry(expiry)}", group.timers.stood.get(rank, [])
            ends.append(RankEnd(rank, "died", expiry.deadline, text, stacks=stood))
        else:
            last = group.core.stacks.last(rank)
            how = f"{exit_text(exited.exitcode)} without a report"
            ends.append(RankEnd(rank, "died", at, how, stacks=last))
    if answers.expired:
        give_up(group, answers.silent)
    look = group.stacks_in_c if answers.expired else group.stacks
    stacks = look(answers.silent) if answers.silent else {}
    for rank in answers.silent:
        if rank in answers.raised:
            raised = answers.raised[rank]
            said = raised.crash or raised.error_type
            text = f"failed ({said} at {raised.place}) and did not say more in time"
            end = RankEnd(rank, "failed", raised.at, text, stacks=stacks[rank])
            end.place, end.error_type, end.crash = raised.place, raised.error_type, raised.crash
            ends.append(end)
        elif answers.expired:
            text = group.detector.endless or f"did not finish within {limit}"
            ends.append(RankEnd(rank, "hung", math.inf, text, stacks=stacks[rank]))
        else:
            ends.append(RankEnd(rank, "stopped", math.inf, stacks=stacks[rank]))
    if any(end.kind in ("failed", "died", "hung") for end in ends):
        # Now, while the ranks that are silent stand where they stood: the next thing is their end.
        _number(ends, group.known(stacks).events)
    return sorted(ends, key=lambda end: end.rank)


def ends_of_functions(
    group: RankGroup, failures: Mapping[int, ProcessFailure], stopped: Iterable[int]
) -> list[RankEnd]:
    """How functions ended on the ranks that failed, and on those that were stopped for it."""
    reports, ends = group.reports(), []
    for rank, failure in failures.items():
        exited = group.group.exits.get(rank)
        at = math.inf if exited is None else exited.at
        if rank in group.timers.expiries:
            expiry = group.timers.expiries[rank]
            stood = group.timers.stood.get(rank, [])
            ends.append(RankEnd(rank, "died", expiry.deadline, f": {describe_expiry(expiry)}", stacks=stood))
        elif rank in reports:
            ends.append(_reported(reports[rank]))
        elif failure.exitcode == 0 or exited is None or exited.lost:
            ends.append(RankEnd(rank, "died", at, str(failure.message).removeprefix(f"rank {rank} ")))
        else:
            last = group.core.stacks.last(rank)
            ends.append(
                RankEnd(rank, "died", at, f"{exit_text(failure.exitcode)} without a report", stacks=last)
            )
    _number(ends, group.known().events)
    return ends + [RankEnd(rank, "stopped", math.inf) for rank in stopped]


def _number(ends: list[RankEnd], events: Iterable[Event]) -> None:
    """Give ranks their turns, so that the order of those that failed together is the store's."""
    turns = {
        event.rank: turn
        for turn, event in enumerate(events)
        if isinstance(event, StoreCalled | BarrierJoined | WaitBegan)
    }
    for end in ends:
        end.turn = turns.get(end.rank, -1)


def expected_but_alive(ends: list[RankEnd], expect: Mapping[int, int]) -> list[RankEnd]:
    """The ends of ranks that were to die and have passed instead, as failures."""
    judged = []
    for end in ends:
        if end.rank in expect and end.report is not None and end.kind == "passed":
            text = f"passed, but it was expected to be one that {exit_text(expect[end.rank])}"
            end = RankEnd(end.rank, "died", math.inf, text)
        judged.append(end)
    return judged


def _reported(report: PhaseReport) -> RankEnd:
    return RankEnd(report.rank, report.outcome, report.at, report.crash, report)


def unclean_ends(group: RankGroup, ranks: list[int], late: list[int]) -> list[RankEnd]:
    """Ranks that reported everything and then did not end as they should, as failures."""
    ends = []
    stacks = group.stacks(late) if late else {}
    for rank in late:
        text = "did not exit after the test (a thread or an atexit callback that does not end?)"
        ends.append(RankEnd(rank, "hung", math.inf, text, stacks=stacks[rank]))
    for rank in ranks:
        exited = group.group.exits.get(rank)
        if exited is not None and exited.exitcode != 0:
            text = f"{exited.lost or exit_text(exited.exitcode)} after the last report"
            ends.append(RankEnd(rank, "died", exited.at, text))
    return ends


def leak_text(group: RankGroup) -> str:
    """The processes that the ranks left behind, one line each; `""` for none."""
    ended = group.group.ended
    lines = []
    for leak in ended.leaks if ended else ():
        owner = "a rank" if leak.rank is None else name_ranks([leak.rank])
        lines.append(f"{owner} left a process behind: pid {leak.pid} `{leak.command}` (killed)")
    return "\n".join(lines)


def log_sections(
    group: RankGroup, starts: dict[str, int], reports: list[Any], first: int | None = None
) -> list[tuple[str, str]]:
    """What the ranks wrote since `starts` (path -> offset), and what they logged: (section, text).

    Ranks that wrote the same share a section.  Of what is too long together, long ones show their end; what
    does not fit then is named with its files.

    Args:
        first: the rank that comes first, `None` for the order of ranks.
    """
    # A function's error is at the end of its rank's log, and in the report.
    printed = {report.rank: report.details.get("printed", "") for report in reports}
    written: list[tuple[int, str, Written]] = []
    for rank in group.directories:
        for stream, paths in (("stdout", group.stdouts), ("stderr", group.stderrs)):
            written.append(
                (rank, stream, _read_end(paths[rank], starts.get(paths[rank], 0), printed.get(rank, "")))
            )
    for report in reports:
        for name, text in report.data.get("sections", ()):
            lines = tuple(text.splitlines())
            written.append(
                (
                    report.rank,
                    name.removeprefix("Captured ").removesuffix(f" {report.when}"),
                    Written(lines[-_LOG_LINES:], len(lines) > _LOG_LINES),
                )
            )
    folded: dict[tuple[str, Written], list[int]] = {}
    for rank, name, text in sorted(written, key=lambda one: one[0] != first):
        if text.lines:
            folded.setdefault((name, text), []).append(rank)
    room = _LOG_LINES * (1 + (group.nprocs <= _FEW))
    limit = fair_limit([len(text.lines) + 2 for _, text in folded], room, 6) - 2
    sections: list[tuple[str, str]] = []
    for number, ((name, text), ranks) in enumerate(folded.items()):
        room -= min(len(text.lines), limit) + 2
        if room < 0 and number:
            left = {rank for ranks in list(folded.values())[number:] for rank in ranks}
            where = group.plan.directory / "rank*"
            return [*sections, (f"output [{name_ranks(left)}]", f"(whole files: {where}/*.log)")]
        path = {"stdout": group.stdouts, "stderr": group.stderrs}.get(name, {}).get(min(ranks), "")
        sections.append((f"{name} [{name_ranks(ranks)}]", text.end(limit, path)))
    return sections


@dataclass(frozen=True, slots=True)
class Written:
    """The end of what a rank wrote.

    Attributes:
        lines: the last ones.
        longer: whether there were more before them.
    """

    lines: tuple[str, ...]
    longer: bool = False

    def end(self, most: int, path: str) -> str:
        """The last lines, `most` of them, and where the whole is."""
        more = "the end of it; " if self.longer or len(self.lines) > most else ""
        said = f"({more}whole file: {path})" if path else f"({more.removesuffix('; ')})" if more else ""
        return "\n".join(filter(None, ["\n".join(self.lines[-most:]), said]))


def _read_end(path: str, start: int, but: str) -> Written:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            # 64 KiB hold the last lines of anything that people read; a flood is not loaded.
            file.seek(max(start, size - 65536))
            data = file.read()
    except FileNotFoundError:
        return Written(())
    lines = data.decode("utf-8", "replace").removesuffix(but).splitlines()
    return Written(tuple(lines[-_LOG_LINES:]), len(lines) > _LOG_LINES or size - start > 65536)


def of_timeout(error: BaseException) -> bool:
    """Whether an exception is, or came of, a time-out."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(error, AssertionError):
        names = " ".join(kind.__name__ for kind in type(seen).__mro__)
        text = ""
        with suppress(Exception):  # Its text is the rank's own.
            text = str(seen)
        inner = seen.exceptions if isinstance(seen, BaseExceptionGroup) else ()
        if _TIMEOUT.search(f"{names} {text}") or any(map(of_timeout, inner)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def of_timeout_in(error_file: Path) -> bool | None:
    """The same for an exception that a rank's function has recorded; `None` where there is none."""
    try:
        trace = json.loads(error_file.read_text("utf-8"))["message"]["extraInfo"]["py_callstack"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    said = re.findall(r"^(?:[ +|]*\| )?([A-Za-z_][\w.]*(?:: .*)?)$", trace, re.MULTILINE)
    if not said:
        return None
    return not said[-1].startswith("AssertionError") and any(map(_TIMEOUT.search, said))
