"""The page as a file: nothing outside it, everything in it, never too big, and silent about nothing."""

from __future__ import annotations

import json
import math
import re

import pytest
from report.histories import failed_barrier

from pytest_elastic.events import LineWritten, RankStarted, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.hang import Frame, Stack
from pytest_elastic.report.exporters import EXPORTERS, RunHistory

MOST = 10_000_000
HOSTILE = "</script><!--<script>\u2028\u2029\x00\udc80 & ü"


@pytest.fixture
def page(tmp_path):
    """Write a history as a page and give its text."""

    def write(history):
        (tmp_path / "page.html").write_bytes(EXPORTERS["page.html"](history))
        size = (tmp_path / "page.html").stat().st_size
        assert size < MOST
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return write


def data_of(text):
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def lines_of(data, rank):
    return [row[3] for row in data["lines"] if row[1] == rank]


def test_nothing_is_fetched(page):
    """The page forbids itself the network, and names no file and no address but SVG's."""
    text = page(failed_barrier())
    assert "default-src 'none'" in text
    assert not re.findall(r"<script[^>]*\ssrc|<link[^>]*href=\"(?!data:)|@import|\bimport\s*\(|fetch\(", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_nothing_is_left_to_fill(page):
    """Each place of the skeleton has its content."""
    text = page(failed_barrier())
    assert not re.findall(r"<!-- \w+ -->|/\* \w+ \*/", text)


@pytest.mark.parametrize("where", ["line", "key", "title", "diagnosis"])
def test_what_ranks_wrote_stays_data(page, where):
    """No text ends the page's script; it comes back as it was."""
    events = [LineWritten(1.0, 0, "stdout", HOSTILE), StoreCalled(2.0, 0, 0, "set", (HOSTILE,))]
    said = {"verdict": HOSTILE, "cause": HOSTILE, "text": HOSTILE}
    text = page(RunHistory(HOSTILE, 1, events, diagnosis=said))
    data = data_of(text)
    values = {
        "line": data["lines"][0][3],
        "key": data["strings"][data["calls"][0][4][0]],
        "title": data["title"],
        "diagnosis": data["diagnosis"]["text"],
    }
    assert values[where] == HOSTILE
    assert text.count("</script>") == 2


def test_a_title_is_no_place_to_fill(page):
    """A test may be named after the skeleton's own marks."""
    assert (
        data_of(page(RunHistory("<!-- data -->/* script */", 1, [])))["title"] == "<!-- data -->/* script */"
    )


def test_the_diagnosis_is_there_without_scripts(page):
    """As text, escaped."""
    assert "cause: rank 1 failed before joining &lt;epoch1&gt;</pre>" in page(failed_barrier())


def test_times_are_microseconds_from_the_first_event(page):
    """Whatever the order of the events."""
    data = data_of(page(RunHistory("t", 1, [LineWritten(7.5, 0, "stdout", "b"), RankStarted(7.25, 0, 12)])))
    assert (data["starts"], data["lines"][0][0], data["end"]) == ([[0.0, 0, 12]], 250_000.0, 250_000.0)


def test_a_wait_without_a_timeout_is_json(page):
    """JSON has no infinity."""
    data = data_of(page(RunHistory("t", 1, [WaitBegan(1.0, 0, 0, "get", ("a",), ("a",), math.inf)])))
    assert data["waits"] == [[0.0, 0, 0, 0, [1], 1, [1], 1, None, 0, None, None, []]]
    assert data["strings"] == ["get", "a"]


def test_stacks_are_folded(page):
    """Equal stacks are there once, with their ranks; harness frames are cut; the rank that is gone has none."""
    data = data_of(page(failed_barrier(4)))
    assert data["stacks"] == [[[0, 2, 3], [[["/x/t.py", 12, "test_it"], ["/x/t.py", 41, "train"]]], [0], 0]]


def test_stacks_end_in_the_users_own_calls(page):
    """What a barrier does inside is nobody's business."""
    ours = Frame("/x/site-packages/pytest_elastic/launch/_world.py", 43, "barrier")
    stack = Stack((Frame("/x/t.py", 12, "test_it"), ours), True)
    data = data_of(page(RunHistory("t", 1, [], {0: [stack]})))
    assert data["stacks"] == [[[0], [[["/x/t.py", 12, "test_it"]]], [0], 0]]


def test_deep_stacks_keep_the_inner_calls(page):
    """And say how many are not there."""
    deep = Stack(tuple(Frame("f.py", line, "f") for line in range(1, 101)), True)
    ((_, ((first, *rest),), outer, _),) = data_of(page(RunHistory("t", 1, [], {0: [deep]})))["stacks"]
    assert (first[1], rest[-1][1], outer) == (41, 100, [40])


def many(kind):
    """Some 64,000 events, as heavy as they come.

    Long texts are one object: else this process, which other tests fork, has 640 MB more from now on.
    """
    line = "<" * 10_000
    keys = tuple(f"{number}{'<' * 300}" for number in range(20))
    if kind == "store calls":
        return [StoreCalled(i * 1e-4, i % 64, i % 64, "multi_set", (f"{i}", *keys)) for i in range(64_000)]
    if kind == "log lines":
        return [LineWritten(i * 1e-4, i % 64, "stdout", line) for i in range(64_000)]
    waits = []
    for i in range(32_000):
        waits.append(WaitBegan(i * 1e-4, i % 64, i % 64, "wait", (f"{i}{'<' * 150}",), (), 1.0))
        waits.append(WaitEnded(i * 1e-4 + 1e-5, i % 64, i % 64, "done"))
    return waits


def test_a_page_has_budgets(page):
    """However much happened of each kind, the page stays small (see the fixture), and says what is not there."""
    happened = {kind: many(kind) for kind in ("waits", "store calls", "log lines")}
    data = data_of(page(RunHistory("t", 64, [event for events in happened.values() for event in events])))
    said = []
    for kind, name in {"waits": "waits", "store calls": "calls", "log lines": "lines"}.items():
        rows, total = data[name], sum(not isinstance(event, WaitEnded) for event in happened[kind])
        assert {row[1] for row in rows} == set(range(64))
        said.append(f"{total - len(rows):,} of {total:,} {kind} are not on this page")
    assert data["leftOut"] == said
    assert data["end"] == pytest.approx(max(events[-1].at for events in happened.values()) * 1e6, abs=0.1)


def test_64000_usual_events_are_all_there(page):
    """The budget is for what nobody could look at."""
    events = [StoreCalled(i * 1e-4, i % 64, i % 64, "set", (f"epoch{i}/key",)) for i in range(64_000)]
    data = data_of(page(RunHistory("t", 64, events)))
    assert (len(data["calls"]), data["leftOut"]) == (64_000, [])


def test_one_ranks_many_do_not_cost_another_its_few(page):
    """What is left out is of those who have most, the oldest first."""
    loud = [LineWritten(10.0 + i, 0, "stdout", "x" * 2000) for i in range(2000)]
    data = data_of(page(RunHistory("t", 2, [LineWritten(1.0, 1, "stderr", "the cause"), *loud])))
    assert lines_of(data, 1) == ["the cause"]
    assert 0 < len(lines_of(data, 0)) < 2000
    assert data["lines"][-1][0] == data["end"]


def test_what_never_ended_is_never_left_out(page):
    """The oldest of all waits, where it is the one that hangs."""
    hangs = WaitBegan(0.0, 1, 99, "get", ("never",), ("never",), 1.0)
    data = data_of(page(RunHistory("t", 64, [hangs, *many("waits")])))
    assert data["leftOut"]
    assert [row[:3] for row in data["waits"] if row[10] is None] == [[0.0, 1, 99]]


def test_quiet_is_what_was_quiet(page):
    """The gaps are those between all events, not between those that are shown."""
    loud = [LineWritten(i * 0.01, 0, "stdout", "x" * 10_000) for i in range(2000)]
    data = data_of(page(RunHistory("t", 1, [*loud, LineWritten(100.0, 0, "stdout", "end")])))
    assert data["gaps"][0] == [pytest.approx(19_990_000), 100_000_000.0]
    assert data["gaps"][1][1] - data["gaps"][1][0] == pytest.approx(10_000)


def test_a_run_in_which_nothing_happened(page):
    """An empty history is a page."""
    data = data_of(page(RunHistory("t", 2, [])))
    assert (data["nprocs"], data["end"], data["diagnosis"]) == (2, 0.0, None)
