"""Functions as ranks, by all three start methods: surroundings, ends, results."""

from __future__ import annotations

import atexit
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobs import die_in_a_line, fail_on_one, sleep_on, surroundings
from machine import late

METHODS = ("spawn", "fork", "forkserver")


@pytest.fixture
def end_of_one(launch, result_of):
    """How a single rank failed that runs this function, and how long that took."""

    def run(function):
        begin = time.monotonic()
        context = launch(function, 1)
        result = result_of(context)
        assert time.monotonic() - begin < 25  # Less than the grace of a rank that is stopped.
        assert (list(result.failures), result.return_values) == ([0], {})
        return result.failures[0]

    return run


def raises(error):
    def run(rank):
        raise error

    return run


@pytest.mark.parametrize("method", METHODS)
def test_surroundings(method, launch, result_of):
    """A process group of its own, its environment, nothing on stdin, streams in files."""
    context = launch(surroundings, 2, start_method=method, envs={0: {"VARIABLE": "x"}, 1: {"VARIABLE": "y"}})
    result = result_of(context)
    marker = context.marker()["PYTEST_ELASTIC_GROUP"]
    same = {"leads": True, "marker": marker, "stdin": b"", "private": []}
    assert result.return_values == {0: {**same, "variable": "x"}, 1: {**same, "variable": "y"}}
    assert [Path(path).read_text() for path in result.stdouts.values()] == ["out 0\n", "out 1\n"]
    assert [Path(path).read_text() for path in result.stderrs.values()] == ["err 0\n", "err 1\n"]


@pytest.mark.parametrize("method", METHODS)
def test_the_launchers_environment_now(method, launch, result_of, monkeypatch):
    """Not that of the moment when a zygote was made."""
    monkeypatch.setenv("VARIABLE", method)
    assert result_of(launch(surroundings, 1, start_method=method)).return_values[0]["variable"] == method


@pytest.mark.parametrize("method", METHODS)
def test_a_crash_loses_nothing_that_was_printed(method, launch, result_of):
    """The last line has no end."""
    result = result_of(launch(die_in_a_line, 1, start_method=method))
    assert result.failures[0].exitcode == -9
    assert [Path(paths[0]).read_text() for paths in (result.stdouts, result.stderrs)] == ["out ", "err "]


SHARING = """
import multiprocessing, sys
from multiprocessing.shared_memory import SharedMemory
from pytest_elastic.multiprocessing import start_processes

def work(queue, event, shared):
    queue.put("from the rank")
    assert event.wait(20)
    shared.buf[0] = 7
    shared.close()
    return 1

if __name__ == "__main__":
    method, log_dir = sys.argv[1:]
    context = multiprocessing.get_context("fork" if method == "fork" else "spawn")
    queue, event, shared = context.Queue(), context.Event(), SharedMemory(create=True, size=8)
    run = start_processes("n", work, {0: (queue, event, shared)}, {0: {}}, log_dir, method)
    print(queue.get(timeout=20))
    event.set()
    print(run.wait(20).return_values)
    print(shared.buf[0])
    shared.close()
    SharedMemory(shared.name).unlink()
"""


@pytest.mark.parametrize("method", METHODS)
def test_what_multiprocessing_shares(method, tmp_path):
    """Functions of a script, queues, events and shared memory travel; the launcher's memory outlives its ranks."""
    (tmp_path / "script.py").write_text(SHARING)
    (tmp_path / "logs").mkdir()
    command = [sys.executable, tmp_path / "script.py", method, tmp_path / "logs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("from the rank\n{0: 1}\n7\n", "")


def test_children_are_allowed(launch, result_of):
    """A rank is no daemon: `multiprocessing` works in it, and ends with it."""

    def parent(rank):
        child = multiprocessing.get_context("fork").Process(target=print, args=("from the child",))
        child.start()
        child.join()
        return child.exitcode, multiprocessing.current_process().daemon

    result = result_of(launch(parent, 1))
    assert result.return_values == {0: (0, False)}


@pytest.mark.parametrize("method", METHODS)
def test_exception(method, launch, result_of):
    """Exit code 1, and its text and stack from the error file."""
    result = result_of(launch(fail_on_one, start_method=method))
    assert (list(result.failures), sorted(result.stopped)) == ([1], [0, 2])
    failure = result.failures[1]
    assert (failure.exitcode, failure.message["message"]) == (1, "ValueError: boom")
    assert "in fail_on_one" in failure.message["extraInfo"]["py_callstack"]
    assert json.loads(Path(failure.error_file).read_text()) == failure.error_file_data
    assert "ValueError: boom" in Path(result.stderrs[1]).read_text()


def test_chained_exceptions(end_of_one):
    """The cause is in the stack."""

    def chained(rank):
        try:
            _ = 1 / 0
        except ZeroDivisionError as error:
            raise ValueError("outer") from error

    failure = end_of_one(chained)
    assert "ZeroDivisionError" in failure.message["extraInfo"]["py_callstack"]
    assert failure.message["message"] == "ValueError: outer"


@pytest.mark.parametrize(
    ("code", "exitcode"),
    [(1, 1), (138, 138), (-1, 255), (True, 1), ("text", 1), (1.5, 1), (257, 1), (1 << 70, 255)],
)
def test_sys_exit(code, exitcode, end_of_one):
    """As an interpreter ends; no error file."""
    failure = end_of_one(lambda rank: sys.exit(code))
    assert (failure.exitcode, failure.error_file) == (exitcode, "<N/A>")
    assert failure.message.startswith("To enable traceback see")


@pytest.mark.parametrize("code", [0, False])
def test_sys_exit_0_is_return(code, launch, result_of):
    """As `record` has it."""
    assert result_of(launch(lambda rank: sys.exit(code), 1)).return_values == {0: None}


@pytest.mark.parametrize(
    ("function", "exitcode"),
    [
        (lambda rank: sys.exit(), 0),
        (lambda rank: sys.exit(None), 0),
        (lambda rank: sys.exit(256), 0),
        (lambda rank: os._exit(0), 0),
        (raises(KeyboardInterrupt()), -signal.SIGINT),
        (lambda rank: signal.raise_signal(signal.SIGINT), -signal.SIGINT),
    ],
)
def test_silent_ends(function, exitcode, end_of_one):
    """A failure, at once, that says so."""
    failure = end_of_one(function)
    assert failure.exitcode == exitcode
    assert "rank 0 ended before it returned" in failure.message


@pytest.mark.parametrize("exitcode", [0, 3])
def test_hard_exits_of_one_among_others(exitcode, launch, result_of):
    """The others are stopped."""
    result = result_of(launch(lambda rank: os._exit(exitcode) if rank == 1 else sleep_on(rank)))
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: exitcode}
    assert sorted(result.stopped) == [0, 2]


def test_a_result_that_cannot_be_pickled(end_of_one):
    """The error file names the type."""
    failure = end_of_one(lambda rank: lambda: 1)
    assert failure.exitcode == 1
    assert failure.message["message"].startswith("TypeError: the result, a function, cannot be pickled")


class Unreadable:
    """Pickles, but not back."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_cannot_be_unpickled(method, launch, result_of):
    """The failure names its type, and what unpickling raised."""
    result = result_of(launch(Unreadable, args={0: ()}, start_method=method))
    assert (list(result.failures), result.return_values) == ([0], {})
    assert (result.failures[0].exitcode, result.failures[0].message) == (
        0,
        "rank 0 returned a Unreadable, which cannot be unpickled here: "
        "ValueError: invalid literal for int() with base 10: 'no number'",
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_arguments_that_cannot_be_unpickled(method, launch, result_of):
    """The rank's error file says why."""
    result = result_of(launch(sleep_on, args={0: (Unreadable(),)}, start_method=method))
    assert result.failures[0].exitcode == 1
    assert result.failures[0].message["message"] == (
        "TypeError: the function or its arguments cannot be unpickled in the rank: "
        "ValueError: invalid literal for int() with base 10: 'no number'"
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_is_told_so(method, tmp_path):
    """Its ranks import it, and start no ranks of their own: the error names the guard, as `multiprocessing`'s does."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pytest_elastic.multiprocessing import start_processes\n"
        "import os\n"
        "print('begun', os.getpid(), flush=True)\n"
        "context = start_processes('script', int, {0: (), 1: ()}, {0: {}, 1: {}}, "
        f"{str(tmp_path / 'logs')!r}, {method!r})\n"
        "print(*(failure.message['message'] for failure in context.wait(60).failures.values()))\n"
    )
    (tmp_path / "logs").mkdir()
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert done.stdout.count("begun") == 3
    assert done.stdout.count("if __name__ == '__main__':") == 2


def test_big_results(launch, result_of, rounds):
    """Tens of MB from each of four ranks."""
    size = rounds(20, 100) << 20
    result = result_of(launch(lambda rank: bytes([rank]) * size, 4))
    assert {rank: (len(value), value[-1]) for rank, value in result.return_values.items()} == {
        rank: (size, rank) for rank in range(4)
    }


def test_killed_in_the_middle_of_a_result(launch, result_of, until):
    """That rank has failed, the others have not."""
    context = launch(lambda rank: bytes(50 << 20))
    # A rank sends until the socket's buffer is full: nobody reads before `wait`.
    until(lambda: all(stuck(pid) for pid in context.pids().values()))
    os.kill(context.pids()[1], signal.SIGKILL)
    result = result_of(context, period=15)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: -9}
    assert result.stopped == {}


def stuck(pid):
    """Whether it waits in a send (by the kernel's own word)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("44", "46", "206", "211")


def test_a_daemon_that_keeps_everything_open(launch, result_of, caplog):
    """The exit is noticed at once, the daemon is killed and named once."""

    def leave_daemon(rank):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.execvp("sleep", ["sleep", "1000"])
        return rank

    context = launch(leave_daemon, 1)
    begin = time.monotonic()
    assert result_of(context).return_values == {0: 0}
    assert time.monotonic() - begin < late(3)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "sleep 1000 (killed)" in record.getMessage()


@pytest.mark.parametrize("method", METHODS)
def test_the_starting_thread_ends(method, launch, result_of):
    """Ranks belong to the process, not to the thread."""
    contexts = []
    function, args = time.sleep, {0: (0.3,), 1: (0.3,)}
    thread = threading.Thread(
        target=lambda: contexts.append(launch(function, args=args, start_method=method))
    )
    thread.start()
    thread.join()
    assert result_of(contexts[0]).return_values == {0: None, 1: None}


def test_handlers_of_start_are_not_inherited(launch, result_of, monkeypatch):
    """A new rank has the default ones; so SIGTERM ends it at once."""
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGUSR1,SIGINT")
    names = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGQUIT")
    result = result_of(
        launch(lambda rank: [int(signal.getsignal(signal.Signals[name])) for name in names], 1)
    )
    assert result.return_values == {0: [signal.SIG_DFL] * 4}


def test_handlers_of_the_user_are_inherited(launch, result_of, monkeypatch):
    """A fork has what is not ours."""
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        result = result_of(launch(lambda rank: int(signal.getsignal(signal.SIGUSR2)), 1))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert result.return_values == {0: signal.SIG_IGN}


@pytest.mark.parametrize("method", METHODS)
def test_printed_lines_outlive_sigkill(method, launch, result_of):
    """What was printed is in the file before the next statement."""
    args = {0: ("import os, sys; print('line'); print('error', file=sys.stderr); os.kill(os.getpid(), 9)",)}
    result = result_of(launch(exec, args=args, start_method=method))
    assert (result.failures[0].exitcode, result.failures[0].signal_name()) == (-9, "SIGKILL")
    assert "SIGKILL" in result.failures[0].message
    assert Path(result.stdouts[0]).read_text() == "line\n"
    assert Path(result.stderrs[0]).read_text() == "error\n"


def test_a_rank_ends_as_an_interpreter_does(launch, result_of):
    """Threads are joined and its own `atexit` callbacks run; the launcher's do not."""
    atexit.register(print, "of the launcher")

    def work(rank):
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        print("half a line", end=" ")

    try:
        result = result_of(launch(work, 1))
    finally:
        atexit.unregister(print)
    assert Path(result.stdouts[0]).read_text() == "half a line thread\nat exit\n"


def test_a_callback_at_exit_that_fails(launch, result_of):
    """Is a failure of the rank."""
    result = result_of(launch(lambda rank: atexit.register(lambda: 1 / 0) and None, 1))
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {0: 1}
    assert "ZeroDivisionError" in Path(result.stderrs[0]).read_text()


def test_forkserver_preloads(launch, result_of, monkeypatch, shared_zygote):
    """Modules that `multiprocessing` is told to preload are there when a rank begins."""
    from multiprocessing import forkserver

    from pytest_elastic.multiprocessing import _shared

    monkeypatch.setattr(
        forkserver._forkserver, "_preload_modules", ["__main__", "colorsys", "no_such_module"]
    )
    try:
        context = launch(
            eval, args={0: ("'colorsys' in __import__('sys').modules",)}, start_method="forkserver"
        )
        assert result_of(context).return_values == {0: True}
    finally:
        _shared._zygotes.pop((os.getpid(), ("colorsys", "no_such_module"))).close()
