"""Small histories of runs, as events, for the tests of exporters."""

from __future__ import annotations

from pytest_elastic.events import (
    BarrierJoined,
    LineWritten,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStarted,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.hang import Frame, Stack
from pytest_elastic.report.exporters import Failure, RunHistory

TEXT = "HANG  2 of 3 ranks can never go on\n  cause: rank 1 failed before joining <epoch1>"


def failed_barrier(nprocs=3):
    """All meet at `epoch0`; then rank 1 fails, and the others wait for it at `epoch1` for ever."""
    others = [rank for rank in range(nprocs) if rank != 1]
    events = []
    for rank in range(nprocs):
        events += [
            RankStarted(100.0, rank, 4000 + rank),
            PhaseBegan(100.001, rank, "call"),
            LineWritten(100.002, rank, "stdout", f"hello from rank {rank}"),
            StoreCalled(100.003, rank, rank, "set", (f"shard/{rank}",)),
        ]
    events += meeting("epoch0", 100.005, others, 1, nprocs)
    for count, rank in enumerate(others, 1):
        events += [
            BarrierJoined(100.02, rank, rank, "epoch1", nprocs, count),
            WaitBegan(100.021, rank, rank, "wait", ("epoch1/last",), ("epoch1/last",), 300.0),
        ]
    events += [
        LineWritten(100.022, 1, "stderr", "ValueError: boom"),
        PhaseEnded(100.023, 1, "call", "failed", "ValueError: boom", "t.py:41"),
        RankExited(100.030, 1, -9),
    ]
    stacks = {
        rank: (Stack((Frame("/x/t.py", 12, "test_it"), Frame("/x/t.py", 41, "train")), True),)
        for rank in others
    }
    said = {"verdict": "DoomedWait", "cause": "rank 1 failed before joining <epoch1>", "text": TEXT}
    return RunHistory("tests/t.py::test_it[<b>]", nprocs, events, stacks, said, "hung")


def meeting(prefix, at, waiting, last, world_size):
    """The events of a barrier at which all come, `last` as the last."""
    events = []
    for count, rank in enumerate(waiting, 1):
        events.append(BarrierJoined(at + 0.0001 * count, rank, rank, prefix, world_size, count))
        key = (f"{prefix}/last",)
        events.append(WaitBegan(at + 0.0001 * count + 0.00001, rank, rank, "wait", key, key, 300.0))
    end = at + 0.004
    events.append(BarrierJoined(end, last, last, prefix, world_size, world_size))
    events.append(StoreCalled(end + 0.0001, last, last, "set", (f"{prefix}/last",)))
    return events + [WaitEnded(end + 0.0002, rank, rank, "done") for rank in waiting]


def plain_failure():
    """Rank 1 of three fails of its own; nobody waits for it."""
    events = [
        event
        for rank in range(3)
        for event in (
            PhaseBegan(10.0, rank, "call"),
            LineWritten(10.01 + rank / 1000, rank, "stdout", f"hello from rank {rank}"),
            StoreCalled(10.02 + rank / 1000, rank, rank, "set", (f"shard/{rank}",)),
            PhaseEnded(10.1, rank, "call", "failed" if rank == 1 else "passed"),
        )
    ]
    failure = Failure(
        (1,),
        "1 of 3 ranks failed: rank 1 alone",
        "rank 1: ValueError: boom\nand more",
        ">   raise ValueError('boom')\nE   ValueError: boom\n\nsub/t.py:41: ValueError",
        [("seen besides", "at /y/other.py:7")],
    )
    replay = "pytest t.py::test_it --elastic-replay=R1.2"
    return RunHistory(
        "t.py::test_it", 3, events, {}, None, "failed", "", failure, replay, [("clock", "auto")], "/x"
    )
