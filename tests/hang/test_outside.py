"""Words for ranks that hang in a library, read from their stacks, and who is named the cause then."""

from __future__ import annotations

from pathlib import Path

import pytest
from histories import Group, Step, events_of

from pytest_elastic.hang import Frame, Stack, WaitGraph, diagnose_outside, review
from pytest_elastic.processes import SHARED

LIB = "/usr/lib/python3.11"
USER = Frame("/src/train.py", 12, "train")
TORCH = "/v/lib/python3.11/site-packages/torch/distributed"


def stack(*frames: tuple[str, str]) -> list[Stack]:
    return [Stack((USER, *(Frame(file, 1, function) for file, function in frames)), True)]


REDUCES = stack((f"{TORCH}/c10d_logger.py", "wrapper"), (f"{TORCH}/distributed_c10d.py", "all_reduce"))
GETS = stack((f"{LIB}/queue.py", "get"), (f"{LIB}/threading.py", "wait"))
BLOCKED = ("stands", "blocked", "futex_do_wait")


def said(ranks: int, steps: list[Step], stacks: dict[int, list[Stack]]) -> tuple[str, tuple[int, ...], str]:
    graph = WaitGraph(ranks)
    for event in events_of(ranks, steps):
        graph.take(event)
    found = diagnose_outside(graph, stacks)
    assert found is not None
    assert not found.exact
    return found.verdict, found.ranks, found.cause


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (REDUCES, "waits in all_reduce"),
        (GETS, "waits for an item of a queue"),
        (stack((f"{LIB}/threading.py", "join")), "waits for a thread to end"),
        (
            stack((f"{LIB}/subprocess.py", "wait"), (f"{LIB}/subprocess.py", "_wait")),
            "waits for a subprocess to end",
        ),
        (stack((f"{LIB}/multiprocessing/queues.py", "get")), "waits for a multiprocessing queue (get)"),
        (stack((f"{LIB}/multiprocessing/process.py", "join")), "waits for a child process to end"),
        (stack((f"{LIB}/socket.py", "accept")), "waits for a connection at a socket"),
    ],
)
def test_frames_say_what_a_rank_waits_for(frames: list[Stack], words: str) -> None:
    """With the user's line; where all are blocked nobody is known to be the cause."""
    verdict, ranks, cause = said(2, [(0, *BLOCKED), (1, *BLOCKED)], {0: frames, 1: frames})
    assert (verdict, ranks) == ("BlockedOutside", (0, 1))
    assert cause == (
        f"ranks 0-1 {words.replace('waits', 'wait', 1)} at train.py:12, and did nothing in the store;"
        " nobody is known to be the cause"
    )


def test_those_in_a_collective_are_not_the_cause_while_one_waits_for_something_of_its_own() -> None:
    """The queue is the cause."""
    steps: list[Step] = [(rank, *BLOCKED) for rank in range(3)]
    assert said(3, steps, {0: REDUCES, 1: GETS, 2: REDUCES}) == (
        "BlockedOutside", (1,),
        "rank 1 waits for an item of a queue at train.py:12, and did nothing in the store,"
        " while ranks 0, 2 wait in all_reduce at train.py:12",
    )  # fmt: skip


def test_those_in_the_store_are_not_the_cause_while_one_waits_for_something_of_its_own() -> None:
    """The queue is the cause."""
    steps: list[Step] = [(0, "barrier", "b"), (1, *BLOCKED)]
    assert said(2, steps, {1: GETS}) == (
        "BlockedOutside", (1,),
        "rank 1 waits for an item of a queue at train.py:12, and did nothing in the store,"
        ' while rank 0 waits for barrier "b"',
    )  # fmt: skip


def test_of_a_collective_and_the_store_neither_is_the_cause() -> None:
    """Each side may wait for the other one."""
    steps: list[Step] = [(0, "barrier", "b"), (1, *BLOCKED), (2, *BLOCKED)]
    assert said(3, steps, {1: REDUCES, 2: REDUCES}) == (
        "BlockedOutside", (0, 1, 2),
        'rank 0 waits for barrier "b", ranks 1-2 wait in all_reduce at train.py:12;'
        " nobody is known to be the cause",
    )  # fmt: skip


def test_those_in_a_collective_are_not_the_cause_while_one_has_passed() -> None:
    """Who passed is named, with what the others wait for."""
    assert said(2, [(0, *BLOCKED), (1, "passes")], {0: REDUCES}) == (
        "MissingRank", (1,), "rank 1 passed, while rank 0 waits in all_reduce at train.py:12"
    )  # fmt: skip


def test_a_pipe_is_told_with_the_rank_at_its_other_end() -> None:
    """That reads or writes."""
    steps: list[Step] = [(0, "stands", "blocked", "anon_pipe_read", "rank 2 at descriptor 5"), (2, *BLOCKED)]
    assert said(3, steps, {2: GETS}) == (
        "BlockedOutside", (2,),
        "rank 2 waits for an item of a queue at train.py:12, and did nothing in the store,"
        " while rank 0 reads from a pipe whose other end rank 2 holds (descriptor 5)",
    )  # fmt: skip


def test_what_the_kernel_tells_is_said_in_words() -> None:
    """A function that is not known is named."""
    steps: list[Step] = [
        (0, "stands", "blocked", "futex_wait_queue"),
        (1, "stands", "blocked", "inet_csk_accept", "port 4711"),
        (2, "stands", "blocked", "anon_pipe_read", "nobody else at descriptor 5"),
        (3, "stands", "blocked", "wait_for_moon"),
    ]
    assert said(4, steps, {})[2] == (
        "rank 0 waits for a lock, rank 1 waits in accept() on port 4711,"
        " rank 2 reads from a pipe whose other end nobody else holds (descriptor 5),"
        " rank 3 is blocked in the kernel (wait_for_moon), and did nothing in the store;"
        " nobody is known to be the cause"
    )


def test_a_call_in_c_is_told_by_its_line(tmp_path: Path) -> None:
    """As those of mpi4py are."""
    file = tmp_path / "job.py"
    file.write_text("from mpi4py import MPI\n\nMPI.COMM_WORLD.Barrier()\n", "utf-8")
    at_barrier = [Stack((Frame(str(file), 3, "<module>"),), True)]
    _, _, cause = said(2, [(0, *BLOCKED), (1, "passes")], {0: at_barrier})
    assert cause == "rank 1 passed, while rank 0 waits in MPI's Barrier at job.py:3"


def test_a_line_that_sleeps_says_so(tmp_path: Path) -> None:
    """And so where it does."""
    file = tmp_path / "job.py"
    file.write_text("import time\ntime.sleep(60)\n", "utf-8")
    asleep = [Stack((Frame(str(file), 2, "<module>"),), True)]
    steps: list[Step] = [(0, *BLOCKED), (1, "stands", "blocked", "hrtimer_nanosleep")]
    assert said(2, steps, {0: REDUCES, 1: asleep}) == (
        "BlockedOutside", (1,), "rank 1 sleeps at job.py:2, and did nothing in the store"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stands", "frames", "words"),
    [
        (("spinning",), (("/v/site-packages/mpi4py/util/pkl5.py", "recv"),), "waits in MPI's recv"),
        (("blocked", "hrtimer_nanosleep"), ((f"{TORCH}/distributed_c10d.py", "send"),), "waits in send"),
    ],
)
def test_a_library_that_polls_is_blocked(
    stands: tuple[str, ...], frames: tuple[tuple[str, str], ...], words: str
) -> None:
    """Though it computes or sleeps: the cause is the rank that computes for itself."""
    steps: list[Step] = [(0, "stands", *stands), (1, "stands", "spinning")]
    assert said(2, steps, {0: stack(*frames)}) == (
        "Spinning", (1,), "rank 1 computes, and did nothing in the store"
    )  # fmt: skip
    assert said(2, [(0, "stands", *stands), (1, "passes")], {0: stack(*frames)}) == (
        "MissingRank", (1,), f"rank 1 passed, while rank 0 {words} at train.py:12"
    )  # fmt: skip


def test_members_that_are_gone_are_the_cause_of_a_hang_below_a_call() -> None:
    """The root of a broadcast is past its meeting, and blocked in the real operation."""
    steps: list[Step] = [(0, "issues", "broadcast(float32[4], from 0)", 12), (1, "passes"), (0, *BLOCKED)]
    assert said(2, steps, {}) == (
        "MissingRank", (1,),
        "rank 1 passed without joining broadcast #0 of group world (train.py:12), in which rank 0 waits",
    )  # fmt: skip


def test_a_rank_that_its_stack_has_let_go_on_is_named_all_the_same() -> None:
    """A full pipe's writer makes its next request after the signal for its stack: whom it kept is no cause."""
    graph, group = WaitGraph(2), Group(2)

    def take(*steps: Step) -> None:
        for step in steps:
            for event in group.step(*step):
                graph.take(event)

    take((0, "barrier", "b", 2), (0, "stands", "blocked", "unix_stream_read_generic"))
    take((1, "stands", "blocked", "anon_pipe_write", "nobody else at descriptor 5"))
    found = diagnose_outside(graph)
    assert found is not None
    assert found.ranks == (1,)
    take((1, "barrier", "b", 2))
    assert review(graph, found, {0: GETS, 1: GETS}) == found


JOINS = stack((f"{LIB}/threading.py", "join"))
LOCKS = stack((f"{LIB}/threading.py", "acquire"))


def test_who_has_passed_is_not_the_cause_of_what_a_rank_waits_for_in_its_own_process() -> None:
    """Nor is one that has skipped; one that failed is."""
    assert said(2, [(0, *BLOCKED), (1, "passes")], {0: JOINS}) == (
        "BlockedOutside", (0,),
        "rank 0 waits for a thread to end at train.py:12, and did nothing in the store; rank 1 passed",
    )  # fmt: skip
    assert said(2, [(0, *BLOCKED), (1, "fails")], {0: JOINS})[1] == (1,)
    steps: list[Step] = [(0, *BLOCKED), (1, "passes"), (2, *BLOCKED)]
    assert said(3, steps, {0: JOINS, 2: REDUCES})[1] == (1,)


def test_a_lock_that_processes_share_may_be_in_the_hands_of_one_that_has_passed() -> None:
    """The stack alone would say that it is another thread's."""
    steps: list[Step] = [(0, "stands", "blocked", "futex_do_wait", SHARED), (1, "passes")]
    assert said(2, steps, {0: LOCKS})[2] == (
        "rank 1 passed, while rank 0 waits for a lock that processes share at train.py:12"
    )


def test_a_lock_of_a_file_is_told_with_the_rank_that_has_it() -> None:
    """And with the line."""
    steps: list[Step] = [
        (0, "barrier", "b"),
        (1, "stands", "blocked", "fcntl_setlk", "rank 0 at descriptor 7"),
    ]
    assert said(2, steps, {1: stack()}) == (
        "BlockedOutside", (0, 1),
        'rank 0 waits for barrier "b", rank 1 waits for a lock of a file that rank 0 holds (descriptor 7)'
        " at train.py:12",
    )  # fmt: skip


def test_a_rank_that_asks_again_and_again_did_something_in_the_store() -> None:
    """It is told what; a few equal requests, or others since, are no loop."""
    asks: Step = (0, "check", "go")
    asleep: Step = (0, "stands", "blocked", "hrtimer_nanosleep")
    assert said(2, [*[asks] * 20, asleep, (1, "passes")], {})[2] == (
        'rank 0 calls check("go") again and again; rank 1 passed'
    )
    idle = "rank 0 sleeps, and did nothing in the store; rank 1 passed"
    assert said(2, [*[asks] * 5, asleep, (1, "passes")], {})[2] == idle
    assert said(2, [*[asks] * 20, (0, "set", "a"), asleep, (1, "passes")], {})[2] == idle
