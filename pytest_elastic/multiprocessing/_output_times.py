"""When ranks wrote their output: the lines of their log files, as events.

*Theory of operation.*  Ranks write to files, whatever writes (Python, C, a child), and pay nothing for being
read.  The kernel tells (inotify) when a file has grown; the loop then notes its size.  A line was written
when its file was first seen to be that long: at most `_APART` late, since that is how long the loop looks
away after each look, so that a flood of output costs it little.  Nothing is read before somebody asks.

To close an inotify instance blocks for some 15 ms, to take its watches off does not: whoever has groups one
after the other lets them share instances (`spare`).  Where there
is none to be had, all lines have the time of the last look.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import LineWritten
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing._file_watcher import CONTENT, Inotify

_APART = 0.001  # Seconds.
_MOST_LOOKS = 1 << 14  # That are remembered of a file.
_MOST_BYTES = 1 << 16  # That are read of a file.


@dataclass(slots=True)
class _Output:
    """A file, from where on it counts, and how long it was when."""

    rank: int
    stream: str
    path: Path
    start: int = 0
    sizes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def look(self, now: float) -> None:
        size = self.size()
        if size <= (self.sizes[-1] if self.sizes else self.start):
            return
        self.sizes.append(size)
        self.times.append(now)
        if len(self.sizes) == _MOST_LOOKS:  # Every second one will do; the last is kept.
            self.sizes, self.times = self.sizes[1::2], self.times[1::2]

    def begin(self) -> None:
        self.start, self.sizes, self.times = self.size(), [], []

    def size(self) -> int:
        with suppress(OSError):
            return self.path.stat().st_size
        return 0

    def lines(self) -> list[LineWritten]:
        if not self.sizes:
            return []
        first = max(self.start, self.sizes[-1] - _MOST_BYTES)
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(first)
            data = file.read(self.sizes[-1] - first)
            found, position = [], first
            for line in data.removesuffix(b"\n").split(b"\n"):
                position += len(line) + 1
                # Of a line that was written over, as by a progress bar, the last state.
                text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
                time = self.times[min(bisect_left(self.sizes, position), len(self.times) - 1)]
                found.append(LineWritten(time, self.rank, self.stream, text))
            if first > self.start:
                said = f"({first - self.start:,} bytes before this are in {self.path})"
                found[0] = LineWritten(found[0].at, self.rank, self.stream, said)
            return found
        return []


class OutputTimes:
    """The output of a group's ranks.  Belongs to the loop.

    Args:
        loop: not started yet.
        paths: (rank, stream) -> file; made, empty, where it is missing.
        spare: where instances are taken from and put back to, for the owner to close; `None` closes its own.
    """

    def __init__(
        self, loop: Loop, paths: Mapping[tuple[int, str], Path], spare: list[Inotify] | None = None
    ) -> None:
        self._loop, self._spare = loop, spare
        self._outputs = [_Output(rank, stream, path) for (rank, stream), path in paths.items()]
        self._watched: dict[int, _Output] = {}
        self._again = loop.alarm(self._listen)
        self._inotify: Inotify | None = None
        self._closed = False
        with suppress(OSError):
            self._inotify = spare.pop() if spare else Inotify()
            for output in self._outputs:
                output.path.touch()
                self._watched[self._inotify.add(str(output.path), CONTENT)] = output
            self._watched.pop(-1, None)
            self._listen()

    def begin(self) -> None:
        """What is written from now on counts; what was before is forgotten."""
        for output in self._outputs:
            output.begin()

    def lines(self) -> list[LineWritten]:
        """All that counts, in the order of time; of a file that is long the end.  Reads the files."""
        if not self._closed:
            self._look(self._outputs)
        lines = [line for output in self._outputs for line in output.lines()]
        return sorted(lines, key=lambda line: line.at)

    def close(self) -> None:
        """The ranks have ended; idempotent.  `lines` may still be asked for."""
        if self._closed:
            return
        self._look(self._outputs)
        self._closed = True
        if self._inotify is not None:
            self._loop.unwatch(self._inotify.descriptor)
            if self._spare is None:
                self._inotify.close()
            else:
                for watch in self._watched:
                    self._inotify.remove(watch)
                self._spare.append(self._inotify)
            self._inotify = None

    def let_go(self) -> None:
        """In a forked child: it is the parent's."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._closed = True

    def _listen(self) -> None:
        if self._inotify is not None:
            self._loop.watch(self._inotify.descriptor, self._hear)

    def _hear(self) -> None:
        assert self._inotify is not None
        grown = {watch for watch, _, _ in self._inotify.events()}
        # A queue that was too short is told as watch -1.
        self._look(
            self._outputs if -1 in grown else [self._watched[one] for one in grown if one in self._watched]
        )
        self._loop.unwatch(self._inotify.descriptor)
        self._again.at = SYSTEM_CLOCK.monotonic() + _APART

    def _look(self, outputs: Iterable[_Output]) -> None:
        now = SYSTEM_CLOCK.monotonic()
        for output in outputs:
            output.look(now)
