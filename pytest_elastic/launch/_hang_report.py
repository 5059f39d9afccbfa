"""What a failed test is told about its hang: the merged report, files of it, and properties for junit.

The files are written beside the ranks' logs and, where the run asks for it, in a directory of its own:
`hang.json` and `hang.dot` (the diagnosis), `events.jsonl` (what happened), `page.html` and `trace.json` (the
same to look at, the latter in Perfetto).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import Event, RankStood, WaitBegan, WaitEnded
from pytest_elastic.hang import (
    Diagnosis,
    Stack,
    StalePrefix,
    consequence,
    key_names,
    report_dot,
    report_json,
    report_text,
)
from pytest_elastic.launch._artifacts import PAGE, REPORT, Artifacts
from pytest_elastic.report import PhaseVerdict, RankEnd, shorten

if TYPE_CHECKING:
    from pytest_elastic.launch._ranks import RankGroup

Stacks = Mapping[int, Sequence[Stack]]

_NOTICED = 1.0  # Seconds by which a clock may jump without a word.
_LINES = 50  # Of a report's sections; the rest is in a file.
_PACKAGE = str(Path(__file__).parent.parent)
_ANSWERED = ("passed", "skipped")
_OF_HANG = ("CollectiveMismatch", "CollectiveTimeout")  # Told whole by the verdict on the hang.


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is to say besides the failures.

    Attributes:
        diagnosis: why the ranks hung; `None` where they did not.
        stacks: where they stood.
        events: what happened, oldest first.
        stale: a barrier that was called too often, whether or not anybody hung.
    """

    nprocs: int
    diagnosis: Diagnosis | None
    stacks: Stacks
    events: Sequence[Event]
    stale: StalePrefix | None = None

    def sections(self) -> list[tuple[str, str]]:
        """(title, text) to be shown first."""
        jump = jump_text(self.events)
        if self.diagnosis is not None:
            text = report_text(self.diagnosis, self.stacks)
            return [("who waits for whom", "\n".join(filter(None, [text, jump])))]
        besides = "\n".join(filter(None, [str(self.stale) if self.stale is not None else "", jump]))
        return [("seen besides", besides)] if besides else []

    def summary(self, verdict: PhaseVerdict) -> str:
        """The cause for lists of failures: the hang's, or the first failure and what never happens for it."""
        primary = verdict.primary
        if self.diagnosis is None or primary is None:
            return verdict.summary
        report = primary.report
        if primary.kind == "hung" or (report and (report.follows or report.error_type in _OF_HANG)):
            return self.diagnosis.cause
        missed = consequence(self.diagnosis, primary.rank)
        first, newline, rest = verdict.summary.partition("\n")
        return f"{first} ({missed}){newline}{rest}" if missed else verdict.summary

    def properties(self, verdict: PhaseVerdict) -> list[tuple[str, object]]:
        """For the report of the test, `elastic.*`."""
        found: list[tuple[str, object]] = [("elastic.nprocs", self.nprocs)]
        if verdict.primary is not None:
            found.append(("elastic.first_failed_rank", verdict.primary.rank))
        named = self.diagnosis or self.stale
        if named is not None:
            found.append(("elastic.verdict", str(named)))
        return found


def jump_text(events: Sequence[Event]) -> str:
    """Why a long timeout was over at once: of the first wait that the store's clock ended; `""` for none."""
    waits, jumped = dict[tuple[int | None, int], WaitBegan](), list[WaitBegan]()
    for event in events:
        if isinstance(event, WaitBegan):
            waits[event.rank, event.client] = event
        elif isinstance(event, WaitEnded) and event.how == "jumped" and (event.rank, event.client) in waits:
            jumped.append(waits[event.rank, event.client])
    if not jumped or jumped[0].timeout < _NOTICED:
        return ""
    keys = key_names(jumped[0].missing, 1)
    why = f"set {keys}" if keys.startswith('"') and jumped[0].name != "meet" else "come any more"
    return (
        f"  (the store's clock jumped {jumped[0].timeout:g} s: nobody could {why};"
        " --elastic-clock=real waits)"
    )


def find(group: RankGroup, ends: Sequence[RankEnd]) -> Findings:
    """What the group's hang detector knows of a phase that ended so, and failed."""
    stacks = {end.rank: end.stacks for end in ends if end.stacks}
    known = group.known(stacks)
    diagnosis = known.diagnosis
    failed = {end.rank for end in ends if end.kind not in _ANSWERED}
    about = diagnosis.concerned if diagnosis is not None else ()
    if about and not failed.intersection(about):
        diagnosis = None  # All who hung have dealt with it: the failure is another matter.
    return Findings(group.nprocs, diagnosis, stacks | known.stacks, known.events, known.stale)


def give_up(group: RankGroup, ranks: Sequence[int]) -> None:
    """Tell the hang detector where ranks stand that did not finish; blocks for a moment, to see who computes.

    This comes before their stacks are asked for: the signal for that lets some go on, as from a full pipe.
    """
    stood = group.plan.machines.stand(group.pids(), ranks)
    now = SYSTEM_CLOCK.monotonic()
    group.give_up([RankStood(now, rank, *found) for rank, found in stood.items()])


def explain(
    verdict: PhaseVerdict,
    group: RankGroup,
    ends: Sequence[RankEnd],
    artifacts: Artifacts,
    findings: Findings | None = None,
) -> list[tuple[str, object]]:
    """Put what is known of a hang on top of a failed phase's verdict, and write it to files.

    Args:
        artifacts: where they are written, besides the ranks' own directory.
        findings: what was found when the ranks stood there, if that is past.

    Returns:
        Properties for the test's report.
    """
    if verdict.kind in _ANSWERED:
        return []
    told, group.explained = group.explained, True
    properties: list[tuple[str, object]] = []
    if not told:
        findings = findings or find(group, ends)
        verdict.sections[:0], verdict.summary = findings.sections(), findings.summary(verdict)
        hung = [end.stacks for end in ends if end.kind == "hung"]
        if hung and (lost := lost_words(group, hung)):
            verdict.sections.append(("lost by the fork", lost))
        if artifacts.traced:
            verdict.page = trace(findings, group, artifacts, verdict)
        properties = findings.properties(verdict)
    verdict.sections = [(title, artifacts.with_short_places(text)) for title, text in verdict.sections]
    place = artifacts.own or group.plan.directory
    cut = shorten(verdict.sections, _LINES, artifacts.shown(place / REPORT))
    if cut != verdict.sections:
        whole = "".join(f"--- {name} ---\n{text}\n\n" for name, text in verdict.sections)
        with suppress(OSError), open(place / REPORT, "a" if told else "w", encoding="utf-8") as file:
            file.write(whole)
            verdict.sections = cut
    artifacts.note(verdict.summary.partition("\n")[0])
    return properties


def trace(
    findings: Findings, group: RankGroup, artifacts: Artifacts, verdict: PhaseVerdict, failed: bool = True
) -> str:
    """Write the files of a run, into the ranks' directory and the test's own; the page's path, or `""`."""
    from pytest_elastic.report.exporters import Failure, RunHistory, export  # Only now: most export nothing.

    diagnosis, stacks, primary = findings.diagnosis, findings.stacks, verdict.primary
    said, graph = None, ""
    if diagnosis is not None:
        said = {**report_json(diagnosis, stacks), "text": report_text(diagnosis, stacks)}
        graph = report_dot(diagnosis, stacks)
    told = (
        primary.report.details.get("text", "") if primary is not None and primary.report is not None else ""
    )
    sections = [one for one in verdict.sections if one not in findings.sections()]
    history = RunHistory(
        artifacts.title,
        findings.nprocs,
        sorted([*findings.events, *group.lines()], key=lambda event: event.at),
        stacks,
        said,
        verdict.kind,
        graph,
        Failure(culprits(verdict, diagnosis), verdict.headline, verdict.summary, told, sections)
        if failed
        else None,
        artifacts.replay() if failed else "",
        group.plan.described(),
        str(artifacts.base.absolute()),
    )
    written: list[Path] = []
    for place in filter(None, [group.plan.directory, artifacts.own]):
        # A long run takes seconds to draw: once is enough.
        written = _copy(written, place) or export(history, place) or written
    return next((artifacts.shown(path) for path in written if path.name == PAGE), "")


def culprits(verdict: PhaseVerdict, diagnosis: Diagnosis | None) -> tuple[int, ...]:
    """Whom to look at first: those with a failure of their own, else those that the hang's verdict names."""
    primary = verdict.primary
    report = primary.report if primary is not None else None
    follows = report is not None and (report.follows or report.error_type in _OF_HANG)
    if diagnosis is not None and primary is not None and (primary.kind == "hung" or follows):
        return diagnosis.culprits
    return verdict.alike


def keep_trace(verdict: PhaseVerdict, group: RankGroup, artifacts: Artifacts) -> None:
    """Write the files of a run that has passed; the verdict says where."""
    verdict.page = trace(find(group, []), group, artifacts, verdict, failed=False)


def lost_words(group: RankGroup, hung: Iterable[Sequence[Stack]]) -> str:
    """What a fork has lost that may have had one of these ranks hang, and the way out; `""` for nothing.

    A rank that stands in the store waits for others, and in no lock of a library.
    """
    places = [stack.frames[-1].file for stacks in hung for stack in stacks if stack.current and stack.frames]
    if not group.plan.lost or (places and all(place.startswith(_PACKAGE) for place in places)):
        return ""
    return (
        f"  {group.plan.lost}: a rank that waits for them does so for ever;"
        " fresh interpreters do not: --elastic-start-method=spawn"
    )


def _copy(files: Sequence[Path], directory: Path) -> list[Path]:
    """The same files in another directory; none if that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return [shutil.copyfile(path, directory / path.name) for path in files]
    except OSError:
        return []
