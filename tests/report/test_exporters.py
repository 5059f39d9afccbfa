"""The files of a failed test: which there are, and what an exporter has to do."""

from __future__ import annotations

import json
import math

from report.histories import failed_barrier

from pytest_elastic.report.exporters import EXPORTERS, RunHistory, export


def test_a_hang_leaves_a_file_of_each_exporter(tmp_path):
    """In the order of the table."""
    history = failed_barrier()
    history = RunHistory(
        history.title, 2, history.events, history.stacks, history.diagnosis, "hung", "digraph {}"
    )
    assert [path.name for path in export(history, tmp_path / "files")] == list(EXPORTERS)
    assert (tmp_path / "files" / "hang.dot").read_text() == "digraph {}"


def test_what_did_not_hang_has_no_diagnosis(tmp_path):
    """Events and pictures are there."""
    written = export(RunHistory("t", 1, []), tmp_path)
    assert [path.name for path in written] == ["events.jsonl", "page.html", "trace.json"]


def test_a_new_exporter_is_one_row(tmp_path, monkeypatch):
    """It gets the history and gives the file's contents."""
    monkeypatch.setitem(EXPORTERS, "title.txt", lambda history: history.title.encode())
    export(RunHistory("test_it", 1, []), tmp_path)
    assert (tmp_path / "title.txt").read_text() == "test_it"


def test_a_timeout_that_never_ends_is_null(tmp_path):
    """JSON has no infinite number."""
    said = {"waits": [{"timeout": math.inf}], "remaining": 1.5}
    export(RunHistory("t", 1, [], diagnosis=said), tmp_path)
    assert json.loads((tmp_path / "hang.json").read_text()) == {
        "waits": [{"timeout": None}],
        "remaining": 1.5,
    }


def test_a_place_that_cannot_be_written_is_passed_over(tmp_path):
    """The failure itself is what matters."""
    (tmp_path / "file").write_text("")
    assert export(RunHistory("t", 1, []), tmp_path / "file") == []
