"""Which processes are helpers: those that Python, loky and torch keep beside a program, and nothing else."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from multiprocessing import forkserver, resource_tracker

import psutil
import pytest

from pytest_elastic.processes import is_helper


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["torch_shm_manager"], True),
        (["/lib/torch/bin/torch_shm_manager"], True),
        (["my_torch_shm_manager"], False),
        (["python3", "/lib/torch/_inductor/compile_worker/__main__.py", "--parent=1"], True),
        (["python3", "/lib/torch/_inductor/__autotune_main__.py", "--parent=1"], True),
        (["python3", "-c", "from joblib.externals.loky.backend.resource_tracker import main; main(4)"], True),
        (["python3", "-c", "from loky.backend.semlock_tracker import main; main(4)"], True),
        (["python3", "-c", "from multiprocessing.semaphore_tracker import main;main(4)"], True),
        (["python3", "resource_tracker.py"], False),
        (["python3", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"], False),
    ],
)
def test_command_lines(command, expected, until):
    """A helper is known by how it was called."""
    arguments = [command[0], "-c", "read x", *command]
    with subprocess.Popen(arguments, executable="sh", stdin=subprocess.PIPE) as named:
        until(psutil.Process(named.pid).cmdline)  # Its start is over before the kernel has noted that.
        assert is_helper(named.pid) is expected


def test_those_of_multiprocessing(until):
    """Its trackers and its server of forks, and not what that server forks for the program."""
    resource_tracker.ensure_running()
    tracker = vars(resource_tracker)["_resource_tracker"]
    until(lambda: is_helper(tracker._pid))
    context = multiprocessing.get_context("forkserver")
    worker = context.Process(target=signal.pause)
    worker.start()
    server = vars(forkserver)["_forkserver"]
    try:
        until(lambda: is_helper(server._forkserver_pid))
        until(lambda: not is_helper(worker.pid))  # It has closed the server's socket by then.
    finally:
        worker.kill()
        worker.join()
        worker.close()
        server._stop()
        tracker._stop()


def test_a_process_that_is_gone():
    """It is none."""
    done = subprocess.Popen(["true"])
    done.wait()
    assert not is_helper(done.pid)
