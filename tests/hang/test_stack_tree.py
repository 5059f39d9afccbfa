"""Many stacks, one tree."""

from __future__ import annotations

import json

from pytest_elastic.hang import Frame, Stack, merge, tree_dot, tree_text

HARNESS = Frame("/site-packages/_pytest/python.py", 159, "pytest_pyfunc_call")
INSIDE = (
    Frame("/x/pytest_elastic/launch/_world.py", 40, "barrier"),
    Frame("/x/pytest_elastic/store/_handle.py", 9, "wait"),
)


def stack(*calls: str, current: bool = True, inside: bool = True) -> Stack:
    """`"main:12"` is a call of main, in t.py, at line 12."""
    frames = [Frame("/suite/t.py", int(call.split(":")[1]), call.split(":")[0]) for call in calls]
    return Stack((HARNESS, *frames, *(INSIDE if inside else ())), current)


TRAIN, EVALUATE = stack("main:12", "train:41"), stack("main:12", "evaluate:77")
WAITS = {0: 'barrier("epoch3")', 2: 'barrier("epoch3")', 3: 'barrier("eval")'}


def test_tree() -> None:
    """Equal stacks are one line, shared calls come once, the least progress is first and marked."""
    branches = merge({0: [TRAIN], 2: [TRAIN], 3: [EVALUATE]}, {0: (3, 9), 2: (3, 9), 3: (2, 7)}, WAITS)
    assert tree_text(branches, "  ").splitlines() == [
        "  main t.py:12 [0,2-3]",
        '  ├ evaluate t.py:77 barrier("eval") [3]   ← least progress',
        '  └ train t.py:41 barrier("epoch3") [0,2]',
    ]


def test_equal_progress_is_not_marked() -> None:
    """Nobody is blamed where nobody is behind; the smaller line comes first."""
    branches = merge({0: [EVALUATE], 1: [TRAIN]}, {0: (1,), 1: (1,)})
    assert tree_text(branches).splitlines() == [
        "main t.py:12 [0-1]",
        "├ train t.py:41 [1]",
        "└ evaluate t.py:77 [0]",
    ]


def test_all_alike() -> None:
    """One class is one line without a mark."""
    branches = merge({rank: [TRAIN] for rank in range(64)}, {rank: (rank,) for rank in range(64)})
    assert tree_text(branches) == "main t.py:12 → train t.py:41 [0-63]"


def test_one_line_two_barriers() -> None:
    """Ranks on the same line part where they wait for different things."""
    branches = merge({0: [TRAIN], 1: [TRAIN]}, {0: (2,), 1: (1,)}, {0: 'barrier("a")', 1: 'barrier("b")'})
    assert tree_text(branches).splitlines() == [
        "main t.py:12 → train t.py:41 [0-1]",
        '├ barrier("b") [1]   ← least progress',
        '└ barrier("a") [0]',
    ]


def test_deep() -> None:
    """Branches of branches have lines of their own; long runs are cut in the middle."""
    deep = stack(*[f"f{i}:{i}" for i in range(1, 12)], inside=False)
    stacks = {
        0: [stack("main:1", "a:2", "x:3")],
        1: [stack("main:1", "a:2", "y:4")],
        2: [stack("main:1", "b:5")],
        3: [deep],
    }
    assert tree_text(merge(stacks)).splitlines() == [
        "main t.py:1 [0-2]",
        "├ a t.py:2 [0-1]",
        "│ ├ x t.py:3 [0]",
        "│ └ y t.py:4 [1]",
        "└ b t.py:5 [2]",
        "f1 t.py:1 → … → f6 t.py:6 → f7 t.py:7 → f8 t.py:8 → f9 t.py:9 → f10 t.py:10 → f11 t.py:11 [3]",
    ]


def test_a_stack_that_ends_where_another_goes_on() -> None:
    """The ranks of a parent are more than those of its branches."""
    branches = merge({0: [stack("main:1")], 1: [stack("main:1", "a:2")]})
    assert tree_text(branches).splitlines() == ["main t.py:1 [0-1]", "└ a t.py:2 [1]"]


def test_threads() -> None:
    """Another thread is shown where it is in the user's code; a library's own thread is not."""
    library = Frame("/usr/lib/python3.11/threading.py", 324, "wait")
    monitor = Stack((library,), False)
    helper = Stack((library, Frame("/suite/t.py", 7, "helper")), False)
    branches = merge({0: [monitor, helper, TRAIN], 1: []}, waits={0: 'wait("k")'})
    assert tree_text(branches).splitlines() == [
        'main t.py:12 → train t.py:41 wait("k") [0]',
        "wait threading.py:324 → helper t.py:7 [0]",
    ]


def test_the_users_calls_are_shown_and_of_a_library_the_first() -> None:
    """Nothing in C is, where there is another call."""
    calls = (
        Frame("/suite/t.py", 12, "main"),
        Frame("/lib/python3.11/queue.py", 7, "get"),
        Frame("/lib/python3.11/threading.py", 8, "wait"),
        Frame("/suite/t.py", 13, "callback"),
        Frame("/src/op.cpp", 7, "op", native=True),
        Frame("/lib/libc.so.6", 0, "read", native=True),
    )
    (branch,) = merge({0: [Stack(calls, True)]})
    assert branch.text() == "main t.py:12 → get queue.py:7 → … → callback t.py:13 [0]"
    (branch,) = merge({0: [Stack(calls[-1:], True)]})
    assert branch.text() == "read libc.so.6 [0]"


def test_json() -> None:
    """The tree as data has whole paths."""
    (branch,) = merge({0: [TRAIN], 3: [EVALUATE]}, {0: (2,), 3: (1,)}, WAITS)
    data = json.loads(json.dumps(branch.to_json()))
    assert data["calls"] == [{"file": "/suite/t.py", "line": 12, "function": "main", "native": False}]
    assert (data["ranks"], data["waits"], data["least"]) == ([0, 3], "", False)
    assert [(one["waits"], one["ranks"], one["least"]) for one in data["branches"]] == [
        ('barrier("eval")', [3], True),
        ('barrier("epoch3")', [0], False),
    ]


def test_dot() -> None:
    """Statements with quotes escaped; ranks are on the edges."""
    assert tree_dot(merge({0: [TRAIN], 3: [EVALUATE]}, {0: (2,), 3: (1,)}, WAITS)) == [
        's0 [shape=box, label="main t.py:12"];',
        's1 [shape=box, label="evaluate t.py:77\\nbarrier(\\"eval\\")", style=bold];',
        's0 -> s1 [label="[3]"];',
        's3 [shape=box, label="train t.py:41\\nbarrier(\\"epoch3\\")"];',
        's0 -> s3 [label="[0]"];',
    ]
