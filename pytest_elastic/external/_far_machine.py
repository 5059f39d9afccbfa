"""Far machine: rank 0's view of the processes and files on another machine, which the agent there serves.

*Theory of operation.*  A second connection to the agent carries questions and answers, one after the other:
questions about a process are those of `Family`, asked of the agent's own kernel; files are asked for by what
of them is here already.  An answer has two seconds.  After a silence nothing is asked for a while, and the
answer is that nothing is known: nobody takes a rank for dead, or at rest, whose machine does not answer.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.launch import UNREACHABLE
from pytest_elastic.multiprocessing import Channel
from pytest_elastic.pristine import os, select, socket, threading
from pytest_elastic.processes import Family, Sight, Thread, left_by, stand, wait_for

_log = logging.getLogger(__name__)

_ANSWER, _SILENCE = 2.0, 3.0  # Seconds for an answer, and until the next question after there was none.
_CHUNK = 1 << 20  # Bytes of a file in one answer.
# Questions about a process, and what is said where nothing is known.
_QUESTIONS: dict[str, Callable[[int], Any]] = {
    "stamp": lambda pid: b"",
    "look": lambda pid: Sight([Thread(pid, "?", "R")], 0),
    "state": lambda pid: "",
    "dying": lambda pid: False,
    "catches_signals": lambda pid: True,
    "has_timers": lambda pid: True,
    "ticks": lambda pid: {},
    "lasts": lambda pid: False,
    "pids": lambda pid: [pid],
}


class FarMachine:
    """A `Machine` that an agent serves.

    Args:
        end: connected to the agent's `Lookout`.
    """

    near = False

    def __init__(self, end: socket.socket) -> None:
        self._channel, self._lock = Channel(end), threading.Lock()
        self._numbers = itertools.count(1)
        self._silent_until = 0.0

    def close(self) -> None:
        """Nothing more is known; idempotent."""
        self._channel.close()

    def family(self, pid: int) -> Family:
        """Whose every method asks the agent."""
        return cast(Family, _FarFamily(self, pid))

    def stand(self, pids: Sequence[int], names: Mapping[int, str]) -> list[tuple[str, str, str]]:
        """Blocks for as long as the agent looks, and two seconds at most."""
        found = self.ask("stand", list(pids), dict(names)) if pids else []
        return [(UNREACHABLE, "", "")] * len(pids) if found is None else found

    def left_by(self, pids: Sequence[int]) -> list[str]:
        """`[]` where the agent does not answer."""
        return self.ask("left_by", list(pids)) or []

    def fetch(self, directory: Path) -> None:
        """Appends what is new to the files here; blocks for two seconds at most."""
        more = True
        while more:
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()}
            found: dict[str, bytes] = self.ask("files", str(directory), sizes) or {}
            for name, data in found.items():
                with open(directory / name, "ab", buffering=0) as file:
                    file.write(data)
            more = any(len(data) == _CHUNK for data in found.values())

    def ask(self, question: str, *arguments: Any) -> Any:
        """The agent's answer; `None` where there is none."""
        with self._lock:
            if self._channel.closed or SYSTEM_CLOCK.monotonic() < self._silent_until:
                return None
            try:
                return self._answer(question, arguments)
            except TimeoutError:
                self._silent_until = SYSTEM_CLOCK.monotonic() + _SILENCE
            except OSError:  # The agent is lost, which its other connection tells.
                self._channel.close()
            return None

    def _answer(self, question: str, arguments: tuple[Any, ...]) -> Any:
        number, deadline = next(self._numbers), Deadline.after(_ANSWER)
        self._channel.send((number, question, arguments))
        while wait_for(self._channel.fileno(), select.POLLIN, deadline.remaining()):
            for (answered, answer), _ in self._channel.receive():
                if answered == number:  # And not that of a question which nobody waits for any more.
                    return answer
            if self._channel.closed:
                raise ConnectionResetError
        raise TimeoutError


class _FarFamily:
    """A rank's process on another machine, with the methods of `Family`."""

    runs = False

    def __init__(self, machine: FarMachine, pid: int) -> None:
        self.pid, self._machine = pid, machine

    def __getattr__(self, name: str) -> Callable[..., Any]:
        unknown = _QUESTIONS.get(name)
        if unknown is None:
            raise AttributeError(name)

        def ask(*arguments: Any) -> Any:
            answer = self._machine.ask("family", self.pid, name, *arguments)
            return unknown(self.pid) if answer is None else answer

        return ask

    def close(self) -> None:
        """The agent may let go of the files that it keeps open for this process."""
        self._machine.ask("forget", self.pid)


class Lookout:
    """The agent's side: a thread that answers.

    Args:
        end: connected to rank 0.
        place: where a rank's files are, by the directory that they have at rank 0; `None` where it is gone.
    """

    def __init__(self, end: socket.socket, place: Callable[[str], Path | None]) -> None:
        self._channel, self._place = Channel(end), place
        self._families: dict[int, Family] = {}
        threading.Thread(target=self._serve, name="elastic lookout", daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                (number, question, arguments), _ = self._channel.wait()
                try:
                    answer = getattr(self, f"_{question}")(*arguments)
                except Exception:  # A fault of ours costs an answer, and not the rank.
                    _log.exception("no answer to rank 0's question %r", question)
                    answer = None
                self._channel.send((number, answer))
        except (EOFError, OSError):  # Rank 0 is gone.
            for family in self._families.values():
                family.close()

    def _family(self, pid: int, name: str, *arguments: Any) -> Any:
        if pid not in self._families:
            self._families[pid] = Family(pid)
        return getattr(self._families[pid], name)(*arguments)

    def _forget(self, pid: int) -> None:
        if pid in self._families:
            self._families.pop(pid).close()

    def _stand(self, pids: list[int], names: dict[int, str]) -> list[tuple[str, str, str]]:
        return stand(pids, names)

    def _left_by(self, pids: list[int]) -> list[str]:
        return left_by(pids)

    def _files(self, directory: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
        place, found = self._place(directory), dict[str, bytes]()
        for entry in os.scandir(place) if place is not None else ():
            known = sizes.get(entry.name, 0)
            if entry.is_file() and entry.stat().st_size > known:
                with open(entry.path, "rb", buffering=0) as file:
                    file.seek(known)
                    found[entry.name] = file.read(_CHUNK)
        return found
