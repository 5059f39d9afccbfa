"""What a failed test is told about its hang: the merged report, files of it, and properties for junit.

The files are written beside the ranks' logs and, where the run asks for it, in a directory of its own:
`hang.json` and `hang.dot` (the diagnosis), `events.jsonl` (what happened), `page.html` and `trace.json` (the
same to look at, the latter in Perfetto).
"""

from __future__ import annotations

import math
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import Event, RankStood
from pytest_elastic.hang import (
    Diagnosis,
    Stack,
    StalePrefix,
    consequence,
    report_dot,
    report_json,
    report_text,
)
from pytest_elastic.processes import stand
from pytest_elastic.report import PhaseVerdict, RankEnd, shorten

if TYPE_CHECKING:
    from pytest_elastic.launch._ranks import RankGroup

Stacks = Mapping[int, Sequence[Stack]]

RECORDING, REPORT = "recording.jsonl", "report.txt"
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
        if self.diagnosis is not None:
            return [("who waits for whom", report_text(self.diagnosis, self.stacks))]
        return [("seen besides", str(self.stale))] if self.stale is not None else []

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
    pids = group.pids()
    stood = stand([pids[rank] for rank in ranks], {pid: f"rank {rank}" for rank, pid in pids.items()})
    now = SYSTEM_CLOCK.monotonic()
    group.give_up([RankStood(now, rank, *found) for rank, found in zip(ranks, stood, strict=True)])


def explain(
    verdict: PhaseVerdict,
    group: RankGroup,
    ends: Sequence[RankEnd],
    title: str,
    artifacts: Path | None,
    base: Path = Path(),
) -> list[tuple[str, object]]:
    """Put what is known of a hang on top of a failed phase's verdict, and write it to files.

    Args:
        title: the test's id.
        artifacts: a directory for all tests' files, where there shall be such; those of this test are in one
            of its own.
        base: paths are shown from here, if they are below it.

    Returns:
        Properties for the test's report.
    """
    if verdict.kind in _ANSWERED:
        return []
    places = (
        [group.plan.directory] if artifacts is None else [group.plan.directory, artifacts / name_of(title)]
    )
    told, group.explained = group.explained, True
    properties = [] if told else _explain(verdict, group, ends, title, places, base)
    if artifacts is not None:
        _hide(artifacts)
    if (
        cut := shorten(verdict.sections, _LINES, str(shorter(places[-1] / REPORT, base)))
    ) != verdict.sections:
        whole = "".join(f"--- {name} ---\n{text}\n\n" for name, text in verdict.sections)
        with suppress(OSError), open(places[-1] / REPORT, "a" if told else "w", encoding="utf-8") as file:
            file.write(whole)
            verdict.sections = cut
    return properties


def _explain(
    verdict: PhaseVerdict,
    group: RankGroup,
    ends: Sequence[RankEnd],
    title: str,
    places: Sequence[Path],
    base: Path,
) -> list[tuple[str, object]]:
    findings = find(group, ends)
    sections, verdict.summary = findings.sections(), findings.summary(verdict)
    written: list[Path] = []
    for place in places:  # A long run takes seconds to draw: once is enough.
        written = _copy(written, place) or _write(findings, place, title, verdict.kind) or written
    if sections and written:
        name, text = sections[0]
        sections[0] = (name, f"{text}\n  (files: {shorter(written[-1].parent, base)})")
    verdict.sections[:0] = sections
    hung = [end.stacks for end in ends if end.kind == "hung"]
    if hung and (lost := lost_words(group, hung)):
        verdict.sections.append(("lost by the fork", lost))
    return findings.properties(verdict)


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


def forget(title: str, artifacts: Path) -> None:
    """Remove the files of an earlier failure of this test; whatever else is there stays."""
    own = artifacts / name_of(title)
    if not own.is_dir():
        return
    from pytest_elastic.report.exporters import EXPORTERS  # Only now: few tests have failed before.

    with suppress(OSError):
        for name in (*EXPORTERS, RECORDING, REPORT):
            (own / name).unlink(missing_ok=True)
        own.rmdir()


def shorter(path: Path, base: Path) -> Path:
    """The path from there, if it is below."""
    return path.relative_to(base) if path.is_relative_to(base) else path


def _hide(directory: Path) -> None:
    """Let git pass the directory over, as pytest does with its cache."""
    with suppress(OSError):
        if not (directory / ".gitignore").exists():
            (directory / ".gitignore").write_text("*\n", "utf-8")


def annotate(error: BaseException, group: RankGroup, ranks: Sequence[int], title: str) -> BaseException:
    """Note on an error what is known of a hang of these failed ranks; the error."""
    findings = find(group, [RankEnd(rank, "hung", math.inf) for rank in ranks])
    for _, text in findings.sections():
        error.add_note(f"\n{text}")
    _write(findings, group.plan.directory, title, "failed")
    return error


def name_of(title: str) -> str:
    """A directory's name for a test: readable, and another one for another test."""
    words = re.sub(r"[^\w.=-]+", "-", title).strip("-")[-80:]
    return f"{words}-{zlib.crc32(title.encode('utf-8', 'surrogatepass')):08x}"


def _write(findings: Findings, directory: Path, title: str, outcome: str) -> list[Path]:
    from pytest_elastic.report.exporters import RunHistory, export  # Only now: most runs export nothing.

    diagnosis, stacks = findings.diagnosis, findings.stacks
    said, graph = None, ""
    if diagnosis is not None:
        said = {**report_json(diagnosis, stacks), "text": report_text(diagnosis, stacks)}
        graph = report_dot(diagnosis, stacks)
    return export(
        RunHistory(title, findings.nprocs, findings.events, stacks, said, outcome, graph), directory
    )


def _copy(files: Sequence[Path], directory: Path) -> list[Path]:
    """The same files in another directory; none if that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return [shutil.copyfile(path, directory / path.name) for path in files]
    except OSError:
        return []
