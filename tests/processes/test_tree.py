"""The process tree, and what the system must have for ranks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver, resource_tracker

import psutil
import pytest

from pytest_elastic.processes import collapse_memory, command, descendants, is_helper, parent, supported


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) as process:
        # The shell's fork has the shell's command line until it has become the program.
        while [command(found.pid) for found in descendants(process.pid)] != ["sleep 1000"]:
            pass
        yield process
        for pid in (*(found.pid for found in descendants(process.pid)), process.pid):
            os.kill(pid, signal.SIGKILL)


def test_descendants(sleeper):
    """Parents before children; a spared process is left out with all below it."""
    found = [
        process for process in descendants(os.getpid()) if sleeper.pid in (process.pid, parent(process.pid))
    ]
    assert [command(process.pid) for process in found] == ["sh -c sleep 1000 & wait", "sleep 1000"]
    assert parent(found[1].pid) == sleeper.pid
    spared = {process.pid for process in descendants(os.getpid(), frozenset({sleeper.pid}))}
    assert not spared & {process.pid for process in found}


def test_collapsed_memory_keeps_what_it_held():
    """In a fork, as it is used: the contents of many megabytes are the same afterwards."""
    pid = os.fork()
    if pid == 0:
        blocks = [bytes([number]) * (3 << 20) for number in range(8)]
        for _ in collapse_memory():
            pass
        os._exit(0 if all(set(block) == {number} for number, block in enumerate(blocks)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_supported():
    """This system is."""
    assert supported() == ""


def test_a_pid_namespace_without_its_own_proc_is_refused(tmp_path):
    """Before anything starts, in words: by `start_processes`, and by pytest."""
    inside = ["unshare", "--pid", "--fork"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no PID namespace can be made here")
    script, tests = tmp_path / "script.py", tmp_path / "test_ranks.py"
    script.write_text(
        "from pytest_elastic.multiprocessing import start_processes\n"
        f"start_processes('n', 'true', {{0: ()}}, {{0: {{}}}}, {str(tmp_path / 'logs')!r})\n"
    )
    (tmp_path / "logs").mkdir()
    tests.write_text("import pytest\n@pytest.mark.elastic(nprocs=1)\ndef test_it(): pass\n")
    for arguments in ([script], ["-m", "pytest", "-p", "no:cacheprovider", tests]):
        done = subprocess.run(
            [*inside, sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode != 0
        assert "/proc is that of another PID namespace; mount one of this" in done.stderr


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
def test_helpers_are_known_by_their_command_lines(command, expected, until):
    arguments = [command[0], "-c", "read x", *command]
    with subprocess.Popen(arguments, executable="sh", stdin=subprocess.PIPE) as named:
        until(psutil.Process(named.pid).cmdline)  # Its start is over before the kernel has noted that.
        assert is_helper(named.pid) is expected


def test_helpers_of_multiprocessing(until):
    """Trackers and the fork server are helpers; what that server forks for the program is none."""
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


def test_a_process_that_is_gone_is_no_helper():
    done = subprocess.Popen(["true"])
    done.wait()
    assert not is_helper(done.pid)
