"""Verdicts on collectives and messages of process groups: histories of known bugs, and of their repairs, as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from histories import Step, events_of

from pytest_elastic.events import CollectiveJoined, dump, load
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
    review,
)

SUM = "all_reduce(float32[4], SUM)"
BROADCAST = "broadcast(float32[4], from 0)"
INIT = ("init_process_group(world_size=3)", 12, {"unknown": True, "group": "init localhost:29500"})
PART = {"group": "1[1,2]", "members": (1, 2)}
World = tuple[int, list[Step]]


def graph_of(world: World) -> WaitGraph:
    graph = WaitGraph(world[0])
    for event in events_of(*world):
        graph.take(event)
    return graph


def all_call(ranks: int, times: int, text: str = SUM, line: int = 12) -> list[Step]:
    return [(rank, "calls", text, line) for _ in range(times) for rank in range(ranks)]


def named(diagnosis: Diagnosis | None) -> tuple[str, tuple[int, ...], tuple[str, ...], str]:
    assert diagnosis is not None
    return diagnosis.verdict, diagnosis.ranks, diagnosis.keys, diagnosis.cause


# name: (ranks, steps), (verdict, ranks, keys, cause).
BUGS: dict[str, tuple[World, tuple[str, tuple[int, ...], tuple[str, ...], str]]] = {
    "one batch less": (
        (3, [*all_call(3, 2), (0, "calls", SUM, 12), (2, "calls", SUM, 12), (1, "passes")]),
        ("CountMismatch", (1,), ("world#2",),
         "rank 1 passed after 2 collectives;"
         " ranks 0, 2 are in the third, all_reduce #2 of group world (train.py:12)"),
    ),
    "a rank that never calls": (
        (3, [(0, "calls", SUM, 12), (1, "passes")]),
        ("MissingRank", (1,), ("world#0",),
         "rank 1 passed without joining all_reduce #0 of group world (train.py:12), in which rank 0 waits"),
    ),
    "an exception before the call": (
        (3, [(0, "calls", SUM, 12), (2, "calls", SUM, 12), (1, "fails")]),
        ("MissingRank", (1,), ("world#0",), "rank 1 failed before joining all_reduce #0 of group world (train.py:12)"),
    ),
    "a rank that was killed": (
        (3, [(0, "calls", SUM, 12), (1, "exits", -9)]),
        ("Exited", (1,), ("world#0",),
         "rank 1 was killed by SIGKILL before joining all_reduce #0 of group world (train.py:12)"),
    ),
    "another operation of the one that comes last": (
        (3, [(0, "calls", SUM, 12), (1, "calls", SUM, 12), (2, "calls", BROADCAST, 14)]),
        ("CollectiveMismatch", (2,), ("world#0",),
         f"call #0 of group world has another operation: rank 2 calls {BROADCAST} at train.py:14,"
         f" ranks 0-1 call {SUM} at train.py:12"),
    ),
    "one to one names both": (
        (2, [(0, "calls", SUM, 12), (1, "calls", BROADCAST, 14)]),
        ("CollectiveMismatch", (0, 1), ("world#0",),
         f"call #0 of group world has another operation: rank 0 calls {SUM} at train.py:12,"
         f" rank 1 calls {BROADCAST} at train.py:14"),
    ),
    "the third says who is the rarer one": (
        (3, [(0, "calls", BROADCAST, 14), (1, "calls", SUM, 12), (2, "calls", SUM, 12)]),
        ("CollectiveMismatch", (0,), ("world#0",),
         f"call #0 of group world has another operation: rank 0 calls {BROADCAST} at train.py:14,"
         f" ranks 1-2 call {SUM} at train.py:12"),
    ),
    "sizes that do not fit in pairs": (
        (3, [
            (rank, "calls", f"all_gather(float32[{size}])", 12,
             {"sends": (size,) * 3, "expects": (size,) * 3, "signature": "all_gather"})
            for rank, size in enumerate((4, 4, 5))
        ]),
        ("CollectiveMismatch", (2,), ("world#0",),
         "call #0 of group world has another size: rank 2 calls all_gather(float32[5]) at train.py:12,"
         " ranks 0-1 call all_gather(float32[4]) at train.py:12"),
    ),
    "two send to each other": (
        (2, [(0, "calls", "send(float32[4], to 1)", 3, {"to": 1}), (1, "calls", "send(float32[4], to 0)", 5, {"to": 0})]),
        ("Deadlock", (0, 1), ("world:0>1,0#0", "world:1>0,0#0"),
         "ranks 0-1 wait for each other: rank 0 in send(float32[4], to 1) at train.py:3,"
         " rank 1 in send(float32[4], to 0) at train.py:5"),
    ),
    "three receive in a ring": (
        (3, [(rank, "calls", f"recv(float32[1], from {(rank - 1) % 3})", 7, {"source": (rank - 1) % 3}) for rank in range(3)]),
        ("Deadlock", (0, 1, 2), ("world:2>0,0#0", "world:0>1,0#0", "world:1>2,0#0"),
         "ranks 0-2 wait for each other: rank 0 in recv(float32[1], from 2) at train.py:7,"
         " rank 1 in recv(float32[1], from 0) at train.py:7, rank 2 in recv(float32[1], from 1) at train.py:7"),
    ),
    "a message less": (
        (2, [
            (0, "calls", "send(float32[4], to 1)", 3, {"to": 1}), (1, "calls", "recv(float32[4], from 0)", 5, {"source": 0}),
            (0, "calls", "send(float32[4], to 1)", 3, {"to": 1}), (1, "passes"),
        ]),
        ("CountMismatch", (1,), ("world:0>1,0#1",),
         "rank 1 passed after 1 message of group world:0>1,0;"
         " rank 0 is in the second, message #1 from 0 to 1 (train.py:3)"),
    ),
    "nobody is left to send": (
        (3, [(0, "calls", "recv(float32[4], from -1)", 3, {"source": -1}), (1, "passes"), (2, "passes")]),
        ("MissingRank", (1, 2), ("world:*>0,0#0",),
         "ranks 1-2 passed without joining message #0 from anybody to 0 (train.py:3), in which rank 0 waits"),
    ),
    "two groups are crossed": (
        (3, [(0, "calls", SUM, 12), (1, "calls", SUM, 20, PART), (2, "calls", SUM, 12)]),
        ("OrderMismatch", (0, 1, 2), ("world#0", "1[1,2]#0"),
         "ranks 0, 2 are in all_reduce #0 of group world (train.py:12),"
         " rank 1 is in all_reduce #0 of group 1[1,2] (train.py:20)"),
    ),
    "a barrier of the store in place of a collective": (
        (2, [(0, "calls", SUM, 12), (1, "barrier", "b")]),
        ("OrderMismatch", (0, 1), ("world#0", "b"),
         'rank 0 is in all_reduce #0 of group world (train.py:12), rank 1 is at barrier "b"'),
    ),
    "a rank that does not come to init": (
        (3, [(0, "calls", *INIT), (1, "calls", *INIT), (2, "passes")]),
        ("MissingRank", (2,), ("init localhost:29500#0",),
         "rank 2 passed without joining init_process_group (train.py:12), in which ranks 0-1 wait"),
    ),
    "an asynchronous call that is waited for": (
        (2, [(0, "issues", SUM, 12), (0, "awaits", "world#0", [0, 1]), (1, "passes")]),
        ("MissingRank", (1,), ("world#0",),
         "rank 1 passed without joining all_reduce #0 of group world (train.py:12), in which rank 0 waits"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_named(name: str) -> None:
    """With its verdict, ranks, calls and cause."""
    world, expected = BUGS[name]
    assert named(diagnose(graph_of(world))) == expected


def test_a_mismatch_is_known_at_the_second_call_that_differs() -> None:
    """While another rank still computes; whoever comes later only adds to it."""
    graph = WaitGraph(4)
    for event in events_of(4, [(0, "calls", SUM, 12), (1, "calls", BROADCAST, 14)]):
        assert diagnose(graph) is None
        graph.take(event)
        if isinstance(event, CollectiveJoined) and event.rank == 1:
            break
    assert named(diagnose(graph))[:2] == ("CollectiveMismatch", (0, 1))


FINE: dict[str, World] = {
    "all call the same": (3, all_call(3, 3)),
    "one is late": (3, [*all_call(3, 1), (0, "calls", SUM, 12), (1, "calls", SUM, 12)]),
    "one is late for a message": (2, [(0, "calls", "send(float32[4], to 1)", 3, {"to": 1})]),
    "all pass": (2, [*all_call(2, 2), (0, "passes"), (1, "passes")]),
    "from other lines": (2, [(0, "calls", SUM, 12), (1, "calls", SUM, 20)]),
    "who is late for init may be any": (3, [(0, "calls", *INIT), (2, "calls", *INIT)]),
    "init is over": (3, [*[(rank, "calls", *INIT) for rank in (2, 0, 1)], (2, "passes")]),
    "a group that some are not in": (3, [(1, "calls", SUM, 12, PART), (0, "passes"), (2, "calls", SUM, 12, PART)]),
    "a mismatch that was expected": (
        2, [(0, "calls", SUM, 12), (1, "calls", BROADCAST, 14), (0, "calls", SUM, 20), (1, "calls", SUM, 20)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_a_right_program_is_not_accused(name: str) -> None:
    """There is no verdict at any of its events."""
    graph = WaitGraph(FINE[name][0])
    mismatches = name == "a mismatch that was expected"
    for event in events_of(*FINE[name]):
        graph.take(event)
        assert mismatches or diagnose(graph) is None
    assert diagnose(graph) is None


@pytest.mark.parametrize(
    ("stands", "cause"),
    [
        (("spinning",), "rank 2 computes"),
        (("blocked", "hrtimer_nanosleep"), "rank 2 sleeps"),
        (("stopped",), "rank 2 is stopped by a signal"),
    ],
)
def test_a_rank_that_stays_away_is_the_cause_when_time_is_over(stands: tuple[str, ...], cause: str) -> None:
    """Those that wait for it are not."""
    steps: list[Step] = [
        *all_call(3, 1),
        (0, "calls", SUM, 12),
        (1, "calls", SUM, 12),
        (2, "stands", *stands),
    ]
    graph = graph_of((3, steps))
    assert diagnose(graph) is None
    verdict, ranks, keys, said = named(diagnose_outside(graph))
    assert (verdict, ranks, keys) == ("CountMismatch", (2,), ("world#1",))
    assert said.startswith(f"{cause} after 1 collective; ranks 0-1 are in the second, all_reduce #1")


IN_VAIN: list[Step] = [
    *all_call(3, 1), (0, "calls", SUM, 12), (2, "calls", SUM, 12),
    (0, "times_out"), (0, "fails", "CollectiveTimeout"), (2, "times_out"), (2, "fails", "CollectiveTimeout"),
]  # fmt: skip
SECOND = "ranks 0, 2 timed out after 1800 s in the second, all_reduce #1 of group world (train.py:12)"


@pytest.mark.parametrize(
    ("more", "does"),
    [
        ([(1, "fails")], "failed"),
        ([(1, "calls", SUM, 12), (1, "fails", "RuntimeError: Connection closed by peer")], "came too late"),
        ([(1, "exits", -9)], "was killed by SIGKILL"),
        ([], "stayed away"),
    ],
)
def test_who_did_not_come_in_time_is_the_cause(more: list[Step], does: str) -> None:
    """Whatever it does later; those that waited as long as they may are not."""
    graph = graph_of((3, [*IN_VAIN, *more]))
    assert diagnose(graph) is None
    found = review(graph, None, {})
    assert named(found) == (
        "CountMismatch",
        (1,),
        ("world#1",),
        f"rank 1 {does} after 1 collective; {SECOND}",
    )
    assert found is not None
    assert report_text(found, {}).startswith(
        "TIMEOUT  2 of 3 ranks waited for a collective until their time was up\n"
        "  all_reduce #1 of group world, float32[4] SUM: joined 0, "
    )


def test_the_stack_tells_where_the_one_stands_that_did_not_come(tmp_path: Path) -> None:
    """It has not ended when its group is stopped."""
    file = tmp_path / "load.py"
    file.write_text("import time\ntime.sleep(60)\n", "utf-8")
    stack = Stack((Frame(str(file), 2, "<module>"),), True)
    found = review(graph_of((3, IN_VAIN)), None, {1: [stack]})
    assert named(found)[-1] == f"rank 1 sleeps at load.py:2 after 1 collective; {SECOND}"


def test_of_time_outs_that_led_to_each_other_the_first_one_counts() -> None:
    """Who waits itself, in another group, is not the cause."""
    steps = [(0, "calls", SUM, 12), (1, "calls", SUM, 20, PART), (0, "times_out"), (0, "fails")]
    assert named(review(graph_of((3, steps)), None, {}))[:3] == ("MissingRank", (2,), ("world#0",))
    steps += [(1, "times_out"), (1, "fails")]
    assert named(review(graph_of((3, steps)), None, {}))[:3] == ("MissingRank", (2,), ("1[1,2]#0",))


def test_a_time_out_that_was_dealt_with_is_no_verdict() -> None:
    """Its rank has passed."""
    steps = [(0, "calls", SUM, 12), (0, "times_out"), (0, "passes"), (1, "fails")]
    assert review(graph_of((2, steps)), None, {}) is None


def text_of(world: World) -> list[str]:
    found = diagnose(graph_of(world))
    assert found is not None
    return report_text(replace(found, elapsed=0.0004), {}).splitlines()


def test_the_report_of_a_hang_says_who_came_from_where() -> None:
    """In a line; a note says where the ranks' ways parted."""
    steps = [
        (0, "calls", "barrier()", 9),
        (1, "calls", "barrier()", 30),
        (0, "calls", SUM, 12),
        (1, "passes"),
    ]
    assert text_of((2, steps)) == [
        "HANG  1 of 2 ranks can never go on (known 0.4 ms after the last event; the group's timeout is 1800 s)",
        "  all_reduce #1 of group world, float32[4] SUM: joined 0 (train.py:12); absent 1 (passed after 1 collective)",
        "  cause: rank 1 passed after 1 collective; rank 0 is in the second, all_reduce #1 of group world (train.py:12)",
        "  note: barrier #0 of group world was the first called from different lines:"
        " rank 0 at train.py:9; rank 1 at train.py:30",
    ]


def test_the_report_of_a_mismatch_has_a_line_for_each_sort_of_call() -> None:
    """The rarer one first."""
    steps = [(0, "calls", SUM, 12), (1, "calls", BROADCAST, 14), (2, "calls", SUM, 12)]
    assert text_of((4, steps))[:-1] == [
        "MISMATCH  3 ranks called call #0 of group world with another operation (known 0.4 ms after the last event)",
        "  call #0 of group world:",
        "    broadcast(float32[4], from 0)  rank 1, train.py:14",
        "    all_reduce(float32[4], SUM)    ranks 0, 2, train.py:12",
        "    absent 3 (runs)",
    ]


def test_reports_for_machines_have_the_calls() -> None:
    """As JSON and in DOT; histories survive being written and read."""
    world = BUGS["one batch less"][0]
    found = diagnose(graph_of(world))
    assert found is not None
    (call,) = json.loads(json.dumps(report_json(found, {})))["picture"]["collectives"]
    assert (call["name"], call["operation"], call["calls"]) == (
        "world#2", "all_reduce", [[SUM, "train.py:12", [0, 2]]]
    )  # fmt: skip
    assert "c0 -> r1 [style=dashed]" in report_dot(found, {})
    assert [load(dump(event)) for event in events_of(*world)] == events_of(*world)
