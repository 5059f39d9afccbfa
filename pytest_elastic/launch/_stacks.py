"""Stacks of running ranks: dumps that the ranks write on demand, and py-spy's view from outside.

*Theory of operation.*  Nothing here blocks: requests are served in the group's loop, one after the other, and
each ends with a callback.

A rank writes its dump when `DUMP_SIGNAL` comes, in C, whoever holds the interpreter's lock (`_rank`), to a
file of its own.  The writer says nothing at its end: a file that has grown and no longer grows is complete.

A rank that SIGSTOP holds writes nothing itself, and what a rank writes ends where Python does.  py-spy (the
extra `stacks`) reads the memory of a process, which needs the right to trace it: root's, or that of the
machine's `kernel.yama.ptrace_scope`.  Without it there are no such stacks.
"""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.hang import Frame, Stack, parse_stacks
from pytest_elastic.launch._machines import Machines
from pytest_elastic.launch._rank import DUMP_SIGNAL
from pytest_elastic.loop import Loop
from pytest_elastic.pristine import json, os, signal

_log = logging.getLogger(__name__)

_LIMIT, _PERIOD = 0.5, 0.005  # Seconds for all dumps of one request, and between two looks at the files.
_SPY_LIMIT = 10.0  # Seconds for all: the names of a large library's functions take some to read.
_NAME = 100  # Characters that are kept of a C++ function's name.

Stacks = dict[int, list[Stack]]
Done = Callable[[Stacks], object]


class Signalled(Protocol):
    """What is needed of a group of processes.

    Attributes:
        pids: rank -> process id.
        exits: by rank, of those that have ended.
    """

    @property
    def pids(self) -> Mapping[int, int]: ...
    @property
    def exits(self) -> Mapping[int, object]: ...
    def signal(self, ranks: tuple[int, ...], signum: int) -> None:
        """Send a signal to these ranks' processes, those of them that run."""


class RankStacks:
    """The stacks of one group's ranks.  All methods belong to the loop.

    Args:
        directories: rank -> where its `stacks.log` is.
        loop: in which requests are served.
        machines: on which they run.
    """

    def __init__(self, directories: Mapping[int, Path], loop: Loop, machines: Machines | None = None) -> None:
        self._machines, self._directories = machines or Machines(), directories
        self._files = {rank: directory / "stacks.log" for rank, directory in directories.items()}
        self._begins: dict[int, int] = {}  # Where the last dump of each rank begins in its file.
        self._loop = loop
        self._requests: deque[tuple[Callable[[Done], object], Done]] = deque()
        self._alarm = loop.alarm(self._look)
        self._look_on: Callable[[], object] = lambda: None

    def take(self, group: Signalled, ranks: Sequence[int], done: Done) -> None:
        """Where these ranks stand, within half a second.

        One that SIGSTOP holds is seen from outside (the extra `stacks`, up to ten seconds), or has to be
        resumed to write its own; it then stays resumed.
        """
        self._request(partial(self._take, group, ranks), done)

    def dump(self, group: Signalled, ranks: Sequence[int], done: Done) -> None:
        """Have these ranks write their stacks, within half a second; a stopped one writes nothing."""
        self._request(partial(self._dump, group, ranks, ()), done)

    def spy(self, pids: Mapping[int, int], native: bool, done: Done) -> None:
        """See the stacks of these processes from outside, within ten seconds, usually 0.1 s for each.

        Args:
            pids: by rank.
            native: with the calls of C in which a thread is now.  Such a look stops the process for a moment,
                and one that is stopped already cannot be seen so.
            done: gets nothing for those that cannot be looked into, and nothing at all without py-spy.
        """
        self._request(partial(self._spy, pids, native), done)

    def last(self, rank: int) -> list[Stack]:
        """What a rank wrote last: on demand, or at a fatal error.  May be called from any thread."""
        file = self._files[rank]
        self._machines.of(rank).fetch(self._directories[rank])
        data = file.read_bytes() if file.exists() else b""
        return parse_stacks(data[self._begins.get(rank, 0) :].decode("utf-8", "replace"))

    def close(self) -> None:
        """Serve no more requests, and end what looks from outside."""
        while len(self._requests) > 1:
            self._requests.pop()
        if self._requests:
            self._look_on()
        self._alarm.at = math.inf

    # One request after the other.

    def _request(self, begin: Callable[[Done], object], done: Done) -> None:
        self._requests.append((begin, done))
        if len(self._requests) == 1:
            begin(self._done)

    def _done(self, found: Stacks) -> None:
        _, done = self._requests[0]
        try:
            done(found)
        finally:
            self._requests.popleft()
            if self._requests:
                self._requests[0][0](self._done)

    def _look(self) -> None:
        self._look_on()

    def _again(self, look: Callable[[], object], at: float) -> None:
        self._look_on, self._alarm.at = look, at

    def _take(self, group: Signalled, ranks: Sequence[int], done: Done) -> None:
        pids = group.pids
        there = [rank for rank in ranks if rank in pids]
        stopped = {
            rank: pids[rank] for rank in there if self._machines.of(rank).family(pids[rank]).state() == "T"
        }

        def spied(seen: Stacks) -> None:
            resumed = [rank for rank in stopped if rank not in seen]
            unseen = [rank for rank in ranks if rank not in seen]
            self._dump(group, unseen, resumed, lambda found: done({**seen, **found}))

        self._spy(stopped, False, spied)

    # Dumps.

    def _dump(self, group: Signalled, ranks: Sequence[int], resumed: Sequence[int], done: Done) -> None:
        begins = {rank: self._size(rank) for rank in ranks}
        group.signal(tuple(ranks), DUMP_SIGNAL)
        if resumed:
            group.signal(tuple(resumed), signal.SIGCONT)
        deadline, sizes = Deadline.after(_LIMIT), begins

        def look() -> None:
            nonlocal sizes
            now = {rank: self._size(rank) for rank in ranks}
            complete = now == sizes and all(now[one] > begins[one] or one in group.exits for one in ranks)
            sizes = now
            if complete or deadline.passed():
                self._begins |= begins
                done({rank: self.last(rank) for rank in ranks})
            else:
                self._again(look, SYSTEM_CLOCK.monotonic() + _PERIOD)

        if ranks:
            self._again(look, SYSTEM_CLOCK.monotonic() + _PERIOD)
        else:
            done({})

    def _size(self, rank: int) -> int:
        file = self._files[rank]
        self._machines.of(rank).fetch(self._directories[rank])
        return file.stat().st_size if file.exists() else 0

    # Looks from outside.

    def _spy(self, pids: Mapping[int, int], native: bool, done: Done) -> None:
        program = find_spy() if pids else None
        pids = {rank: pid for rank, pid in pids.items() if self._machines.of(rank).near}
        looks: dict[int, Look] = {}
        for rank, pid in pids.items() if program else ():
            try:
                looks[rank] = Look(str(program), pid, native)
            except OSError as error:  # No process or descriptor to be had.
                _log.warning("py-spy could not look into rank %d: %s", rank, error)
        waiting = set(looks)

        def ended(rank: int) -> None:
            self._loop.unwatch(looks[rank].fileno())
            waiting.discard(rank)
            if not waiting:
                finish()

        def finish() -> None:
            self._alarm.at = math.inf
            for rank in waiting:
                self._loop.unwatch(looks[rank].fileno())
            found = {rank: look.result(rank) for rank, look in looks.items()}
            done({rank: stacks for rank, stacks in found.items() if stacks is not None})

        for rank, look in looks.items():
            self._loop.watch(look.fileno(), partial(ended, rank))
        if looks:
            self._again(finish, SYSTEM_CLOCK.monotonic() + _SPY_LIMIT)
        else:
            done({})


class Look:
    """One run of py-spy.

    Args:
        program: its path.
        pid: of the process to look into.
        native: see `RankStacks.spy`.
    """

    def __init__(self, program: str, pid: int, native: bool) -> None:
        how = "--native" if native else "--nonblocking"
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [program, "dump", "--json", how, "--pid", str(pid)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._errors
        )
        self._pidfd = os.pidfd_open(self._process.pid)

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._pidfd

    def result(self, rank: int) -> list[Stack] | None:
        """What it saw, and its end; `None`, and a warning, if it did not see anything (yet)."""
        late = self._process.poll() is None
        self._process.kill()
        self._process.wait()
        os.close(self._pidfd)
        texts = []
        for file in (self._output, self._errors):
            file.seek(0)
            texts.append(file.read())
            file.close()
        try:
            if late:
                raise TimeoutError(f"not within {_SPY_LIMIT:g} s")
            return read_stacks(json.loads(texts[0]))
        except (TimeoutError, ValueError, LookupError, TypeError) as error:  # Or another form of answer.
            # The error and its causes, without the way to it.
            said = texts[1].decode("utf-8", "replace").partition("\nStack backtrace:")[0].split()
            _log.warning("py-spy could not look into rank %d: %s", rank, " ".join(said) or error)
            return None


def find_spy() -> str | None:
    """py-spy, beside the interpreter or on the path; `None` where it is not installed."""
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
