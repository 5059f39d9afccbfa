"""Ranks end with their launcher and with their guardian, whatever ends those."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from jobs import sleep_on
from machine import late

from pytest_elastic.multiprocessing import start_processes

METHODS = ("spawn", "fork", "forkserver")
MARK = "ELASTIC_FAULT_MARK"


def marked(mark):
    """The processes that were started with this mark in their environment, dead ones aside."""
    found = []
    for pid in psutil.pids():
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


def await_processes(until, mark, count):
    until(lambda: len(marked(mark)) >= count)


def await_end(until, mark):
    until(lambda: not marked(mark))


@contextmanager
def running(command, mark, until, **options):
    """A program with this mark in its environment, which is gone with all that it started after the block.

    The processes of a fork storm are gone before one has looked at them; but they hold what they inherited.
    """
    held, holds = os.pipe()
    environment = {**os.environ, MARK: mark.split("=")[1]}
    with subprocess.Popen(command, env=environment, pass_fds=[holds], **options) as program:
        os.close(holds)
        try:
            yield program
        finally:
            program.kill()
    try:
        until(lambda: not marked(mark) and select.select([held], [], [], 0)[0])
    finally:
        os.close(held)


LAUNCHER = """
import ctypes, os, signal, subprocess, sys, time
from pytest_elastic.multiprocessing import start_processes

def ignore():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execvp("sleep", ["sleep", "1000"])

def storm():
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()

JOBS = [
    lambda: None,
    ignore,
    lambda: os.kill(os.getpid(), signal.SIGSTOP),
    lambda: ctypes.PyDLL(None).sleep(1000),
    lambda: subprocess.Popen(["sleep", "1000"]),
    lambda: subprocess.Popen(["sleep", "1000"], start_new_session=True),
    daemon,
    storm,
]

def work(rank):
    JOBS[rank]()
    time.sleep(1000)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ranks = range(len(JOBS))
    # Without a name for it the group would end at once.
    group = start_processes("n", work, {r: (r,) for r in ranks}, {r: {} for r in ranks}, *sys.argv[1:])
    print("started", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sigkill_to_the_launcher(method, tmp_path, until, rounds):
    """Ranks of every kind go with it, whenever it is killed."""
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    for number in range(rounds(3 if method == "fork" else 2, 50)):
        mark = f"{MARK}={os.getpid()}-{method}-{number}"
        logs = tmp_path / str(number)
        logs.mkdir()
        command = [sys.executable, script, logs, method]
        with running(command, mark, until, stdout=subprocess.PIPE) as launcher:
            launcher.stdout.readline()
            time.sleep(random.uniform(0, 0.02))
            launcher.kill()
            launcher.wait()
            begin = time.monotonic()
        assert time.monotonic() - begin < late(2.5)


def test_killed_while_it_starts(tmp_path, until):
    """At any moment of the start, too."""
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    for number in range(4):
        mark = f"{MARK}={os.getpid()}-start-{number}"
        logs = tmp_path / str(number)
        logs.mkdir()
        with running([sys.executable, script, logs, "fork"], mark, until):
            await_processes(until, mark, number + 2)


INTERRUPTED = """
import os, signal, sys, time
from pytest_elastic.multiprocessing import SignalException, start_processes

def work(rank):
    while True:  # Python may see a signal just before a long sleep, and handle it after that.
        time.sleep(0.01)

if __name__ == "__main__":
    pc = start_processes("n", work, {0: (0,), 1: (1,)}, {0: {}, 1: {}}, sys.argv[1], "fork")
    try:
        print("started", flush=True)
        pc.wait()
    except SignalException as error:
        pc.close(error.sigval, timeout=5)
        print(error.sigval.name, [failure.exitcode for failure in pc.wait().stopped.values()])
"""


def test_ctrl_c(tmp_path, until):
    """SIGINT to the launcher's group is the launcher's alone; it then ends its ranks by it."""
    (tmp_path / "launcher.py").write_text(INTERRUPTED)
    (tmp_path / "logs").mkdir()
    mark = f"{MARK}={os.getpid()}-interrupted"
    command = [sys.executable, tmp_path / "launcher.py", tmp_path / "logs"]
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with running(command, mark, until, **options) as launcher:
        launcher.stdout.readline()
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.stdout.read() == "SIGINT [-2, -2]\n"
        assert launcher.wait(10) == 0


@pytest.mark.parametrize("kind", [*METHODS, "program"])
def test_closed_right_after_the_start(kind, launch, nobody_left, rounds):
    """At once, and all are reaped."""
    for _ in range(rounds(4, 50)):
        if kind == "program":
            context = launch("sleep", args={0: (1000,), 1: (1000,)})
        else:
            context = launch(sleep_on, 2, start_method=kind)
        begin = time.monotonic()
        context.close()
        assert time.monotonic() - begin < late(2)
        nobody_left(context)
        assert {failure.exitcode for failure in context.wait().stopped.values()} == {-15}


def test_nested_groups(launch, nobody_left, tmp_path, until):
    """A rank has a group of its own and is killed: both are gone."""

    def nest(rank):
        (tmp_path / "inner").mkdir()
        inner = start_processes(
            "inner", sleep_on, {0: (0,), 1: (1,)}, {0: {}, 1: {}}, tmp_path / "inner", "fork"
        )
        (tmp_path / "new").write_text(" ".join(map(str, inner.pids().values())))
        (tmp_path / "new").rename(tmp_path / "pids")
        inner.wait()

    context = launch(nest, 1)
    until((tmp_path / "pids").exists)
    os.kill(context.pids()[0], signal.SIGKILL)
    assert context.wait(20).failures[0].exitcode == -9
    nobody_left(context)
    assert not any(psutil.pid_exists(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_guardian(method, launch, nobody_left, tmp_path, until):
    """Its ranks and what they started are gone, the failures name it, and the next start works."""
    pid_file = tmp_path / "daemon"
    script = f"import os, time; os.system('setsid sleep 1000 & echo $! > {pid_file}'); time.sleep(1000)"
    context = launch(exec, args=dict.fromkeys(range(3), (script,)), start_method=method)
    until(lambda: pid_file.exists() and pid_file.read_text())
    guardian = psutil.Process(context.pids()[0]).parent()
    started = guardian.children(recursive=True)
    guardian.kill()
    begin = time.monotonic()
    result = context.wait(20)
    assert time.monotonic() - begin < late(1)
    assert sorted(result.failures) == [0, 1, 2]
    assert all(
        "the guardian of trainer was killed" in failure.message for failure in result.failures.values()
    )
    until(lambda: not any(process.is_running() for process in started))
    # What ranks began since then is swept as well.
    await_end(until, context.marker()["PYTEST_ELASTIC_GROUP"])
    nobody_left(context)
    assert launch(eval, args={0: ("1",)}, start_method=method).wait(20).return_values == {0: 1}
