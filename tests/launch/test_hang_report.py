"""What is told of a hang, to whom, and in which files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_elastic.events import ClientLeft, Event, PhaseBegan, WaitBegan, WaitEnded, load
from pytest_elastic.hang import Deadlock, Diagnosis, MissingRank, Snapshot, StalePrefix, WaitSeen
from pytest_elastic.launch import Artifacts, Plan
from pytest_elastic.launch._hang_detector import Known
from pytest_elastic.launch._hang_report import Findings, explain, find
from pytest_elastic.report import PhaseVerdict, RankEnd
from pytest_elastic.report.exporters import EXPORTERS, RunHistory

WAIT = WaitSeen(0, 7, "wait", ("a",), ("a",), 0.0, 300.0, "", True)
HANG = MissingRank((1,), ("b",), "rank 1 passed", elapsed=0.001, snapshot=Snapshot(2, (WAIT,)))
FAILED, HUNG = RankEnd(0, "failed", 1.0, "boom"), RankEnd(0, "hung", math.inf, "did not finish")


def group(directory: Path, diagnosis: Diagnosis | None, stale: StalePrefix | None = None) -> Any:
    """As far as it is looked at."""
    events = (PhaseBegan(1.0, 0, "call"), ClientLeft(1.5, 0, 7))
    known = Known(diagnosis, {}, events, 0, stale)
    plan = Plan(2, directory / "logs")
    return SimpleNamespace(known=lambda stacks: known, explained=False, nprocs=2, plan=plan, lines=list)


def test_a_failed_phase_is_explained_once(tmp_path: Path) -> None:
    """First of its sections, with properties; the next phase of the test does not repeat it."""
    one, verdict = group(tmp_path, HANG), PhaseVerdict("failed", FAILED, sections=[("other", "text")])
    properties = explain(verdict, one, [FAILED], Artifacts("test_x.py::test_it", None))
    assert [title for title, _ in verdict.sections] == ["who waits for whom", "other"]
    assert verdict.sections[0][1].startswith("HANG  1 of 2 ranks can never go on (known 1.0 ms")
    assert verdict.page == str(tmp_path / "logs" / "page.html")
    assert properties == [
        ("elastic.nprocs", 2),
        ("elastic.first_failed_rank", 0),
        ("elastic.verdict", "MissingRank: rank 1 passed"),
    ]
    again = PhaseVerdict("failed", FAILED)
    assert (explain(again, one, [FAILED], Artifacts("test_x.py::test_it", None)), again.sections) == ([], [])


def test_a_pass_is_not_explained(tmp_path: Path) -> None:
    """Whatever was found on the way."""
    verdict = PhaseVerdict("passed")
    assert explain(verdict, group(tmp_path, HANG), [], Artifacts("test_it", tmp_path / "artifacts")) == []
    assert (verdict.sections, list(tmp_path.iterdir())) == ([], [])


def test_a_failure_of_others_is_no_hang(tmp_path: Path) -> None:
    """Those who hung have dealt with it."""
    assert find(group(tmp_path, HANG), [RankEnd(1, "failed", 1.0)]).diagnosis is None
    assert find(group(tmp_path, HANG), [FAILED]).diagnosis is HANG


def test_files_are_beside_the_logs_and_where_they_are_asked_for(tmp_path: Path) -> None:
    """All of them, in a directory of the test's own."""
    title = "sub/test_x.py::test_it[a/b nprocs2]"
    explain(
        PhaseVerdict("failed", FAILED), group(tmp_path, HANG), [FAILED], Artifacts(title, tmp_path / "all")
    )
    (own,) = (tmp_path / "all").glob("sub*")
    assert (tmp_path / "all" / ".gitignore").read_text() == "*\n"
    assert own.name.startswith("sub-test_x.py-test_it-a-b-nprocs2-")
    for directory in (own, tmp_path / "logs"):
        names = {path.name for path in directory.iterdir()}
        assert names >= {"events.jsonl", "hang.json", "hang.dot", "page.html", "trace.json"}
    assert load((own / "events.jsonl").read_text().splitlines()[0]) == PhaseBegan(1.0, 0, "call")
    assert json.loads((own / "hang.json").read_text())["verdict"] == "MissingRank"


def test_a_timeout_that_never_comes_is_written(tmp_path: Path) -> None:
    """As JSON that every reader takes."""
    endless = Deadlock((0,), ("a",), "for ever", remaining=math.inf)
    explain(PhaseVerdict("failed", FAILED), group(tmp_path, endless), [FAILED], Artifacts("test_it", None))
    text = (tmp_path / "logs" / "hang.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["remaining"] is None


def test_a_directory_that_cannot_be_made_hides_nothing(tmp_path: Path) -> None:
    """The failure is told of all the same."""
    (tmp_path / "logs").write_text("a file")
    verdict = PhaseVerdict("failed", FAILED)
    assert explain(verdict, group(tmp_path, HANG), [FAILED], Artifacts("test_it", None))
    assert verdict.page == ""


def test_a_barrier_called_too_often_is_mentioned(tmp_path: Path) -> None:
    """Where nobody hung."""
    stale = StalePrefix((0,), ("again",), "rank 0 called barrier again")
    verdict = PhaseVerdict("failed", FAILED)
    properties = explain(verdict, group(tmp_path, None, stale), [FAILED], Artifacts("test_it", None))
    assert verdict.sections == [("seen besides", "StalePrefix: rank 0 called barrier again")]
    assert ("elastic.verdict", str(stale)) in properties
    assert not (tmp_path / "logs" / "hang.json").exists()


def test_a_jump_of_the_clock_is_explained(tmp_path: Path) -> None:
    """Once, of the first wait; a short one needs no word."""

    def wait(client: int, timeout: float, key: str, name: str = "wait") -> WaitBegan:
        return WaitBegan(1.0, 0, client, name, (key,), (key,), timeout)

    def said(*events: Event) -> list[tuple[str, str]]:
        return Findings(2, None, {}, events).sections()

    ended = [WaitEnded(2.0, 0, client, "jumped") for client in (1, 2)]
    assert said(wait(1, 300, "a"), ended[0], wait(2, 5, "b"), ended[1]) == [
        (
            "seen besides",
            '  (the store\'s clock jumped 300 s: nobody could set "a"; --elastic-clock=real waits)',
        )
    ]
    assert (
        "nobody could come any more;" in said(wait(1, 300, "world/barrier/x/1/last_member"), ended[0])[0][1]
    )
    assert "nobody could come any more;" in said(wait(1, 300, "w", "meet"), ended[0])[0][1]
    assert said(wait(1, 0.5, "a"), ended[0]) == []
    assert said(wait(1, 300, "a"), WaitEnded(2.0, 0, 1, "timed out")) == []
    both = Findings(2, HANG, {}, (wait(1, 300, "a"), ended[0])).sections()
    assert both[0][1].splitlines()[-1].startswith("  (the store's clock jumped 300 s")
    assert len(both) == 1


def test_a_run_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all directories; an exporter gets the whole history."""
    seen = []

    def draw(history: RunHistory) -> bytes:
        seen.append(history)
        return b"drawn"

    monkeypatch.setitem(EXPORTERS, "page.html", draw)
    explain(
        PhaseVerdict("failed", FAILED),
        group(tmp_path, HANG),
        [FAILED],
        Artifacts("test_it", tmp_path / "all"),
    )
    (history,) = seen
    assert (history.title, history.nprocs, history.diagnosis["verdict"]) == ("test_it", 2, "MissingRank")
    assert (tmp_path / "logs" / "page.html").read_text() == "drawn"
    assert [file.read_text() for file in (tmp_path / "all").glob("*/page.html")] == ["drawn"]


def test_one_directory_that_cannot_be_made_leaves_the_other(tmp_path: Path) -> None:
    """Whichever it is."""
    for hindered in ("logs", "all"):
        place = tmp_path / hindered
        place.mkdir()
        (place / hindered).write_text("a file")
        one = group(place, HANG)
        explain(PhaseVerdict("failed", FAILED), one, [FAILED], Artifacts("test_it", place / "all"))
        assert len(list(place.glob("**/page.html"))) == 1
