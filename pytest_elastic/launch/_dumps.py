"""The stacks that ranks write on demand, each to a file of its own.

A rank writes when `DUMP_SIGNAL` comes, in C, whoever holds the interpreter's lock (`_rank`).  The writer says
nothing at its end: a file that has grown and no longer grows is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_elastic.clock import Deadline
from pytest_elastic.hang import Stack, parse_stacks
from pytest_elastic.launch._rank import DUMP_SIGNAL
from pytest_elastic.multiprocessing import Group
from pytest_elastic.pristine import signal, threading, time

_LIMIT = 0.5
_PERIOD = 0.005


class Dumps:
    """Those of one group's ranks.  Thread-safe: who asks while another one does waits for its own."""

    def __init__(self, directories: Mapping[int, Path]) -> None:
        self._files = {rank: directory / "stacks.log" for rank, directory in directories.items()}
        self._begins: dict[int, int] = {}  # Where the last dump of each rank begins in its file.
        self._lock = threading.Lock()

    def take(self, group: Group, ranks: Sequence[int], resumed: Sequence[int] = ()) -> dict[int, list[Stack]]:
        """Where these ranks stand; blocks up to half a second for those that do not answer.

        Args:
            resumed: those that are stopped and shall go on as soon as they have written.
        """
        with self._lock:
            begins = {rank: self._size(rank) for rank in ranks}
            group.signal(tuple(ranks), DUMP_SIGNAL)
            group.signal(tuple(resumed), signal.SIGCONT)
            deadline, sizes = Deadline.after(_LIMIT), begins
            while not deadline.passed():
                time.sleep(_PERIOD)
                now = {rank: self._size(rank) for rank in ranks}
                if now == sizes and all(now[rank] > begins[rank] or _gone(group, rank) for rank in ranks):
                    break
                sizes = now
            self._begins |= begins
            return {rank: self.last(rank) for rank in ranks}

    def last(self, rank: int) -> list[Stack]:
        """What a rank wrote last: on demand, or at a fatal error."""
        file = self._files[rank]
        data = file.read_bytes() if file.exists() else b""
        return parse_stacks(data[self._begins.get(rank, 0) :].decode("utf-8", "replace"))

    def _size(self, rank: int) -> int:
        file = self._files[rank]
        return file.stat().st_size if file.exists() else 0


def _gone(group: Group, rank: int) -> bool:
    group.take()
    return rank in group.exits
