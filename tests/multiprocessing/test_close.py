"""`close` and the stop sequence: who is signalled, how long it takes, who is left; signals of the launcher."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from machine import late

from pytest_elastic.errors import SurvivorsError
from pytest_elastic.multiprocessing import SignalException
from pytest_elastic.processes import Process


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


def trap(rank):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("ready")
    while True:  # Python may see a signal just before a long sleep, and handle it after that.
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["function", "program"])
def test_closed_by_the_caller(kind, launch, until, nobody_left):
    """Ranks without a result are stopped ones, whatever their exit code."""
    if kind == "function":
        context = launch(trap)
    else:
        line = ("-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done")
        context = launch("sh", args=dict.fromkeys(range(3), line))
    until(lambda: said(context, "ready"))
    context.close(timeout=10)
    result = context.wait()
    nobody_left(context)
    assert result.is_failed()
    assert [failure.exitcode for failure in result.stopped.values()] == [0, 0, 0]
    assert list(result.failures) == [0, 1, 2]
    assert all(failure.stopped for failure in result.stopped.values())


def test_closed_after_some_returned(launch, until):
    """Those that have ended are not among the stopped."""
    context = launch(lambda rank: rank and sleep_on(rank), 2)
    until(lambda: 0 in context.group.exits or context.wait(0))
    context.close(timeout=5)
    assert (list(context.wait().failures), list(context.wait().stopped)) == ([1], [1])


@pytest.mark.parametrize(
    ("death_sig", "expected"), [(None, -15), (signal.SIGINT, -2), (10, -10), (signal.SIGKILL, -9)]
)
def test_the_death_signal(death_sig, expected, launch):
    """A `Signals` or its number; SIGTERM by default."""
    context = launch("sleep", args={0: (1000,), 1: (1000,)})
    context.close(death_sig, timeout=10)
    assert {failure.exitcode for failure in context.wait().stopped.values()} == {expected}


@pytest.mark.parametrize("named", [{"timeout": -1}, {"timeout": float("nan")}, {"death_sig": 4000}])
def test_bad_arguments_of_close(named, launch):
    """Refused, and nothing happens."""
    context = launch(sleep_on)
    with pytest.raises(ValueError, match=r"timeout|4000"):
        context.close(**named)
    assert context.wait(0) is None


@pytest.mark.parametrize("nprocs", [1, 32])
@pytest.mark.parametrize("timeout", [0, 0.5])
def test_ranks_that_ignore_the_signal(nprocs, timeout, launch, until, nobody_left):
    """One grace for all together, then SIGKILL; no grace is at once."""
    context = launch(ignore, nprocs)
    until(lambda: said(context, "ignoring"))
    assert timeout <= elapsed(context.close, timeout=timeout) < timeout + late(1)
    nobody_left(context)
    assert {failure.exitcode for failure in context.wait().stopped.values()} == {-9}


def test_the_early_are_not_waited_for(launch):
    """A grace of a minute is not spent on ranks that end by the signal."""
    context = launch(sleep_on, 8)
    assert elapsed(context.close, timeout=60) < late(5, below=60)


def test_the_marker(launch, result_of):
    """Every rank has the group's own, functions and programs alike."""
    contexts = [
        launch(lambda rank: print(os.environ["PYTEST_ELASTIC_GROUP"])),
        launch("sh", args=dict.fromkeys(range(3), ("-c", "echo $PYTEST_ELASTIC_GROUP"))),
    ]
    for context in contexts:
        marks = {Path(path).read_text() for path in result_of(context).stdouts.values()}
        assert marks == {context.marker()["PYTEST_ELASTIC_GROUP"] + "\n"}
    assert contexts[0].marker() != contexts[1].marker()


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("kind", ["function", "program"])
def test_children(kind, session, launch, tmp_path, result_of, until):
    """Children of the rank that failed and of those that run are gone, own sessions included."""
    script = f"echo $$ > {tmp_path}/$0.$$; exec sleep 1000"
    if kind == "function":

        def parent(rank):
            subprocess.Popen(["sh", "-c", script, str(rank)], start_new_session=session)
            while len(list(tmp_path.glob("?.*"))) < 2:
                time.sleep(0.01)
            return 1 / rank and sleep_on(rank)

        context = launch(parent, 2)
    else:
        start = f"{'setsid ' if session else ''}sh -c '{script}' {{}} & "
        wait = f"while [ $(ls {tmp_path} | grep -c '^.\\.') -lt 2 ]; do sleep 0.01; done; "
        ends = ("exit 1", "sleep 1000")
        context = launch("sh", args={r: ("-c", start.format(r) + wait + ends[r]) for r in range(2)})
    result = result_of(context, period=0.5)
    assert list(result.stopped) == [1]
    pids = [int(path.read_text()) for path in tmp_path.glob("?.*")]
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


def test_a_leak_is_logged_once(launch, result_of, caplog):
    """The result is unchanged; pid and command are told."""
    context = launch(lambda rank: subprocess.Popen(["sleep", "1000"]).pid, 1)
    begin = time.monotonic()
    result = result_of(context)
    assert time.monotonic() - begin < late(3)
    context.wait()
    context.close()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        record.getMessage()
        == f"trainer left a process behind: pid {result.return_values[0]}, sleep 1000 (killed)"
    )
    assert not result.is_failed()
    assert not psutil.pid_exists(result.return_values[0])


@pytest.mark.parametrize("kind", ["function", "program"])
def test_a_leak_is_killed_while_others_run(kind, launch, result_of, caplog, tmp_path):
    """It does not outlive its rank for as long as there are other ranks, and these keep their own children."""
    files = [tmp_path / "0", tmp_path / "1"]
    wait = f"while ! grep -q Z /proc/$(cat {files[0]})/stat; do sleep 0.01; done; kill -0 $(cat {files[1]})"

    def work(rank):
        child = subprocess.Popen(["sleep", "1000"])
        files[rank].with_suffix(".new").write_text(str(child.pid))
        files[rank].with_suffix(".new").rename(files[rank])
        if rank == 1:
            subprocess.run(["sh", "-c", f"until [ -e {files[0]} ]; do sleep 0.01; done; {wait}"], check=True)
            child.kill()
            child.wait()

    if kind == "function":
        context = launch(work, 2)
    else:
        begin = "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; "
        last = f"until [ -e {files[0]} ]; do sleep 0.01; done; {wait} && kill $!"
        args = {0: ("-c", begin.format(files[0])), 1: ("-c", begin.format(files[1]) + last)}
        context = launch("sh", args=args)
    assert not result_of(context).is_failed()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        record.getMessage()
        == f"trainer left a process behind: pid {int(files[0].read_text())}, sleep 1000 (killed)"
    )


def test_helpers_have_a_moment(launch, result_of, caplog):
    """A child that ends with its rank is no leak."""
    result = result_of(launch(lambda rank: subprocess.Popen(["sleep", "0.02"]) and None))
    assert not result.is_failed()
    assert caplog.records == []


def test_a_stopped_rank_sees_the_signal(launch, until):
    """It ends by the signal, not by SIGKILL after the grace."""
    context = launch(lambda rank: os.kill(os.getpid(), signal.SIGSTOP))
    until(lambda: all(psutil.Process(pid).status() == "stopped" for pid in context.pids().values()))
    assert elapsed(context.close, timeout=20) < late(5, below=20)
    assert {failure.exitcode for failure in context.wait().stopped.values()} == {-15}


def test_a_rank_that_survives(launch, until, tmp_path, monkeypatch):
    """It cannot hold `close`: the others are gone, and the error names it."""
    immortal = tmp_path / "immortal"
    send = Process.signal

    def spare(process, signum):
        if str(process.pid) != immortal.read_text():
            send(process, signum)

    def live(rank):
        if rank == 1:
            (tmp_path / "new").write_text(str(os.getpid()))
            (tmp_path / "new").rename(immortal)
        time.sleep(1000)

    monkeypatch.setattr(Process, "signal", spare)  # The fork that will be the guardian has it too.
    context = launch(live)
    until(immortal.exists)
    begin = time.monotonic()
    with pytest.raises(SurvivorsError) as caught:
        context.close(timeout=0.5)
    assert time.monotonic() - begin < late(3)
    assert (list(caught.value.pids), caught.value.ranks) == ([context.pids()[1]], [1])
    result = context.wait(0)
    assert {rank: failure.exitcode for rank, failure in result.stopped.items()} == {0: -15, 1: -9, 2: -15}
    assert result.stopped[1].message == "rank 1 has survived SIGKILL"
    until(lambda: not psutil.pid_exists(context.pids()[1]))  # Its guardian's end was its own after all.


def test_the_launchers_group_is_not_signalled(launch):
    """A child of the launcher in its process group lives on."""
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        assert os.getpgid(bystander.pid) == os.getpgid(0)
        context = launch(lambda rank: subprocess.Popen(["sleep", "1000"]) and sleep_on(rank))
        context.close(timeout=0.5)
        assert bystander.poll() is None
        bystander.kill()


def test_overlapping_runs(launch, result_of):
    """A fork of the launcher holds its other runs' channels; each run ends at its own end, in any order."""
    contexts = [launch(sleep_on, 2) for _ in range(3)]
    for context in (contexts[1], contexts[0], contexts[2]):
        assert elapsed(context.close, timeout=10) < late(1.5, below=10)
        assert sorted(result_of(context).stopped) == [0, 1]


# Signals of the launcher


def test_handlers_are_there_and_go(launch, nobody_left):
    """While the context runs, a signal is an exception; then all is as before."""
    before = signal.getsignal(signal.SIGTERM)
    context = launch(lambda rank: None)
    assert signal.getsignal(signal.SIGTERM) is not before
    context.wait()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher(number, launch, nobody_left, tmp_path, until):
    """`wait` raises, `close` with that signal leaves nobody, children of ranks included."""

    def parent(rank):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (tmp_path / f"{rank}.pid").write_text(str(child.pid))
        time.sleep(1000)

    context = launch(parent)
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 3)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
    timer.start()
    try:
        with pytest.raises(SignalException, match=f"got signal: {int(number)}") as caught:
            context.wait()
    finally:
        timer.join()
    context.close(caught.value.sigval, timeout=5)
    nobody_left(context)
    assert not any(psutil.pid_exists(int(path.read_text())) for path in tmp_path.glob("*.pid"))
