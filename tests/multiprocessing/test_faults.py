"""The fault table: whatever ranks, launchers and guardians do, the run ends, says what happened, and leaves nobody.

What ends launchers and guardians is in `test_launcher_end`.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from jobs import sleep_on
from machine import late

from pytest_elastic.multiprocessing import MultiprocessContext
from pytest_elastic.processes import Process


@pytest.fixture
def failing_one(launch, result_of):
    """Rank 1 of three does this and fails, the others sleep and are stopped; all logs are whole."""

    def run(function, **named):
        def work(rank):
            print("begin", rank)
            return function() if rank == 1 else sleep_on(rank)

        result = result_of(launch(work, **named))
        assert (list(result.failures), sorted(result.stopped)) == ([1], [0, 2])
        if "logs_specs" not in named:
            assert [read(result.stdouts[rank]) for rank in (0, 2)] == ["begin 0\n", "begin 2\n"]
        return result

    return run


def read(path):
    return Path(path).read_text("utf-8", "replace")


def test_exceptions_in_all_ranks(launch, result_of, tmp_path):
    """Three failures, three error files, none stopped."""

    def work(rank):
        (tmp_path / f"at{rank}").touch()
        while len(list(tmp_path.glob("at?"))) < 3:
            time.sleep(0.001)
        raise ValueError(f"boom {rank}")

    result = result_of(launch(work), period=15)
    assert sorted(result.failures) == [0, 1, 2]
    assert result.stopped == {}
    texts = {rank: failure.message["message"] for rank, failure in result.failures.items()}
    assert texts == {rank: f"ValueError: boom {rank}" for rank in range(3)}


def test_sigkill_at_random_moments(launch, result_of, rounds):
    """Never a hang, never another outcome, and lines that were printed are in the log."""

    def count(rank):
        for number in range(1_000_000):
            print(number)

    for _ in range(rounds(3, 20)):
        context = launch(count, 5)
        for pid in context.pids().values():
            time.sleep(random.uniform(0, 0.005))
            os.kill(pid, signal.SIGKILL)
        result = result_of(context, period=15)
        assert {failure.exitcode for failure in result.failures.values()} == {-9}
        assert len(result.failures) == 5
        for path in map(Path, result.stdouts.values()):
            lines = path.read_text().splitlines() if path.exists() else []
            assert lines[:-1] == [str(number) for number in range(len(lines) - 1)]


@pytest.mark.parametrize(
    ("crash", "number"), [(lambda: ctypes.string_at(0), signal.SIGSEGV), (os.abort, signal.SIGABRT)]
)
def test_crashes(crash, number, failing_one):
    """The signal is named, the stack is in the rank's log."""
    result = failing_one(crash)
    failure = result.failures[1]
    assert (failure.exitcode, failure.signal_name()) == (-number, number.name)
    log = read(result.stderrs[1])
    assert "Fatal Python error" in log
    assert "test_faults.py" in log


def test_out_of_memory(failing_one):
    """A limit of its own: `MemoryError` is recorded."""

    def allocate():
        size = psutil.Process().memory_info().vms + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        return bytes(1 << 30)

    assert "MemoryError" in failing_one(allocate).failures[1].message["message"]


def test_killed_from_outside(launch, result_of):
    """As the kernel does when memory is short: the text names the signal."""
    context = launch(sleep_on)
    os.kill(context.pids()[1], signal.SIGKILL)
    failure = result_of(context).failures[1]
    assert (failure.exitcode, failure.message) == (-9, f"Signal 9 (SIGKILL) received by PID {failure.pid}")


def test_an_error_that_cannot_be_printed(failing_one):
    """The type's name is there."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def fail():
        raise Mute

    failure = failing_one(fail).failures[1]
    assert failure.exitcode == 1
    assert "Mute" in failure.message["message"]


def test_killed_while_writing_the_error_file(failing_one):
    """The exit is reported, and that the file is damaged."""

    def die():
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text('{"message": {"mess')
        os.kill(os.getpid(), signal.SIGKILL)

    failure = failing_one(die).failures[1]
    assert failure.exitcode == -9
    assert "SIGKILL" in failure.message
    assert "damaged" in failure.message


def test_the_log_directory_is_gone(failing_one):
    """The rank's own error is the only one."""

    def fail():
        import shutil

        shutil.rmtree(os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"]))
        raise ValueError("boom")

    failure = failing_one(fail).failures[1]
    assert (failure.exitcode, failure.error_file) == (1, "<N/A>")


@pytest.mark.parametrize("round", range(3))
def test_killed_after_its_result(round, launch, result_of, until):
    """It has returned and not ended yet: a failure, never a hang."""

    def work(rank):
        if rank == 1:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        return rank

    context = launch(work)
    until(lambda: context.wait(0.001) or context._returned(1)[0])
    os.kill(context.pids()[1], signal.SIGKILL)
    result = result_of(context, period=15)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: -9}


def test_a_thread_that_never_ends(launch, nobody_left, until):
    """The rank has returned but runs: `wait` waits, `close` ends it, and it has no clean end."""

    def work(rank):
        if rank == 1:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        return rank

    context = launch(work)
    until(lambda: context._returned(1)[0] or context.wait(0))
    begin = time.monotonic()
    assert context.wait(timeout=0.5) is None
    assert time.monotonic() - begin < late(1)
    context.close(timeout=5)
    nobody_left(context)
    assert {rank: failure.exitcode for rank, failure in context.wait().stopped.items()} == {1: -15}


def test_a_hang_in_c_with_the_gil_held(launch, nobody_left, until):
    """No Python runs in it; it ends by the signal all the same."""
    context = launch(lambda rank: (print("hanging"), ctypes.PyDLL(None).sleep(1000)))
    until(lambda: all(os.path.exists(path) and read(path) for path in context.stdouts.values()))
    begin = time.monotonic()
    context.close(timeout=0.5)
    assert time.monotonic() - begin < late(1.5)
    nobody_left(context)
    assert {failure.exitcode for failure in context.wait().stopped.values()} <= {-9, -15}


def test_a_fork_storm(launch, nobody_left):
    """Each child forks the next one, that leads a session of its own, and ends; nobody is left."""
    ours, theirs = os.pipe()

    def storm(rank):
        os.write(theirs, b"x")
        if os.fork() == 0:
            while True:
                if os.fork():
                    os._exit(0)
                os.setsid()
        time.sleep(1000)

    context = launch(storm, 2)
    os.close(theirs)
    time.sleep(0.5)
    context.close(timeout=0.2)
    nobody_left(context)
    with os.fdopen(ours, "rb") as reader:  # At its end when nobody holds the other one.
        assert reader.read() == b"xx"


def test_a_full_disk(tmp_path, shared_zygote, result_of):
    """The rank's own `OSError` is its failure."""
    (tmp_path / "full").symlink_to("/dev/full")
    stdouts, stderrs = {0: str(tmp_path / "full")}, {0: str(tmp_path / "err")}
    errors = {0: str(tmp_path / "error.json")}
    context = MultiprocessContext("n", print, {0: ("x",)}, {0: {}}, stdouts, stderrs, {}, {}, errors, "fork")
    context.start()
    failure = result_of(context).failures[0]
    assert failure.exitcode == 1
    assert "No space left on device" in failure.message["message"]


def test_a_rank_closes_its_descriptors(launch, result_of):
    """Without its channel it has no result; its exit is seen."""
    result = result_of(launch(lambda rank: os.closerange(3, 4096) if rank == 1 else sleep_on(rank)))
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 1}


def test_a_rank_closes_its_streams(launch, result_of):
    """That is its own affair."""
    result = result_of(launch(lambda rank: (os.close(1), os.close(2)) and rank))
    assert result.return_values == {0: 0, 1: 1, 2: 2}


def test_a_rank_that_hides(launch, nobody_left, tmp_path, until):
    """Out of its process group, no environment, and a child in its own session: none is left."""

    def hide(rank):
        if os.fork() == 0:
            os.setsid()
            (tmp_path / f"{rank}.pid").write_text(str(os.getpid()))
        else:
            os.setpgid(0, os.getppid())  # A leader may not have a session of its own, but may go elsewhere.
        os.execve("/bin/sleep", ["sleep", "1000"], {})

    context = launch(hide, 2)
    until(lambda: len([path for path in tmp_path.glob("*.pid") if path.read_text()]) == 2)
    context.close(timeout=1)
    nobody_left(context)
    assert not any(psutil.pid_exists(int(path.read_text())) for path in tmp_path.glob("*.pid"))


def test_many_at_once(launch, result_of):
    """64 ranks end in the same instant, one of them with 1."""
    gate, ours = os.pipe()

    def work(rank):
        os.read(gate, 1)
        os._exit(1) if rank == 41 else None
        return rank

    context = launch(work, 64)
    os.write(ours, bytes(64))
    os.close(ours)
    os.close(gate)
    result = result_of(context, period=15)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {41: 1}
    assert result.stopped == {}


def test_a_failure_while_others_still_begin(launch, result_of):
    """A fresh interpreter takes its time: the other one is done or stopped."""
    args = {0: ("import os; os._exit(1)",), 1: ("import time; time.sleep(0.5)",)}
    result = result_of(launch(exec, args=args, start_method="spawn"), period=0)
    assert list(result.failures) == [0]
    assert list(result.stopped) in ([1], [])


def test_a_reused_pid(launch, monkeypatch):
    """A process with another start time than was recorded is a stranger, and gets no signal."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        with pytest.raises(ProcessLookupError):
            Process(stranger.pid, 1).signal(signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()
