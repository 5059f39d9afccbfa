"""`PContext`: from start to result, whatever kind of ranks; close and the stop sequence."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from jobs import double
from machine import late

from pytest_elastic.clock import SystemClock
from pytest_elastic.multiprocessing import (
    DefaultLogsSpecs,
    MultiprocessContext,
    ProcessFailure,
    RunProcsResult,
    Std,
)


def sleep_on(rank):
    time.sleep(1000)


def ignore(rank):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ignoring", flush=True)
    time.sleep(1000)


def said(context, text):
    """Whether each rank has printed it."""
    paths = [path for path in context.stdouts.values() if os.path.exists(path)]
    return len(paths) == context.nprocs and all(text in Path(path).read_text() for path in paths)


def elapsed(function, *args, **named):
    begin = time.monotonic()
    function(*args, **named)
    return time.monotonic() - begin


# The result


def test_result_is_data():
    """Five maps by rank, empty by default; `failures` decide."""
    names = [field.name for field in dataclasses.fields(RunProcsResult)]
    assert names == ["return_values", "failures", "stdouts", "stderrs", "stopped"]
    assert dataclasses.astuple(RunProcsResult()) == ({}, {}, {}, {}, {})
    assert not RunProcsResult(stopped={0: "x"}).is_failed()
    assert RunProcsResult(failures={0: "x"}).is_failed()


def test_pickle(launch, result_of):
    """A real result survives with all its fields."""
    result = result_of(launch(lambda rank: 1 / rank, 2))
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert isinstance(copy.failures[0], ProcessFailure)
    assert "ZeroDivisionError" in copy.failures[0].message["message"]


def test_success(launch, result_of):
    """What functions return, `None` included; programs owe nothing."""
    result = result_of(launch(lambda rank: None if rank else [rank]))
    assert (result.return_values, result.failures, result.stopped) == ({0: [0], 1: None, 2: None}, {}, {})
    assert result_of(launch("true", 2)).return_values == {0: None, 1: None}


@pytest.mark.parametrize("entrypoint", ["sh", "function"])
def test_failure_has_no_values(entrypoint, launch, result_of):
    """Also where other ranks finished."""
    args = {0: ("-c", "exit 0"), 1: ("-c", "exit 7")}
    if entrypoint == "sh":
        result = result_of(launch("sh", args=args))
    else:
        result = result_of(launch(lambda rank: rank and sys.exit(7), 2))
    assert (result.return_values, list(result.failures), result.stopped) == ({}, [1], {})
    assert result.failures[1].exitcode == 7


# Before the start, and again


def test_before_start(tmp_path, shared_zygote, result_of):
    """`close` does nothing, and `start` still works; `wait` has nothing to wait for."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    context = MultiprocessContext("n", double, {0: (1,)}, {0: {}}, "fork", specs)
    assert context.pids() == {}
    context.close()
    context.close(timeout=5)
    with pytest.raises(RuntimeError, match="not started"):
        context.wait(0)
    context.start()
    assert result_of(context).return_values == {0: 2}


def test_start_twice(launch):
    """Running or ended."""
    context = launch(sleep_on)
    with pytest.raises(ValueError, match=r"already initialized.*called twice"):
        context.start()
    context.close(timeout=0)
    with pytest.raises(ValueError, match=r"already initialized.*called twice"):
        context.start()


def test_pids(launch, until):
    """Rank -> pid in rank order, the same after the end."""
    context = launch(lambda rank: (print(os.getpid()), sleep_on(rank)))
    until(lambda: said(context, "\n"))
    pids = context.pids()
    assert list(pids) == [0, 1, 2]
    assert [int(Path(path).read_text()) for path in context.stdouts.values()] == list(pids.values())
    context.close(timeout=0)
    assert context.pids() == pids


@pytest.mark.parametrize("entrypoint", [sleep_on, "sleep"])
def test_closed_while_waited_for(entrypoint, launch, nobody_left):
    """The waiting thread gets the result soon after; `close` again does nothing."""
    context = launch(entrypoint, args={0: (1000,), 1: (1000,)})
    results = []
    threads = [threading.Thread(target=lambda: results.append(context.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    context.close(timeout=5)
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - begin < late(3)
    context.close()
    nobody_left(context)
    assert len(results) == 3
    assert all(result is results[0] for result in results)
    assert sorted(results[0].stopped) == [0, 1]


def test_closed_from_another_thread(launch):
    """While the main thread waits."""
    context = launch(sleep_on)
    thread = threading.Timer(0.1, context.close)
    thread.start()
    assert sorted(context.wait(10).stopped) == [0, 1, 2]
    thread.join()


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn", "program"])
def test_runs_leave_nothing(kind, launch, shared_zygote, rounds, until):
    """Descriptors, threads and children are as many as before, though the contexts are still referenced."""
    threads = threading.active_count()
    named = {} if kind == "program" else {"start_method": kind}
    entrypoint = "true" if kind == "program" else double
    kept = [launch(entrypoint, 2, tee=Std.ALL, **named)]
    kept[0].wait()

    def counts():
        return (
            len(os.listdir("/proc/self/fd")), threading.active_count(), len(psutil.Process().children()),
        )  # fmt: skip

    # Tails and zygotes take some milliseconds to end, in threads of their own.
    until(lambda: threading.active_count() == threads)
    before = counts()
    for _ in range(rounds(2, 20)):
        kept.append(launch(entrypoint, 2, tee=Std.ALL, **named))
        assert not kept[-1].wait(20).is_failed()
    until(lambda: counts() == before)


# Time


def test_zero_polls(launch):
    """It returns at once, `None` while ranks run."""
    context = launch(sleep_on)
    assert elapsed(context.wait, 0) < late(0.5)
    assert context.wait(0) is None


@pytest.mark.parametrize("period", [0.001, 1, 30])
def test_a_timeout(period, launch):
    """It is kept, whatever the period, and the ranks run on."""
    context = launch(sleep_on)
    assert 0.2 <= elapsed(context.wait, 0.2, period) < late(0.6)
    assert context.wait(0) is None
    assert all(map(psutil.pid_exists, context.pids().values()))


def test_the_timeout_holds_while_siblings_are_stopped(launch, until):
    """A failure is there, a sibling ignores SIGTERM: `wait` keeps its time, `close` ends it."""
    context = launch(
        lambda rank: ignore(rank) if rank else until(lambda: said(context, "ignoring")) or 1 / 0, 2
    )
    context.stdouts.pop(0)
    context.nprocs = 1
    until(lambda: said(context, "ignoring"))
    assert elapsed(context.wait, 0.3, 0) < late(1)
    assert context.wait(0) is None
    context.close(timeout=0)
    assert context.wait().stopped[1].exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("timeout", "period"), [(float("nan"), 1), (1, float("nan")), (-1, float("nan")), (1, -0.1), (-1, -1)]
)
def test_what_is_no_span(timeout, period, launch):
    """Refused, running or ended."""
    context = launch(lambda rank: None)
    with pytest.raises(ValueError, match=r"timeout|period"):
        context.wait(timeout, period)
    context.wait()
    with pytest.raises(ValueError, match=r"timeout|period"):
        context.wait(timeout, period)


def test_the_docstring_warns():
    """Negative is for ever: the caller clamps."""
    assert "Clamp it at 0" in MultiprocessContext.wait.__doc__


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_wakes_when_it_is_decided(outcome, launch):
    """Long before the period has passed."""

    def stamp(rank):
        time.sleep(0.2)
        if outcome == "failure":
            raise ValueError
        print(time.monotonic())

    context = launch(stamp, 1)
    begin = time.monotonic()
    context.wait(60, 30)
    assert time.monotonic() - begin < late(1.5)


def test_the_wall_clock_steps(launch, monkeypatch):
    """An hour forth and back changes nothing."""
    context = launch(sleep_on)
    steps = iter([3600, -3600] * 10_000)
    wall = time.time
    monkeypatch.setattr(SystemClock, "time", staticmethod(lambda: wall() + next(steps)))
    assert 0.3 <= elapsed(context.wait, 0.3) < late(0.8)


# What a result ends


def test_a_result_ends_the_context(launch, nobody_left):
    """All reaped, and the same result again."""
    context = launch(lambda rank: print("last line", rank))
    result = context.wait(20)
    nobody_left(context)
    assert [Path(path).read_text() for path in result.stdouts.values()] == [
        f"last line {rank}\n" for rank in range(3)
    ]
    context.close()
    assert context.wait() is context.wait(0) is context.wait(5, 0) is result


def test_siblings_get_a_period(launch, result_of):
    """One that ends by itself within it has finished; no value comes of it, since another failed."""
    context = launch(lambda rank: time.sleep(0.3) if rank else 1 / 0, 2)
    result = result_of(context, period=15)
    assert (list(result.failures), result.stopped, result.return_values) == ([0], {}, {})


def test_then_they_are_stopped(launch, result_of):
    """Those that are left are marked."""
    result = result_of(launch(lambda rank: 1 / rank and sleep_on(rank)), period=0.2)
    assert list(result.failures) == [0]
    assert {rank: (failure.exitcode, failure.stopped) for rank, failure in result.stopped.items()} == {
        1: (-15, True), 2: (-15, True),
    }  # fmt: skip


@pytest.mark.parametrize("grain", [0, 0.003, 0.05])
def test_polls_of_any_grain(grain, launch, until):
    """The outcome is that of one long `wait`, and the period counts from the first sight of the failure."""
    context = launch(lambda rank: (time.sleep(0.1 * rank), 1 / (rank - 1)) and sleep_on(rank), 3)
    begin = time.monotonic()
    until(lambda: context.wait(grain, 0.4))
    assert time.monotonic() - begin >= 0.4
    result = context.wait()
    assert (list(result.failures), sorted(result.stopped)) == ([1], [0, 2])


def test_failures_in_order_of_exit(launch, result_of, tmp_path):
    """Every rank that failed by itself, the first one first."""

    def fail_after_the_next(rank):
        (tmp_path / f"{rank}").write_text(f"{os.getpid()}\n")
        following = tmp_path / f"{rank + 1}"
        while rank < 2 and not (following.exists() and following.read_text().endswith("\n")):
            time.sleep(0.01)
        while rank < 2 and psutil.pid_exists(
            int(following.read_text())
        ):  # Until the guardian has seen its end.
            time.sleep(0.01)
        sys.exit(rank + 1)

    result = result_of(launch(fail_after_the_next), period=30)
    assert [(rank, failure.exitcode) for rank, failure in result.failures.items()] == [(2, 3), (1, 2), (0, 1)]
    assert all(not failure.stopped for failure in result.failures.values())


def test_programs_list_those_we_stopped(launch, result_of):
    """As torch counts; they are in `stopped` too, and marked so in both."""
    result = result_of(launch("sh", args={0: ("-c", "sleep 1000"), 1: ("-c", "exit 138")}))
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 138, 0: -15}
    assert {rank: failure.exitcode for rank, failure in result.stopped.items()} == {0: -15}
    assert (result.failures[0].stopped, result.failures[1].stopped) == (True, False)


def test_a_bad_end_after_the_result(launch, result_of):
    """The value had arrived, the process ended badly: a failure."""

    def leave(rank):
        if rank == 1:
            import atexit

            atexit.register(os._exit, 7)
        return rank

    result = result_of(launch(leave))
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 7}
    assert result.return_values == {}
