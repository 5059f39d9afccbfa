"""Stamps: whether the threads of a process have run since an earlier look.

*Theory.*  The kernel counts how often a thread was given the processor, and for how long.  A thread that is
asleep at two looks, with the same counts, is in the same call still.  Only a thread that runs starts threads
and processes: where none has run, nothing of the process has changed.

The files stay open from look to look.  The kernel writes them anew for each read of an open one, which takes
a third of the time of opening, reading and closing it.
"""

from __future__ import annotations

from pytest_elastic.pristine import os
from pytest_elastic.processes._descriptors import descriptor_limit
from pytest_elastic.processes._threads import thread_numbers

_MOST = 4  # Threads, with two descriptors each.
_SIZE = 1024


class Stamps:
    """Those of one process.  Not thread-safe."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._numbers: list[int] = []
        self._files: list[int] = []  # Of each thread, its state and its counts.
        self._told: list[bytes] = []
        self._stamp = b""

    @property
    def threads(self) -> list[int]:
        """The numbers of its threads at the last stamp; `[]` if there was none."""
        return self._numbers if self._stamp else []

    @property
    def runs(self) -> bool:
        """Whether a thread of it was not asleep at the last look, as far as is known."""
        return bool(self._told) and not self._stamp

    def read(self) -> bytes:
        """What changes as soon as a thread of it has run; `b""` where one runs, or not all is told."""
        try:
            if not self._files:
                self._open()
            # A state before its counts: a thread that has run since the state was read has other counts.
            told = [os.pread(descriptor, _SIZE, 0) for descriptor in self._files]
            if told != self._told:
                self._told, self._stamp = told, stamp_of(told)
        except (OSError, LookupError):  # No descriptor is left, a thread has ended, or begun.
            self.close()
        return self._stamp

    def close(self) -> None:
        """Let go of the files; `read` opens them again."""
        self._told, self._stamp = [], b""
        while self._files:
            os.close(self._files.pop())

    def _open(self) -> None:
        self._numbers = sorted(thread_numbers(self._pid))
        if len(self._numbers) <= _MOST:
            for number in self._numbers:
                for name in ("stat", "schedstat"):
                    self._files.append(open_file(f"/proc/{self._pid}/task/{number}/{name}"))


def stamp_of(told: list[bytes]) -> bytes:
    """The stamp of threads by their states and counts; `b""` where one does not sleep, or nothing is counted.

    Raises:
        LookupError: the process has more threads, or fewer.
    """
    number, counts = b"%d" % (len(told) // 2), told[1::2]
    for state in told[::2]:
        fields = state.rpartition(b")")[2].split(maxsplit=18)
        if fields[17] != number:
            raise LookupError(f"not {number.decode()} threads")
        if fields[0] != b"S":
            return b""
    return b"" if any(count.endswith(b" 0\n") for count in counts) else b"".join(counts)


def open_file(path: str) -> int:
    """A descriptor for reading.

    Raises:
        OSError: there is no such file, or descriptors are getting scarce: others need them more.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if 0 <= descriptor_limit() * 3 <= descriptor * 4:
        os.close(descriptor)
        raise OSError(f"{descriptor} is among the last descriptors")
    return descriptor
