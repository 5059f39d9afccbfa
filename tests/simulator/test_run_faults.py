"""Faults in the simulator: each kind, and each only once."""

from __future__ import annotations

import sys
import time

import pytest

from pytest_elastic.errors import DistNetworkError, DistStoreError, UnfiredFaultError
from pytest_elastic.faults import delay, drop, exit, kill, late_join, resume, server_gone, stop
from pytest_elastic.simulator import HangUntilTimeout, RankFailed, simulate
from simulator.programs import exchange


def run(function, faults, ranks=2, **named):
    return simulate(function, (), faults, ranks=ranks, **named)


def add_thrice(rank, world_size, store):
    for _ in range(3):
        store.add(f"n{rank}", 1)
    time.sleep(1)
    return [int(store.get(f"n{r}")) if store.check([f"n{r}"]) else 0 for r in range(world_size)]


def test_kill(crew):
    """A killed rank does nothing from that operation on; it is no failure by itself."""
    execution = run(add_thrice, kill(rank=1, op=3)).check()
    assert execution.results == [[3, 2], None]
    assert list(execution.killed) == [1]
    assert [str(step) for step in execution.steps if step.kind == "fault"] == [
        "rank 1: fault of kill('K1@3')"
    ]


def test_kill_runs_no_operation_of_a_finally(crew):
    """Like SIGKILL, as far as the store can see."""

    def work(rank, world_size, store):
        try:
            store.set(f"a{rank}", "")
        finally:
            store.set(f"b{rank}", "")
        return sorted(store.list_keys())

    assert run(work, kill(rank=0, op=1)).check().results == [None, ["a1", "b1"]]


def test_survivors_of_a_kill_hang():
    """Who waits for a killed rank gets the verdict."""
    execution = run(exchange, kill(rank=2, op=1), ranks=3)
    assert isinstance(execution.verdict, HangUntilTimeout)
    assert execution.verdict.ranks == [0, 1]


def test_exit():
    """An exit ends a rank as a kill does."""
    execution = run(add_thrice, exit(rank=0, code=7, op=1)).check()
    assert execution.results == [None, [0, 3]]
    assert execution.killed[0].code == 7


def test_stop_and_resume(crew):
    """A stopped rank goes on when another one does something."""

    def work(rank, world_size, store):
        if rank == 0:
            time.sleep(5)
            store.set("go", "")
        store.add("n", 1)
        return time.monotonic()

    plan = stop(rank=1, op=1) | resume(rank=1, key="go", of=0)
    assert run(work, plan).check().results == [5.0, 5.0]
    execution = run(work, stop(rank=1, op=1))
    assert execution.check().results == [5.0, None]
    assert execution.stopped == (1,)


def test_stop_for_a_time():
    """A stop that ends by itself is no hang."""

    def work(rank, world_size, store):
        store.add("n", 1)
        return time.monotonic()

    assert run(work, stop(rank=1, seconds=3, op=1)).check().results == [0.0, 3.0]


def test_the_answer_of_a_stopped_rank_waits():
    """A rank that is stopped while it waits is answered when it goes on; its timeout does not pass before."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("stop", "")
            store.set("k", "")
            return None
        store.wait(["k"], 1)
        return time.monotonic()

    execution = simulate(work, "E1.2.l.0-1", stop(rank=1, seconds=3, key="stop", of=0)).check()
    assert execution.results == [None, 3.0]


def test_what_became_due_during_a_stop():
    """A timeout that passed meanwhile comes with the end of the stop."""

    def work(rank, world_size, store):
        if rank == 0:
            store.set("stop", "")
            time.sleep(4)
            return None
        with pytest.raises(DistStoreError):
            store.wait(["k"], 1)
        return time.monotonic()

    assert simulate(work, "E1.2.l.0-1", stop(rank=1, seconds=3, key="stop", of=0)).check().results == [
        None,
        3.0,
    ]


def test_delay_and_late_join():
    """The operation happens later; others see that."""

    def work(rank, world_size, store):
        count = store.add("n", 1)
        return count, time.monotonic()

    assert run(work, delay(rank=0, by=2, key="n")).check().results == [(2, 2.0), (1, 0.0)]
    assert run(work, late_join(rank=0, by=3)).check().results == [(2, 3.0), (1, 0.0)]


def test_drop():
    """A lost write is answered as if it had happened."""

    def work(rank, world_size, store):
        return store.add("n", 1), store.add("n", 1)

    assert run(work, drop(rank=0, op=1), ranks=1).check().results == [(1, 1)]


def test_server_gone(crew):
    """Everybody's operations fail from then on, those that wait included."""

    def work(rank, world_size, store):
        with pytest.raises(DistNetworkError, match="gone"):
            if rank == 0:
                store.wait(["k"])
            store.set("j", "")
        with pytest.raises(DistNetworkError, match="gone"):
            store.num_keys()

    run(work, server_gone(key="j")).check()


def test_a_fault_that_never_happened():
    """It is an error, since nothing was tested; a verdict says more, and comes first."""
    execution = run(add_thrice, kill(rank=0, op=99))
    assert execution.verdict is None
    with pytest.raises(UnfiredFaultError, match="op=99"):
        execution.check()

    def fail(rank, world_size, store):
        raise ValueError

    with pytest.raises(RankFailed):
        run(fail, kill(rank=0, op=99)).check()


def test_faults_in_the_token():
    """A token carries its faults."""
    assert simulate(add_thrice, "E1.2.l+K1@3").check().results == [[3, 2], None]


def chat(rank, world_size, store):
    for number in range(3):
        print("line", number, "of", rank)
        store.add(f"n{rank}", 1)
    time.sleep(1)
    return [int(store.get(f"n{r}")) if store.check([f"n{r}"]) else 0 for r in range(world_size)]


def test_a_fault_at_a_line(crew, capsys):
    """A kill where a rank has written something; the line is there, and nothing after it."""
    assert run(chat, kill(rank=1, line="line 1 of 1")).check().results == [[3, 1], None]
    written = capsys.readouterr().out
    assert "line 2 of 0" in written
    assert "line 1 of 1" in written
    assert "line 2 of 1" not in written


def test_a_fault_at_a_line_of_another(crew):
    """What one rank writes stops another one, until it writes more."""

    def work(rank, world_size, store):
        if rank == 0:
            print("stop it")
            time.sleep(5)
            sys.stderr.write("go ")
            sys.stderr.write("on\n")
        else:
            store.add("n", 1)
            return time.monotonic()

    plan = stop(rank=1, line="stop", of=0) | resume(rank=1, line="go on", of=0)
    assert run(work, plan).check().results == [None, 5.0]


def test_a_line_that_is_never_written():
    """As with every trigger."""
    with pytest.raises(UnfiredFaultError, match="wrote 3 lines, 0 of 1 matches"):
        run(chat, kill(rank=0, line="never")).check()


def test_streams_are_given_back(crew):
    """After a simulation that listens, output is as it was."""
    streams = sys.stdout, sys.stderr
    run(chat, kill(rank=1, line="line 1 of 1")).check()
    assert (sys.stdout, sys.stderr) == streams


def test_a_drop_of_what_the_store_refuses():
    """The answer is the store's, also where that is an error."""

    def work(rank, world_size, store):
        store.set("text", "text")
        with pytest.raises(ValueError, match="is no number"):
            store.add("text", 1)
        return store.get("text")

    assert run(work, drop(rank=0, op=2), ranks=1).check().results == [b"text"]
