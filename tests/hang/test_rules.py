"""Verdicts: histories of known bugs and the histories of their repairs, as data."""

from __future__ import annotations

import json
import pickle

import pytest
from histories import Step, events_of

from pytest_elastic.events import dump, load
from pytest_elastic.hang import (
    CountMismatch,
    Deadlock,
    Diagnosis,
    DoomedWait,
    Exited,
    HangUntilTimeout,
    MissingRank,
    OrderMismatch,
    StalePrefix,
    WaitGraph,
    diagnose,
    diagnose_outside,
    find_stale,
)

World = tuple[int, list[Step]]
Expected = tuple[type[Diagnosis], tuple[int, ...], tuple[str, ...], str]


def rests(who: str, keys: str, phase: str = "call") -> str:
    """The cause where a rank may have more to write, after the others."""
    return (
        f"{who} passed and waits for the others to finish their {phase} (tests run in lockstep),"
        f" and nobody else can write {keys}"
    )


# name: (ranks, steps), expected verdict, its ranks, its keys, its cause.  The last step closes it.
BUGS: dict[str, tuple[World, Expected]] = {
    "missing rank": (
        (3, [(0, "barrier", "b"), (1, "barrier", "b"), (2, "passes")]),
        (MissingRank, (2,), ("b",), 'rank 2 passed without joining "b"'),
    ),
    "two missing ranks, while one computes": (
        (4, [(2, "passes"), (3, "passes"), (0, "barrier", "b")]),
        (MissingRank, (2, 3), ("b",), 'ranks 2-3 passed without joining "b"'),
    ),
    "exception before the barrier": (
        (3, [(0, "barrier", "b"), (1, "fails")]),
        (MissingRank, (1,), ("b",), 'rank 1 failed before joining "b"'),
    ),
    "exception before the others come to the barrier": (
        (3, [(1, "fails"), (1, "exits", 1), (0, "barrier", "b")]),
        (MissingRank, (1,), ("b",), 'rank 1 failed before joining "b"'),
    ),
    "mismatched barrier counts": (
        (3, [
            (0, "barrier", "b0"), (1, "barrier", "b0"), (2, "barrier", "b0"),
            (0, "barrier", "b1"), (2, "passes"),
        ]),
        (CountMismatch, (2,), ("b1",), 'rank 2 passed after 1 barrier; rank 0 is at number 2, "b1"'),
    ),
    "different order": (
        (2, [(0, "barrier", "a"), (1, "barrier", "b")]),
        (OrderMismatch, (0, 1), ("a", "b"), 'rank 0 is at barrier "a", rank 1 is at barrier "b"'),
    ),
    "different order, while one computes": (
        (4, [(0, "barrier", "a"), (2, "barrier", "a"), (3, "barrier", "b")]),
        (OrderMismatch, (0, 2, 3), ("a", "b"), 'ranks 0, 2 are at barrier "a", rank 3 is at barrier "b"'),
    ),
    "circular wait for two keys": (
        (2, [(0, "wait", "a"), (1, "wait", "b")]),
        (Deadlock, (0, 1), ("a", "b"), 'ranks 0-1 wait for each other: rank 0 for "a", rank 1 for "b"'),
    ),
    "circular wait beside a rank that passed": (
        (3, [(2, "passes"), (0, "wait", "a"), (1, "wait", "b")]),
        (DoomedWait, (0, 1), ("a", "b"), rests("rank 2", '"a", "b"')),
    ),
    "a rank leaves without its acknowledgement": (
        (3, [(0, "set", "request"), (0, "wait", "ack1", "ack2"), (1, "wait", "request"), (1, "set", "ack1"),
             (1, "wait", "done"), (2, "wait", "request"), (2, "exits", 0)]),
        (DoomedWait, (0, 1), ("ack2", "done"), 'rank 2 exited with code 0 and nobody is left to write "ack2", "done"'),
    ),
    "circle that is known, beside a rank that passed": (
        (3, [(2, "passes"), (0, "receive", "x", 1), (1, "receive", "y", 0)]),
        (Deadlock, (0, 1), ("x", "y"), 'ranks 0-1 wait for each other: rank 0 for "x", rank 1 for "y"'),
    ),
    "one of a known circle is not known to write to another one": (
        (3, [(0, "receive", "x", 1), (2, "wait", "c"), (1, "receive", "y", 0)]),
        (Deadlock, (0, 1), ("x", "y"), 'ranks 0-1 wait for each other: rank 0 for "x", rank 1 for "y"'),
    ),
    "who waits for what all of a circle wait for is not in it": (
        (3, [(0, "wait", "a"), (2, "wait", "a", "b"), (1, "wait", "b")]),
        (Deadlock, (0, 1), ("a", "b"), 'ranks 0-1 wait for each other: rank 0 for "a", rank 1 for "b"'),
    ),
    "who waits for one key and one more waits for nobody else": (
        (2, [(0, "wait", "a"), (1, "wait", "a", "b")]),
        (HangUntilTimeout, (0, 1), ("a", "b"),
         'ranks 0-1 wait for "a", "b", which nobody wrote; the first timeout is 299 s away'),
    ),
    "a teardown would write it": (
        (2, [(0, "passes"), (1, "wait", "k")]), (DoomedWait, (1,), ("k",), rests("rank 0", '"k"')),
    ),
    "a call would write it": (
        (2, [(0, "passes", "setup"), (1, "wait", "k")]),
        (DoomedWait, (1,), ("k",), rests("rank 0", '"k"', "setup").replace("passed", "passed its setup")),
    ),
    "a setup that others meet in their call": (
        (2, [(0, "passes", "setup"), (1, "barrier", "b")]),
        (MissingRank, (0,), ("b",), 'rank 0 passed its setup without joining "b"'),
    ),
    "nothing comes after a teardown": (
        (2, [(0, "passes", "teardown"), (1, "wait", "k")]),
        (DoomedWait, (1,), ("k",), 'rank 0 passed its teardown and nobody is left to write "k"'),
    ),
    "one has more to do, and one has not": (
        (3, [(0, "passes"), (2, "exits", 0), (1, "wait", "k")]),
        (DoomedWait, (1,), ("k",), rests("rank 0", '"k"; rank 2 exited with code 0')),
    ),
    "deleted by who had read it": (
        (2, [(0, "set", "token"), (1, "wait", "token"), (1, "delete_key", "token"), (1, "passes"),
             (0, "wait", "token")]),
        (DoomedWait, (0,), ("token",), rests("rank 1", '"token"')),
    ),
    "deleted after a wait for it was served": (
        (3, [(0, "wait", "go"), (1, "set", "go"), (0, "delete_key", "go"), (2, "delete_key", "go"), (1, "passes"),
             (2, "passes"), (0, "wait", "go")]),
        (DoomedWait, (0,), ("go",), rests("ranks 1-2", '"go"').replace("waits", "wait")),
    ),
    "written again since it was read": (
        (2, [(0, "set", "k"), (1, "get", "k"), (0, "set", "k"), (0, "delete_key", "k"), (0, "passes"), (1, "wait", "k")]),
        (DoomedWait, (1,), ("k",), '"k" was there, but rank 0 deleted it before rank 1 waited for it'),
    ),
    "deleted from outside, and only looked for before it was there": (
        (2, [(1, "check", "k"), (None, "set", "k"), (None, "delete_key", "k"), (None, "leaves"), (0, "passes"),
             (1, "wait", "k")]),
        (DoomedWait, (1,), ("k",), '"k" was there, but somebody outside of the group deleted it before rank 1 waited for it'),
    ),
    "a barrier that was reset, and is used again": (
        (3, [(0, "barrier", "b"), (1, "barrier", "b"), (2, "barrier", "b"), (0, "delete_key", "b/num_members"),
             (0, "delete_key", "b/last_member"), (0, "barrier", "b"), (1, "barrier", "b"), (2, "passes")]),
        (CountMismatch, (2,), ("b",), 'rank 2 passed after 1 barrier; ranks 0-1 are at number 2, "b"'),
    ),
    "fewer barriers, and none": (
        (4, [*((rank, "barrier", "b0", 3) for rank in (0, 1, 2)), (3, "passes"), (2, "passes"),
             (0, "barrier", "b1")]),
        (CountMismatch, (2, 3), ("b1",),
         'rank 2 passed after 1 barrier, rank 3 passed after 0 barriers; rank 0 is at number 2, "b1"'),
    ),
    "circular wait for declared keys, while one computes": (
        (3, [(0, "receive", "x", 1), (1, "receive", "y", 0)]),
        (Deadlock, (0, 1), ("x", "y"), 'ranks 0-1 wait for each other: rank 0 for "x", rank 1 for "y"'),
    ),
    "lost wake-up: acknowledgement deleted before its waiter": (
        (2, [(0, "set", "request"), (1, "wait", "request"), (1, "set", "ack"), (1, "delete_key", "ack"),
             (1, "passes"), (0, "wait", "ack")]),
        (DoomedWait, (0,), ("ack",), '"ack" was there, but rank 1 deleted it before rank 0 waited for it'),
    ),
    "two locks built on add, taken in two orders": (
        (2, [(0, "add", "A", 1), (1, "add", "B", 1), (0, "add", "B", 1), (0, "wait", "B/free"),
             (1, "add", "A", 1), (1, "wait", "A/free")]),
        (Deadlock, (0, 1), ("B/free", "A/free"),
         'ranks 0-1 wait for each other: rank 0 for "B/free", rank 1 for "A/free"'),
    ),
    "counter barrier that is not atomic": (
        (3, [(0, "set", "n"), (1, "set", "n"), (2, "set", "n"),
             (0, "wait", "go"), (1, "wait", "go"), (2, "wait", "go")]),
        (HangUntilTimeout, (0, 1, 2), ("go",),
         'ranks 0-2 wait for "go", which nobody wrote; the first timeout is 298 s away'),
    ),
    "reusable barrier reset under a late waiter": (
        (2, [(0, "barrier", "b"), (1, "barrier", "b"), (1, "delete_key", "b/last_member"), (1, "passes"),
             (0, "wait", "b/last_member")]),
        (DoomedWait, (0,), ("b/last_member",),
         'barrier "b" was there, but rank 1 deleted it before rank 0 waited for it'),
    ),
    "follower announces only if it saw the epoch": (
        (2, [(0, "compare_set", "leader", b"", b"0"), (1, "compare_set", "leader", b"", b"1"),
             (1, "check", "epoch"), (1, "passes"), (0, "set", "epoch"), (0, "wait", "announced")]),
        (DoomedWait, (0,), ("announced",), rests('rank 1', '"announced"')),
    ),
    "generation read after add": (
        (2, [(0, "add", "n", 1), (1, "add", "n", 1), (1, "set", "gen1"), (0, "add", "gen", 0),
             (0, "wait", "gen2"), (1, "passes")]),
        (DoomedWait, (0,), ("gen2",), rests('rank 1', '"gen2"')),
    ),
    "two transient windows": (
        (2, [(0, "set", "w1"), (0, "delete_key", "w1"), (0, "set", "w2"), (0, "delete_key", "w2"),
             (1, "wait", "w2"), (0, "passes")]),
        (DoomedWait, (1,), ("w2",), '"w2" was there, but rank 0 deleted it before rank 1 waited for it'),
    ),
    "partly present keys": (
        (2, [(0, "set", "x0"), (1, "wait", "x0", "x1"), (0, "passes")]),
        (DoomedWait, (1,), ("x1",), rests('rank 0', '"x1"')),
    ),
    "two uses of one barrier meet": (
        (2, [(0, "barrier", "world/barrier/b/1"), (1, "barrier", "world/barrier/b/2")]),
        (StalePrefix, (0, 1), ("world/barrier/b/1", "world/barrier/b/2"),
         'different uses of one barrier meet: rank 0 is at barrier "b", rank 1 is at barrier "b" (use 2)'),
    ),
    "rank exits 0 early": (
        (3, [(1, "begins"), (0, "barrier", "b"), (1, "exits", 0)]),
        (Exited, (1,), ("b",), 'rank 1 exited with code 0 before joining "b"'),
    ),
    "function returned early": (
        (3, [(0, "barrier", "b"), (1, "exits", 0)]),
        (MissingRank, (1,), ("b",), 'rank 1 exited with code 0 without joining "b"'),
    ),
    "killed before the barrier": (
        (3, [(0, "barrier", "b"), (1, "set", "x"), (1, "exits", -9)]),
        (Exited, (1,), ("b",), 'rank 1 was killed by SIGKILL before joining "b"'),
    ),
    "killed before a barrier without a name": (
        (3, [(0, "barrier", "world/barrier//1"), (1, "set", "x"), (1, "exits", -9)]),
        (Exited, (1,), ("world/barrier//1",),
         'rank 1 was killed by SIGKILL before joining a barrier without a name'),
    ),
    "killed between joining and releasing": (
        (2, [(0, "barrier", "b"), (1, "join", "b"), (1, "exits", -9)]),
        (Exited, (1,), ("b",),
         'rank 1 was killed by SIGKILL between joining "b" and releasing the others'),
    ),
    "killed before the store's own barrier": (
        (3, [(0, "barrier_of_store", "b"), (1, "exits", -9)]),
        (Exited, (1,), ("b",), 'rank 1 was killed by SIGKILL before joining "b"'),
    ),
    "killed with a key unwritten": (
        (2, [(0, "wait", "k"), (1, "exits", -11)]),
        (Exited, (1,), ("k",), 'rank 1 was killed by SIGSEGV and nobody is left to write "k"'),
    ),
    "failed with a key unwritten": (
        (3, [(0, "wait", "k"), (1, "fails"), (2, "passes")]),
        (DoomedWait, (0,), ("k",), 'rank 1 failed and nobody is left to write "k"'),
    ),
    "a barrier that says no size, without one": (
        (3, [(0, "count", "n"), (0, "wait", "n/last_member"), (1, "count", "n"), (2, "passes"), (1, "fails")]),
        (DoomedWait, (0,), ("n/last_member",), 'rank 1 failed and nobody is left to release barrier "n"'),
    ),
    "called again after giving up, while another thread runs": (
        (3, [((0, 0), "barrier", "b"), ((0, 0), "times_out"), ((0, 1), "check", "x"), ((0, 0), "barrier", "b"),
             (1, "passes"), (2, "passes")]),
        (MissingRank, (1, 2), ("b",), 'ranks 1-2 passed without joining "b"'),
    ),
    "two pop one element": (
        (3, [(0, "queue_pop", "q"), (1, "queue_pop", "q"), (2, "queue_push", "q"), (0, "passes"), (2, "passes")]),
        (DoomedWait, (1,), ("q",), 'ranks 0, 2 passed and wait for the others to finish their call (tests run in lockstep),'
         ' and nobody else can write "q"'),
    ),
    "a value is no element": (
        (2, [(0, "queue_pop", "q"), (1, "set", "q"), (1, "passes")]),
        (DoomedWait, (0,), ("q",), rests('rank 1', '"q"')),
    ),
    "after a wait that might have timed out and did not": (
        (2, [(0, "try", "k"), (1, "set", "k"), (0, "wait", "never"), (1, "passes")]),
        (DoomedWait, (0,), ("never",), rests('rank 1', '"never"')),
    ),
    "circle after waits that were served, while one computes": (
        (3, [(0, "wait", "k"), (1, "wait", "k"), (2, "set", "k"), (0, "receive", "x", 1), (1, "receive", "y", 0)]),
        (Deadlock, (0, 1), ("x", "y"), 'ranks 0-1 wait for each other: rank 0 for "x", rank 1 for "y"'),
    ),
    "the writer has ended, but for a thread that waits": (
        (3, [(1, "check", "x"), (1, "passes"), (1, "wait", "k"), (0, "receive", "x", 1)]),
        (DoomedWait, (0,), ("x",), 'rank 1 passed without writing "x"'),
    ),
    "an element is no value": (
        (2, [(0, "get", "q"), (1, "queue_push", "q"), (1, "passes")]),
        (DoomedWait, (0,), ("q",), rests('rank 1', '"q"')),
    ),
    "one of two threads is gone": (
        (2, [((0, 0), "wait", "a"), ((0, 1), "check", "x"), ((0, 1), "wait", "b"), ((0, 0), "leaves"), (1, "passes")]),
        (DoomedWait, (0,), ("b",), rests('rank 1', '"b"')),
    ),
    "two sizes of one barrier": (
        (2, [(0, "barrier", "p", 2), (1, "barrier", "p", 3)]),
        (HangUntilTimeout, (0, 1), ("p",),
         'ranks 0-1 wait for barrier "p" (2 of 3 expected came), which nobody releases; the first timeout is 299 s away'),
    ),
    "more are waited for than there are": (
        (3, [(0, "barrier", "p", 4), (1, "barrier", "p", 4), (2, "barrier", "p", 4)]),
        (HangUntilTimeout, (0, 1, 2), ("p",),
         'ranks 0-2 wait for barrier "p" (3 of 4 expected came), which nobody releases; the first timeout is 298 s away'),
    ),
    "more keys are asked for than there are ranks": (
        (2, [(0, "set", "x0"), (1, "set", "x1"), (0, "multi_get", "x0", "x1", "x2"), (1, "multi_get", "x0", "x1", "x2")]),
        (HangUntilTimeout, (0, 1), ("x2",),
         'ranks 0-1 wait for "x2" (2 of 3 expected came), which nobody wrote; the first timeout is 299 s away'),
    ),
    "both threads of a rank": (
        (2, [(0, "wait", "k"), (0, "begins"), ((0, 1), "wait", "m"), (1, "passes")]),
        (DoomedWait, (0,), ("k", "m"), rests("rank 1", '"k", "m"')),
    ),
    "one of two keys came": (
        (2, [(0, "wait", "x0", "x1"), (1, "set", "x0"), (1, "passes")]),
        (DoomedWait, (0,), ("x1",), rests('rank 1', '"x1"')),
    ),
    "gather without one": (
        (3, [(0, "gather", "g/"), (1, "passes")]),
        (DoomedWait, (0,), ("g/1",), 'rank 1 passed without writing "g/1"'),
    ),
    "broadcast from one who failed": (
        (3, [(0, "receive", "x", 2), (2, "fails")]),
        (DoomedWait, (0,), ("x",), 'rank 2 failed before writing "x"'),
    ),
    "gather against barrier": (
        (2, [(0, "gather", "g/"), (1, "barrier", "b")]),
        (Deadlock, (0, 1), ("g/1", "b"), 'ranks 0-1 wait for each other: rank 0 for "g/1", rank 1 for barrier "b"'),
    ),
    "gathers of the world without two": (
        (4, [(2, "passes"), (3, "passes"), (0, "gather", "world/gather/1/")]),
        (MissingRank, (2, 3), ("world/gather/1",), "ranks 2-3 passed without joining gather"),
    ),
    "fewer gathers of the world": (
        (4, [*((rank, "gather", "world/gather/1/") for rank in range(4)), (2, "passes"), (3, "passes"),
             (1, "gather", "world/gather/2/")]),
        (CountMismatch, (2, 3), ("world/gather/2",),
         "ranks 2-3 passed after 1 gather; rank 1 is at number 2, gather (use 2)"),
    ),
    "gather of the world without one who failed": (
        (3, [(1, "fails"), (2, "passes"), (0, "gather", "world/gather/1/")]),
        (MissingRank, (1,), ("world/gather/1",), "rank 1 failed before joining gather"),
    ),
    "gather of the world against a barrier": (
        (3, [(0, "gather", "world/gather/1/"), (2, "barrier", "world/barrier/b/1")]),
        (OrderMismatch, (0, 2), ("world/gather/1", "world/barrier/b/1"), 'rank 0 is at gather, rank 2 is at barrier "b"'),
    ),
    "gather of the world against a broadcast": (
        (2, [(0, "gather", "world/gather/3/"), (1, "receive", "world/broadcast/0/2", 0)]),
        (OrderMismatch, (0, 1), ("world/gather/3", "world/broadcast/0/2"),
         "rank 0 is at gather (use 3), rank 1 is at broadcast from rank 0 (use 2)"),
    ),
    "broadcast of the world against a barrier": (
        (2, [(0, "barrier", "b"), (1, "receive", "a/world/broadcast/0/1", 0)]),
        (OrderMismatch, (0, 1), ("b", "a/world/broadcast/0/1"), 'rank 0 is at barrier "b", rank 1 is at broadcast from rank 0'),
    ),
    "broadcast of the world from who has gone": (
        (3, [(1, "receive", "world/broadcast/0/1", 0), (0, "passes")]),
        (MissingRank, (0,), ("world/broadcast/0/1",), "rank 0 passed without joining broadcast from rank 0"),
    ),
    "two uses of the world's gather": (
        (2, [(0, "gather", "world/gather/1/"), (1, "gather", "world/gather/2/")]),
        (StalePrefix, (0, 1), ("world/gather/1", "world/gather/2"),
         "different uses of one gather meet: rank 0 is at gather, rank 1 is at gather (use 2)"),
    ),
    "the first accident explains the second": (
        (4, [(3, "exits", -6), (1, "fails"), (0, "barrier", "b")]),
        (Exited, (3,), ("b",), 'rank 3 was killed by SIGABRT before joining "b"'),
    ),
    "threads of one rank": (
        (1, [((0, 0), "set", "x"), ((0, 1), "wait", "a"), ((0, 0), "wait", "b")]),
        (Deadlock, (0,), ("b", "a"), 'threads of rank 0 wait for each other: rank 0 for "b", rank 0 for "a"'),
    ),
}  # fmt: skip

REPAIRED: dict[str, World] = {
    "all join": (3, [(0, "barrier", "b"), (2, "barrier", "b"), (1, "barrier", "b")]),
    "the exception is caught": (2, [(0, "barrier", "b"), (1, "set", "caught"), (1, "barrier", "b"), (1, "fails")]),
    "equal counts": (
        2, [(0, "barrier", "b0"), (1, "barrier", "b0"), (1, "barrier", "b1"), (0, "barrier", "b1"),
            (1, "passes"), (0, "passes")],
    ),
    "one order": (2, [(0, "barrier", "a"), (1, "barrier", "a"), (1, "barrier", "b"), (0, "barrier", "b")]),
    "two keys, one set first": (2, [(0, "set", "b"), (0, "wait", "a"), (1, "wait", "b"), (1, "set", "a")]),
    "acknowledgement waited for, then deleted": (
        2, [(0, "set", "request"), (0, "wait", "ack"), (1, "wait", "request"), (1, "set", "ack"),
            (1, "delete_key", "ack"), (1, "passes"), (0, "passes")],
    ),
    "locks in one order": (
        2, [(0, "add", "A", 1), (0, "add", "B", 1), (1, "add", "A", 1), (1, "wait", "A/free"),
            (0, "set", "B/free"), (0, "set", "A/free"), (0, "passes"), (1, "passes")],
    ),
    "a straggler is stopped": (3, [(0, "barrier", "b"), (1, "barrier", "b"), (2, "stands", "stopped")]),
    "a slow rank": (3, [(0, "barrier", "b"), (1, "barrier", "b"), (2, "stands", "spinning")]),
    "keys come one by one": (2, [(0, "wait", "x0", "x1"), (1, "set", "x1"), (1, "set", "x0"), (1, "passes")]),
    "a deleted key is written again": (
        2, [(1, "set", "k"), (1, "delete_key", "k"), (0, "wait", "k"), (1, "set", "k"), (1, "passes")],
    ),
    "a thread sets the key late": (
        2, [((0, 1), "check", "x"), (0, "wait", "k"), (1, "wait", "k"), ((0, 1), "set", "k")],
    ),
    "a thread has left": (2, [((0, 1), "check", "x"), ((0, 1), "leaves"), (1, "set", "k"), (0, "wait", "k")]),
    "a test waits for its timeout": (
        2, [(0, "try", "never"), (1, "passes"), (0, "times_out"), (0, "passes")],
    ),
    "others wait for one who waits for its timeout": (
        2, [(0, "try", "never"), (1, "barrier", "b"), (0, "times_out"), (0, "barrier", "b")],
    ),
    "slow joiner after a timeout": (2, [(0, "barrier", "b"), (0, "times_out"), (1, "barrier", "b"), (0, "fails")]),
    "whoever gave up may call again": (
        3, [(0, "barrier", "b"), (0, "times_out"), (1, "barrier", "b"), (2, "exits", -9)],
    ),
    "the reply is on the way": (2, [(0, "wait", "a"), (1, "set", "a"), (1, "wait", "b"), (0, "set", "b")]),
    "gather": (3, [(0, "gather", "g/"), (2, "gather", "g/"), (1, "gather", "g/"), (1, "passes")]),
    "broadcast": (2, [(0, "receive", "x", 1), (1, "set", "x"), (1, "passes")]),
    "a barrier of some": (4, [(0, "barrier", "b", 2), (2, "passes"), (3, "barrier", "b", 2), (1, "passes")]),
    "more calls than ranks": (
        2, [((1, 1), "check", "x"), ((0, 0), "barrier", "b", 4), ((0, 1), "barrier", "b", 4), ((1, 0), "barrier", "b", 4),
            ((1, 1), "barrier", "b", 4)],
    ),
    "a counter that is called like a barrier's": (
        2, [(0, "count", "n"), (0, "count", "n"), (1, "count", "n"), (0, "wait", "n/last_member"), (1, "set", "x")],
    ),
    "the store's own barrier": (
        2, [(0, "barrier_of_store", "b"), (1, "barrier_of_store", "b"), (0, "delete_key", "b/last_member"),
            (0, "wait", "b/last_member"), (1, "set", "b/last_member"), (1, "passes")],
    ),
    "released before anybody waits, then deleted": (
        3, [(0, "join", "b"), (1, "join", "b"), (2, "barrier", "b"), (2, "delete_key", "b/last_member"),
            (0, "wait", "b/last_member"), (2, "passes"), (1, "set", "b/last_member")],
    ),
    "released by the store, then deleted": (
        3, [(0, "barrier_of_store", "b"), (1, "barrier_of_store", "b"), (2, "barrier_of_store", "b"),
            (2, "delete_key", "b/last_member"), (0, "wait", "b/last_member"), (2, "passes"),
            (1, "set", "b/last_member")],
    ),
    "the thread of a phase was not seen yet": (
        2, [(0, "wait", "k"), (0, "begins"), (1, "set", "k"), (0, "wait", "m"), (1, "passes")],
    ),
    "queue": (2, [(0, "queue_pop", "q"), (1, "queue_push", "q"), (1, "passes")]),
    "the launcher writes": (1, [(0, "set", "x"), (None, "set", "k"), (0, "wait", "k")]),
    "a rank goes on to the next phase": (
        2, [(1, "passes"), (1, "begins", "teardown"), (0, "wait", "k"), (1, "set", "k")],
    ),
    "all end": (2, [(0, "passes"), (1, "fails"), (0, "exits", 0), (1, "exits", 1)]),
}  # fmt: skip


def play(world: World) -> tuple[WaitGraph, list[bool]]:
    """A graph after the history, and what it said at each event."""
    graph = WaitGraph(world[0])
    return graph, [graph.take(event) for event in events_of(*world)]


@pytest.mark.parametrize("name", BUGS)
def test_bug(name: str) -> None:
    """The verdict is right in kind, ranks, keys and words, and comes with the step that closed the wait."""
    world, expected = BUGS[name]
    graph, said = play(world)
    found = diagnose(graph)
    assert found is not None
    assert (type(found), found.ranks, found.keys, found.cause) == expected
    assert found.exact
    closing = len(events_of(world[0], world[1][:-1]))
    assert not any(said[:closing])
    assert any(said[closing:])


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired(name: str) -> None:
    """There is no verdict at any event."""
    size, steps = REPAIRED[name]
    graph = WaitGraph(size)
    for event in events_of(size, steps):
        assert not graph.take(event)
        assert diagnose(graph) is None


def test_stale_prefix() -> None:
    """A call too many, and a rank that counts twice, are found though nobody hangs."""
    graph, _ = play((2, [(0, "barrier", "b"), (1, "barrier", "b"), (1, "barrier", "b")]))
    found = find_stale(graph)
    assert found is not None
    assert (found.ranks, found.keys) == ((1,), ("b",))
    assert found.cause == 'rank 1 called barrier "b" again (call 3 of 2): a prefix synchronises only once'
    graph, _ = play((3, [(0, "barrier", "b"), (0, "times_out"), (0, "barrier", "b"), (1, "barrier", "b")]))
    found = find_stale(graph)
    assert found is not None
    assert found.ranks == (0,)
    assert graph.doomed == ()


def test_fresh_prefixes() -> None:
    """Barriers that are used once each, and one whose counter was deleted, are not stale."""
    steps = [(rank, "barrier", name) for name in "ab" for rank in (0, 1)]
    steps += [(0, "delete_key", "a/num_members"), (0, "delete_key", "a/last_member")]
    steps += [(0, "barrier", "a"), (1, "barrier", "a")]
    steps += [(0, "count", "n"), (0, "count", "n")]
    steps += [(0, "barrier", "c"), (0, "times_out"), (0, "add", "c/num_members", -1), (0, "barrier", "c")]
    steps += [(1, "barrier", "c")]
    graph, said = play((2, steps))
    assert find_stale(graph) is None
    assert not any(said)


@pytest.mark.parametrize(
    ("steps", "exact"),
    [
        ([(0, "barrier", "b"), (1, "passes")], True),
        ([(None, "set", "x"), (0, "barrier", "b"), (1, "passes")], False),
        ([(None, "wait", "x"), (None, "leaves"), (0, "barrier", "b"), (1, "passes")], True),
        ([(None, "set", "x"), (None, "leaves"), (0, "barrier", "b"), (1, "passes")], True),
        ([((1, 0), "set", "x"), ((1, 1), "set", "y"), (0, "barrier", "b"), (1, "passes")], False),
        ([((1, 0), "set", "x"), ((1, 1), "set", "y"), (0, "barrier", "b"), (1, "exits", 1)], True),
    ],
)
def test_exact_or_suspected(steps: list[Step], exact: bool) -> None:
    """Whoever writes behind the back of the ranks' known threads makes a verdict a suspicion."""
    found = diagnose(play((2, steps))[0])
    assert found is not None
    assert found.exact is exact
    assert ("(suspected)" in str(found)) is not exact


def test_threads_that_never_used_the_store() -> None:
    """They are told from outside, and count only in ranks that might have ended the wait."""
    graph = WaitGraph(2)
    graph.ranks[0].extra_threads = 1
    for event in events_of(2, [(0, "barrier", "a"), (1, "barrier", "b")]):
        graph.take(event)
    found = diagnose(graph)
    assert found is not None
    assert not found.exact
    graph, _ = play((2, [(0, "barrier", "a"), (1, "passes")]))
    graph.ranks[0].extra_threads = 1
    found = diagnose(graph)
    assert found is not None
    assert found.exact


BARRIER = (0, "barrier", "b")
POLL = (1, "stands", "blocked", "do_poll")
PIPE = (2, "stands", "blocked", "pipe_write", "pid 7 (cat)")
SLEEP = (3, "stands", "blocked", "hrtimer_nanosleep")
COMPUTES = (4, "stands", "spinning")
STOPPED = (5, "stands", "stopped")


@pytest.mark.parametrize(
    ("steps", "verdict", "ranks", "cause"),
    [
        ([POLL, PIPE, SLEEP, COMPUTES, STOPPED], "Stopped", (5,), "rank 5 is stopped by a signal, and did nothing in the store"),
        (
            [BARRIER, POLL, SLEEP, COMPUTES, (5, "stands", "spinning")],
            "Spinning", (4, 5), "ranks 4-5 compute, and did nothing in the store",
        ),
        (
            [POLL, PIPE, SLEEP],
            "BlockedOutside", (3,), "rank 3 sleeps, and did nothing in the store",
        ),
        (
            [POLL, COMPUTES, (0, "passes")],
            "Spinning", (4,), "rank 4 computes, and did nothing in the store; rank 0 passed",
        ),
        (
            [POLL, SLEEP, (0, "passes")],
            "MissingRank", (0,),
            "rank 0 passed, while rank 1 waits for events of descriptors, rank 3 sleeps",
        ),
        (
            [SLEEP, (0, "passes")],
            "BlockedOutside", (3,),
            "rank 3 sleeps, and did nothing in the store; rank 0 passed",
        ),
        ([COMPUTES, (0, "passes")], "Spinning", (4,), "rank 4 computes, and did nothing in the store"),
        (
            [POLL, (3, "stands", "blocked", "do_poll"), PIPE, (0, "passes"), (4, "exits", 0)],
            "MissingRank", (0, 4),
            "rank 0 passed, rank 4 exited with code 0, while ranks 1, 3 wait for events of descriptors,"
            " rank 2 writes to a pipe whose other end pid 7 (cat) holds",
        ),
        (
            [POLL, STOPPED, (0, "passes"), (3, "exits", -9)],
            "Exited", (3,), "rank 3 was killed by SIGKILL, while rank 1 waits for events of descriptors, rank 5 is stopped by a signal",
        ),
        ([POLL, (2, "fails")], "MissingRank", (2,), "rank 2 failed, while rank 1 waits for events of descriptors"),
        (
            [BARRIER, POLL, (2, "stands", "blocked", "futex_wait_queue")],
            "BlockedOutside", (1, 2),
            "rank 1 waits for events of descriptors, rank 2 waits for a lock, and did nothing in the store;"
            " nobody is known to be the cause",
        ),
        (
            [BARRIER, PIPE],
            "BlockedOutside", (2,),
            "rank 2 writes to a pipe whose other end pid 7 (cat) holds, and did nothing in the store",
        ),
    ],
)  # fmt: skip
def test_outside(steps: list[Step], verdict: str, ranks: tuple[int, ...], cause: str) -> None:
    """There is one verdict, and no rank that is blocked leads while one is known that can end nobody's wait."""
    graph, said = play((6, steps))
    assert not any(said)
    found = diagnose_outside(graph)
    assert found is not None
    assert (found.verdict, found.ranks, found.exact, found.cause) == (verdict, ranks, False, cause)


def test_outside_of_those_who_are_in_the_store() -> None:
    """What the kernel says of a rank that waits in the store, or was heard of since, is no verdict."""
    assert (
        diagnose_outside(play((3, [BARRIER, (0, "stands", "blocked"), POLL, (1, "check", "x")]))[0]) is None
    )


def test_json() -> None:
    """A diagnosis is data, with the picture around it."""
    (size, steps), _ = BUGS["exception before the barrier"]
    found = diagnose(play((size, steps))[0])
    assert found is not None
    data = json.loads(json.dumps(found.to_json()))
    assert {"verdict": "MissingRank", "ranks": [1], "place": "t.py:41", "doomed": [0]}.items() <= data.items()
    assert data["picture"]["barriers"] == [
        {"prefix": "b", "name": '"b"', "world_size": 3, "arrived": [0],
         "absent": [[1, "failed: ValueError: boom, t.py:41"], [2, "runs"]]}
    ]  # fmt: skip
    assert data["remaining"] == 299.0


def test_a_diagnosis_pickles() -> None:
    """It travels between processes as it is."""
    found = diagnose(play(BUGS["different order"][0])[0])
    assert pickle.loads(pickle.dumps(found)) == found


def test_histories_survive_json() -> None:
    """A recorded history gives the verdict that the live one gave."""
    size, steps = BUGS["gather against barrier"][0]
    graph = WaitGraph(size)
    for event in events_of(size, steps):
        graph.take(load(dump(event)))
    assert diagnose(graph) == diagnose(play((size, steps))[0])
