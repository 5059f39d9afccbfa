"""Stacks from outside: of what is stopped, and into C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.hang import Frame, Stack
from pytest_elastic.launch._stacks import RankStacks, find_spy, read_stacks
from pytest_elastic.loop import Loop

CODE = """
import ctypes, sys, threading
def pause(): ctypes.CDLL(None).sleep(1000)
def waits(): print(flush=True); pause()
threading.Thread(target=pause, daemon=True).start()
waits()
"""
needs_spy = pytest.mark.skipif(find_spy() is None, reason="py-spy is not installed")


def spy(pids: dict[int, int], native: bool) -> dict[int, list[Stack]]:
    loop, found = Loop(), []
    RankStacks({}, loop).spy(pids, native, found.append)
    assert loop.wait(lambda: found, Deadline.after(30))
    loop.close()
    return found[0]


def stands(pid: int) -> None:
    """Wait until both threads of the program are where they stay; a look at what runs may fail."""
    deadline = time.monotonic() + 20
    while True:
        seen = spy({0: pid}, native=False).get(0, [])
        if [stack.frames[-1].function for stack in seen] == ["pause", "pause"]:
            return
        assert time.monotonic() < deadline


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a program; returns when it has written something."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def called(stacks: list[Stack]) -> list[str]:
    (current,) = [stack for stack in stacks if stack.current]
    return [frame.function for frame in current.frames]


@needs_spy
def test_who_is_stopped_is_seen_and_stays_so(process: Any) -> None:
    """All its threads are, the main one marked."""
    one = process(sys.executable, "-c", CODE)
    stands(one.pid)
    one.send_signal(signal.SIGSTOP)
    found = spy({3: one.pid}, native=False)
    assert called(found[3]) == ["<module>", "waits", "pause"]
    assert psutil.Process(one.pid).status() == psutil.STATUS_STOPPED


@needs_spy
def test_the_calls_of_c(process: Any) -> None:
    """Those in which a thread is now, with their library; the process goes on."""
    one = process(sys.executable, "-c", CODE)
    stands(one.pid)
    found = spy({0: one.pid}, native=True)
    names = called(found[0])
    assert names[:3] == ["<module>", "waits", "pause"]
    assert "nanosleep" in names[-1]
    (current,) = [stack for stack in found[0] if stack.current]
    assert "libc" in current.frames[-1].file
    assert current.frames[2].line == 3
    assert psutil.Process(one.pid).status() != psutil.STATUS_STOPPED


@needs_spy
def test_who_cannot_be_looked_into(process: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is said why; the others are seen all the same."""
    shell, one = process("sh", "-c", "echo; exec sleep 1000"), process(sys.executable, "-c", CODE)
    assert list(spy({0: shell.pid, 1: one.pid}, native=False)) == [1]
    assert "py-spy could not look into rank 0: Error: Failed to find python version" in caplog.text


def test_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is nothing, and nobody complains."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert spy({0: 1}, native=True) == {}


def test_what_lies_between_calls_of_python_is_left_out() -> None:
    """The interpreter's own calls say nothing; beyond the last one of Python they do."""
    names = ["wait_in_c", "op_in_c", "Model.step", "eval_in_c", "main", "start_in_c"]
    calls = [
        {"name": name, "filename": "c" if "_in_c" in name else "t.py", "line": 7, "module": "_in_c" in name}
        for name in names
    ]
    (stack,) = read_stacks([{"pid": 5, "os_thread_id": 5, "frames": calls}])
    assert [frame.function for frame in stack.frames] == ["main", "step", "op_in_c", "wait_in_c"]
    assert stack.frames[1] == Frame("t.py", 7, "step")
