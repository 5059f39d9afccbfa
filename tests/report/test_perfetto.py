"""The Chrome trace of a run, read back."""

from __future__ import annotations

import json
import math

import pytest
from report.histories import failed_barrier

from pytest_elastic.events import LineWritten, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.report.exporters import EXPORTERS, RunHistory


@pytest.fixture
def trace(tmp_path):
    """Write a history as a trace and read it."""

    def write(history):
        (tmp_path / "trace.json").write_bytes(EXPORTERS["trace.json"](history))
        return json.loads((tmp_path / "trace.json").read_bytes())

    return write


def only(trace, **fields):
    return [
        one for one in trace["traceEvents"] if all(one.get(name) == value for name, value in fields.items())
    ]


def test_one_process_and_a_thread_for_each_rank(trace):
    """Named after the test and the ranks, in their order."""
    made = trace(failed_barrier())
    assert [one["args"]["name"] for one in only(made, name="process_name")] == ["tests/t.py::test_it[<b>]"]
    assert [(one["tid"], one["args"]["name"]) for one in only(made, name="thread_name")] == [
        (rank, f"rank {rank}") for rank in range(3)
    ]
    assert {one["pid"] for one in made["traceEvents"]} == {1}
    assert made["otherData"]["cause"] == "rank 1 failed before joining <epoch1>"


def test_waits_are_slices(trace):
    """With their keys; one that never ended goes on to the last event."""
    slices = only(trace(failed_barrier()), ph="X", tid=0, name="wait epoch1/last")
    assert [(one["ts"], one["dur"], one["args"]) for one in slices] == [
        (
            pytest.approx(21_000),
            pytest.approx(9_000),
            {"keys": ["epoch1/last"], "missing": ["epoch1/last"], "timeout": 300.0, "how": "never ended"},
        )
    ]


def test_phases_are_slices(trace):
    """With what came of them; rank 0's is cut by the end of the recording, rank 1's is not."""
    calls = only(trace(failed_barrier()), ph="X", name="call")
    assert [(one["tid"], one["args"]["outcome"]) for one in calls] == [
        (0, "never ended"),
        (1, "failed"),
        (2, "never ended"),
    ]


def test_moments(trace):
    """Calls, joins, lines and exits, on the threads of their ranks."""
    names = [one["name"] for one in only(trace(failed_barrier()), ph="i", tid=1)]
    assert names == [
        "started", "set shard/1", "set epoch0/last", "barrier epoch0 3/3", "hello from rank 1", "ValueError: boom", "killed by SIGKILL",
    ]  # fmt: skip


def test_an_arrow_from_the_release_to_the_wait(trace):
    """It starts at the writer's call, and its head is inside the slice of the wait."""
    made = trace(failed_barrier())
    starts, heads = only(made, ph="s"), only(made, ph="f")
    assert [(one["tid"], one["ts"]) for one in starts] == [(1, pytest.approx(9_100))] * 2
    assert [one["id"] for one in starts] == [one["id"] for one in heads]
    for head in heads:
        (wait,) = only(made, ph="X", tid=head["tid"], name="wait epoch0/last")
        assert head["bp"] == "e"
        assert wait["ts"] <= head["ts"] < wait["ts"] + wait["dur"]


def test_connections_of_one_rank_have_threads_of_their_own(trace):
    """Slices of one thread must nest, and the waits of two connections need not."""
    waits = [(1.0, 7, 3.0), (2.0, 8, 4.0)]
    events = [WaitBegan(at, 0, client, "get", ("a",), ("a",), math.inf) for at, client, _ in waits]
    events += [WaitEnded(end, 0, client, "done") for _, client, end in waits]
    made = trace(RunHistory("t", 1, events))
    assert [(one["tid"], one["args"]["timeout"]) for one in only(made, ph="X")] == [(0, "none"), (2, "none")]
    assert only(made, name="thread_name", tid=2)[0]["args"]["name"] == "rank 0, connection 8"


def test_what_no_rank_did_is_the_launchers(trace):
    """A thread of its own, after the ranks."""
    made = trace(
        RunHistory("t", 2, [StoreCalled(1.0, None, 3, "set", ("a",)), LineWritten(1.0, 1, "stdout", "x")])
    )
    assert [one["args"]["name"] for one in only(made, name="thread_name")] == ["rank 0", "rank 1", "launcher"]
    assert only(made, ph="i", tid=2)[0]["name"] == "set a"


def test_long_texts_are_cut_and_say_so(trace):
    """A trace of a few events is small, whatever is in them."""
    keys = tuple(f"{number}{'k' * 1000}" for number in range(100))
    made = trace(
        RunHistory(
            "t", 1, [StoreCalled(1.0, 0, 0, "multi_set", keys), LineWritten(1.0, 0, "stderr", "x" * 9000)]
        )
    )
    call, line = only(made, ph="i")
    assert call["args"]["keys"][-1] == "… and 84 more"
    assert call["args"]["keys"][0].endswith("… (801 more characters)")
    assert line["args"]["stderr"].endswith("… (7,000 more characters)")
