"""The table of collectives: calls, bytes and time of each operation of each process group."""

from __future__ import annotations

import json

from pytest_elastic.events import CollectiveJoined, WaitBegan, WaitEnded
from pytest_elastic.report._html import page_of
from pytest_elastic.report._perfetto import trace_of
from pytest_elastic.report._timeline import RunHistory, timeline_of

SUM = "all_reduce(float32[4], SUM)"


def joined(at: float, rank: int, number: int) -> CollectiveJoined:
    return CollectiveJoined(
        at,
        rank,
        rank,
        "world",
        number,
        (0, 1),
        rank,
        "all_reduce",
        SUM,
        SUM,
        reduction="SUM",
        size=16,
        place="/s/train.py:12",
    )


def history() -> RunHistory:
    """Rank 1 comes half a second late to the first one, and never to the second one."""
    keys = ("world#0/1",)
    events = [
        joined(10.0, 0, 0),
        WaitBegan(10.0, 0, 0, "meet", keys, keys, 1800.0, False, (1,)),
        joined(10.5, 1, 0),
        WaitEnded(10.5, 0, 0, "done"),
        joined(10.6, 0, 1),
        WaitBegan(10.6, 0, 0, "meet", ("world#1/1",), ("world#1/1",), 1800.0, False, (1,)),
    ]
    return RunHistory("t.py::test_it", 2, events)


def test_calls_bytes_and_time_are_added_up() -> None:
    """A call counts once, its bytes for each rank; the latest rank is named."""
    (usage,) = timeline_of(history()).usage()
    assert (usage.operation, usage.group, usage.calls, usage.size) == ("all_reduce", "world", 2, 48)
    assert round(usage.waited, 3) == 0.5
    assert (round(usage.spread, 3), usage.late) == (0.5, 1)


def test_the_page_and_the_trace_know_collectives() -> None:
    """By operation, number, group and shape, with who came when and who is absent."""
    page = page_of(history()).decode()
    data = json.loads(
        page.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    )
    first, second = data["collectives"]
    assert [data["strings"][one] for one in first[1:4]] == [
        "world#0",
        "all_reduce #0 of group world",
        "float32[4] SUM",
    ]
    assert (first[5], first[7], second[5], second[7]) == (1, [], 0, [1])
    assert data["strings"][first[6][0][3]] == f"{SUM} at train.py:12"
    trace = json.loads(trace_of(history()))
    slices = {one["name"] for one in trace["traceEvents"] if one["ph"] == "X"}
    assert "all_reduce #1 of group world, float32[4] SUM" in slices
    assert trace["otherData"]["collectives"][0]["operation"] == "all_reduce"
