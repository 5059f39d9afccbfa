"""Processes by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_elastic import pristine
from pytest_elastic.processes import Process, command, identify, parent, state, this_process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "30"]) as process:
        yield process
        process.kill()


def test_no_process_has_a_pid_up_to_one_or_one_that_is_not_in_use() -> None:
    """Numbers that are process groups or init to the kernel."""
    assert [identify(pid) for pid in (1, 0, -1, -3, 1 << 70)] == [None] * 5


def test_a_process_is_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    process = identify(sleeper.pid)
    assert process is not None
    assert not process.ended()
    process.signal(signal.SIGKILL)
    assert sleeper.wait(5) == -signal.SIGKILL
    assert process.ended()


def test_another_process_with_the_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    """It counts as ended."""
    process = identify(sleeper.pid)
    assert process is not None
    former = Process(process.pid, process.started - 1)
    assert former.ended()
    with pytest.raises(ProcessLookupError):
        former.signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_process_that_is_gone_has_no_identity_and_gets_no_signal() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        Process(process.pid, 0).signal(signal.SIGTERM)
    assert (identify(process.pid), state(process.pid), parent(process.pid)) == (None, "", 0)
    assert command(process.pid) == "?"


@pytest.mark.parametrize("pid", [1, 0, -3, 1 << 70])
def test_what_is_no_pid_has_ended(pid: int) -> None:
    """The kernel is never asked."""
    assert Process(pid, 0).ended()
    with pytest.raises(ProcessLookupError):
        Process(pid, 0).signal(0)


def test_a_zombie_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    """Its parent need not have waited for it."""
    process = identify(sleeper.pid)
    assert process is not None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert identify(sleeper.pid) == process
    assert process.ended()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's process")
def test_another_users_process_is_not_signalled_even_by_root() -> None:
    with subprocess.Popen(["sleep", "30"], user=65534) as other:
        process = identify(other.pid)
        assert process is not None
        with pytest.raises(PermissionError, match="another user"):
            process.signal(signal.SIGKILL, user=os.getuid())
        assert other.poll() is None
        other.kill()


def test_a_name_with_brackets_does_not_confuse() -> None:
    """The kernel shows a process's name in brackets, whatever is in it."""
    code = "open('/proc/self/comm', 'w').write(') 7 (x'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        before = identify(process.pid)
        process.stdout.readline()
        assert before == identify(process.pid)
        process.communicate(b"\n")


def test_this_process_is_asked_again_after_a_fork() -> None:
    """A client that was made before the fork sends the fork's identity."""
    parent = this_process()
    assert parent == identify(os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(this_process() == identify(os.getpid()) != parent)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_without_a_descriptor_to_look_with_it_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its timers would be forgotten; the kill fails too, and is tried again."""

    def fail(pid: int) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(pristine.os, "pidfd_open", fail)
    assert not this_process().ended()


def test_this_process_may_be_number_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose command it is; nobody else is taken for that one."""
    monkeypatch.setattr("pytest_elastic.processes._identity.os.getpid", lambda: 1)
    assert this_process().pid == 1
    assert identify(1) is None
