"""The report of a hang, word for word."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from histories import Group, Step, events_of

from pytest_elastic.hang import (
    Diagnosis,
    Frame,
    Stack,
    WaitGraph,
    diagnose,
    diagnose_outside,
    report_dot,
    report_json,
    report_text,
)

MAIN, TRAIN, EVALUATE = (
    Frame("/t/t.py", line, name) for line, name in ((12, "main"), (41, "train"), (77, "evaluate"))
)
AT_TRAIN, AT_EVALUATE = [Stack((MAIN, TRAIN), True)], [Stack((MAIN, EVALUATE), True)]
EPOCH3 = "world/barrier/epoch3/1"
EVAL = "world/barrier/eval/1"
HISTORY: list[Step] = [
    (3, "barrier", EVAL), (0, "set", "x"), (0, "barrier", EPOCH3), (2, "set", "y"), (2, "barrier", EPOCH3),
    (1, "fails"), (1, "exits", 1),
]  # fmt: skip


def found(world_size: int, steps: list[Step]) -> Diagnosis:
    graph = WaitGraph(world_size)
    for event in events_of(world_size, steps):
        graph.take(event)
    diagnosis = diagnose(graph)
    assert diagnosis is not None
    return diagnosis


def test_whole_report() -> None:
    """Headline, barriers, cause, stacks."""
    diagnosis = replace(found(4, HISTORY), elapsed=0.0002)
    assert report_text(diagnosis, {0: AT_TRAIN, 2: AT_TRAIN, 3: AT_EVALUATE}).splitlines() == [
        "HANG  3 of 4 ranks can never go on (known 0.2 ms after the last event; the barrier's timeout is 300 s)",
        '  barrier "epoch3": arrived 0, 2; absent 1 (exited with code 1: ValueError: boom, t.py:41), 3 (waits for barrier "eval")',
        '  barrier "eval":   arrived 3;    absent 0, 1, 2',
        '  cause: rank 1 failed before joining "epoch3"',
        "  main t.py:12 [0,2-3]",
        '  ├ evaluate t.py:77 barrier("eval") [3]   ← least progress',
        '  └ train t.py:41 barrier("epoch3") [0,2]',
    ]


@pytest.mark.parametrize(
    ("world_size", "steps", "lines"),
    [
        (
            3,
            [(0, "set", "ack"), (0, "delete_key", "ack"), (0, "passes"), (2, "passes"), (1, "wait", "ack")],
            [
                "HANG  1 of 3 ranks can never go on (the wait's timeout is 300 s)",
                '  "ack": awaited by 1',
                "  ranks 0, 2: passed",
                '  cause: "ack" was there, but rank 0 deleted it before rank 1 waited for it',
            ],
        ),
        (
            64,
            [(3, "exits", -9), *[(rank, "barrier", "b") for rank in range(64) if rank not in (3, 7, 8)]],
            [
                "HANG  61 of 64 ranks can never go on (the barrier's timeout is 300 s)",
                '  barrier "b": arrived 0-2, 4-6, 9-63; absent 3 (killed by SIGKILL), 7, 8 (runs)',
                '  cause: rank 3 was killed by SIGKILL before joining "b"',
            ],
        ),
        (
            2,
            [(None, "set", "x"), (0, "wait", "a"), (1, "wait", "b")],
            [
                "HANG (suspected)  2 of 2 ranks can never go on (the wait's timeout is 300 s)",
                '  "a": awaited by 0',
                '  "b": awaited by 1',
                '  suspected cause: ranks 0-1 wait for each other: rank 0 for "a", rank 1 for "b"',
            ],
        ),
        (
            2,
            [(0, "barrier", "b"), (1, "barrier", "b"), (0, "barrier", "b"), (0, "passes"), (1, "wait", "k")],
            [
                "HANG  1 of 2 ranks can never go on (the wait's timeout is 300 s)",
                '  "k": awaited by 1',
                "  rank 0: passed",
                "  cause: rank 0 passed and waits for the others to finish their call (tests run in lockstep),"
                ' and nobody else can write "k"',
                '  note: rank 0 called barrier "b" again (call 3 of 2): a prefix synchronises only once',
            ],
        ),
        (
            4,
            [*((rank, "gather", "world/gather/1/") for rank in range(4)), (2, "passes"), (3, "passes"),
             (0, "gather", "world/gather/2/"), (1, "receive", "world/broadcast/0/1", 0)],
            [
                "HANG  2 of 4 ranks can never go on (the gather's timeout is 300 s)",
                "  gather (use 2):        arrived 0; absent 1 (waits for broadcast from rank 0), 2, 3 (passed)",
                "  broadcast from rank 0: arrived 1; absent 0",
                "  cause: ranks 2-3 passed after 1 gather; rank 0 is at number 2, gather (use 2)",
            ],
        ),
        (
            3,
            [(rank, "barrier", "b", 4) for rank in range(3)],
            [
                "HANG  3 of 3 ranks can never go on (the barrier's timeout is 300 s)",
                '  barrier "b": arrived 0, 1, 2 (3 of 4 expected)',
                '  cause: ranks 0-2 wait for barrier "b" (3 of 4 expected came), which nobody releases;'
                " the first timeout is 298 s away",
            ],
        ),
        (
            4,
            [(0, "receive", "x", 1), (1, "passes"), (2, "stands", "blocked", "do_poll"), (3, "stands", "blocked", "do_poll")],
            [
                "HANG  1 of 4 ranks can never go on (the multi_get's timeout is 300 s)",
                '  "x": awaited by 0',
                "  rank 1: passed",
                "  ranks 2-3: wait for events of descriptors",
                '  cause: rank 1 passed without writing "x"',
            ],
        ),
        (
            4,
            [(1, "passes"), (2, "stands", "blocked", "do_poll"), (3, "stands", "blocked", "do_poll"), (0, "barrier", "b")],
            [
                "HANG  1 of 4 ranks can never go on (the barrier's timeout is 300 s)",
                '  barrier "b": arrived 0; absent 1 (passed), 2, 3 (wait for events of descriptors)',
                '  cause: rank 1 passed without joining "b"',
            ],
        ),
    ],
)  # fmt: skip
def test_lines(world_size: int, steps: list[Step], lines: list[str]) -> None:
    """Keys, ranks that wait for nothing, many ranks, suspicions and notes have lines of their own."""
    assert report_text(found(world_size, steps), {}).splitlines() == lines


def test_outside_of_the_store() -> None:
    """A rank that hangs elsewhere is shown with what the kernel says."""
    graph = WaitGraph(2)
    for event in events_of(2, [(0, "barrier", "b"), (1, "stands", "blocked", "pipe_write", "pid 7 (cat)")]):
        graph.take(event)
    diagnosis = diagnose_outside(graph)
    assert diagnosis is not None
    assert report_text(replace(diagnosis, elapsed=2.0), {}).splitlines() == [
        "HANG (suspected)  1 of 2 ranks did not go on (known 2.0 s after the last event)",
        '  barrier "b": arrived 0; absent 1 (writes to a pipe whose other end pid 7 (cat) holds)',
        "  suspected cause: rank 1 writes to a pipe whose other end pid 7 (cat) holds, and did nothing in the store",
    ]


def test_the_headline_names_the_earliest_deadline() -> None:
    """Not the wait that began first."""
    group = Group(2)
    group.step(0, "barrier", "b")
    group.timeout = 5.0
    group.step(1, "wait", "k")
    graph = WaitGraph(2)
    for event in group.events:
        graph.take(event)
    diagnosis = diagnose(graph)
    assert diagnosis is not None
    assert report_text(diagnosis, {}).startswith(
        "HANG  2 of 2 ranks can never go on (the wait's timeout is 5 s)"
    )


def test_json() -> None:
    """The same as data: the verdict, the picture, the tree."""
    data = json.loads(json.dumps(report_json(found(4, HISTORY), {0: AT_TRAIN, 3: AT_EVALUATE})))
    assert (data["verdict"], data["ranks"], data["doomed"]) == ("MissingRank", [1], [0, 2, 3])
    assert data["picture"]["states"][1] == "exited with code 1: ValueError: boom, t.py:41"
    assert [branch["ranks"] for branch in data["stacks"][0]["branches"]] == [[3], [0]]


def test_dot() -> None:
    """Every node that an edge names is there once, and texts are quoted."""
    text = report_dot(
        found(4, [*HISTORY[1:3], (2, "wait", 'a"b'), (1, "fails")]), {0: AT_TRAIN, 3: AT_EVALUATE}
    )
    lines = text.splitlines()
    nodes = [match[1] for line in lines if (match := re.match(r"(\w+) \[shape=", line))]
    edges = [match.groups() for line in lines if (match := re.match(r"(\w+) -> (\w+)", line))]
    assert sorted(nodes) == sorted(set(nodes))
    assert {end for edge in edges for end in edge} <= set(nodes)
    assert ("r0", "b0") in edges
    assert ("b0", "r1") in edges
    assert ("r2", "k0") in edges
    assert 'k0 [shape=note, label="\\"a\\"b\\""];' in lines
    assert (lines[0], lines[-1]) == ("digraph hang {", "}")
