"""Stacks seen from outside, by py-spy (the extra `stacks`); without it there are none.

A rank that SIGSTOP holds writes nothing itself, and what a rank writes ends where Python does.  py-spy reads
the memory of a process, which needs the right to trace it: root's, or that of the machine's
`kernel.yama.ptrace_scope`.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.hang import Frame, Stack
from pytest_elastic.pristine import json, os

_log = logging.getLogger(__name__)

_LIMIT = 10.0  # Seconds for all: the names of a large library's functions take some to read.
_NAME = 100  # Characters that are kept of a C++ function's name.


def spy(pids: Mapping[int, int], native: bool) -> dict[int, list[Stack]]:
    """The stacks of these processes, by rank; blocks up to ten seconds, usually 0.1 s for each.

    Args:
        native: with the calls of C in which a thread is now.  Such a look stops the process for a moment,
            and one that is stopped already cannot be seen so.

    Returns:
        Nothing for those that cannot be looked into, and of all without py-spy.
    """
    program = find()
    if program is None:
        return {}
    how = "--native" if native else "--nonblocking"
    deadline, found, looks = Deadline.after(_LIMIT), {}, dict[int, subprocess.Popen[bytes]]()
    try:
        for rank, pid in pids.items():
            command = [program, "dump", "--json", how, "--pid", str(pid)]
            looks[rank] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        for rank, look in looks.items():
            try:
                output, errors = look.communicate(timeout=deadline.remaining())
                found[rank] = read_stacks(json.loads(output))
            except subprocess.TimeoutExpired as error:
                _log.warning("py-spy could not look into rank %d: %s", rank, error)
            except (ValueError, LookupError, TypeError) as error:  # Its own error; or another form of answer.
                _log.warning("py-spy could not look into rank %d: %s", rank, _first_lines(errors) or error)
    finally:
        for look in looks.values():
            look.kill()
            look.communicate()
    return found


def find() -> str | None:
    """The program, beside the interpreter or on the path; `None` where it is not installed."""
    return shutil.which("py-spy", path=f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}")


def read_stacks(threads: Sequence[Mapping[str, Any]]) -> list[Stack]:
    """What py-spy says of the threads of a process; of C, the calls beyond the last one of Python."""
    stacks = []
    for thread in threads:
        calls = thread["frames"]
        python = next((i for i, call in enumerate(calls) if not call["module"]), len(calls))
        shown = [*calls[:python], *(call for call in calls[python:] if not call["module"])]
        frames = [
            Frame(call["filename"], call["line"], call["name"][:_NAME], native=True)
            if call["module"]
            else Frame(call["filename"], call["line"], call["name"].rpartition(".")[2])
            for call in reversed(shown)
        ]
        stacks.append(Stack(tuple(frames), thread["os_thread_id"] == thread["pid"]))
    return stacks


def _first_lines(text: bytes) -> str:
    """The error and its causes, without the way to it."""
    lines = text.decode("utf-8", "replace").partition("\nStack backtrace:")[0].split("\n")
    return " ".join(line.strip() for line in lines if line.strip())
