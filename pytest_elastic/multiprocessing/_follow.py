"""Follower of one log file: cuts it into whole lines, with their header, while it grows, moves or shrinks.

*Theory of operation.*  A `LogFile` is a name.  `look` opens what has the name now, and again whenever
another file has it; a file is read to its end before its successor.  A file that is shorter than what was
read of it was truncated and is read from its start.  `read` takes one bounded piece and gives back the
lines that it completes; the rest waits in a buffer, so that no line is ever cut, and neither is a character
nor a `\\r\\n`.  Headers are put in while the bytes pass, because that is one `replace` for thousands of
lines; only a filter needs each line by itself.  `seal` bounds what is still read: what the files hold then.
"""

from __future__ import annotations

import codecs
import math
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pytest_elastic.pristine import os

PIECE = 1 << 16  # Bytes at a time: larger ones cost the allocator a mapping each, and are slower.

LineFilter = Callable[[str], bool]


class Lines:
    """Cuts bytes into lines, which end by `\\n`, `\\r\\n` or a lone `\\r`; out come header, line, `\\n`.

    Attributes:
        filter_error: the first exception that the filter raised, `None` if it never did.
    """

    def __init__(self, header: str, keep: LineFilter | None = None) -> None:
        self._header, self._keep = header, keep
        # A filter must see lines without header: then it is added after it, else on the way.
        self._first = header.encode("utf-8", "replace").decode() if keep is None else ""
        self._next = b"\n" + self._first.encode()
        # The line that has begun; as pieces of text, since a long one would be copied when it grows.
        self._begun: list[str] = []
        # Bytes that the next one decides about: the beginning of a character, a return.
        self._open = b""
        self.filter_error: Exception | None = None

    def feed(self, data: bytes) -> str:
        """The lines that end within `data`."""
        if self._open:
            data, self._open = self._open + data, b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                data, self._open = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not data:
            return ""
        if not self._begun:
            self._begun.append(self._first)
        data = data.replace(b"\n", self._next)
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._hold(data)
            return ""
        # Cut at a line's end: no character is in two pieces, and a bad byte cannot swallow a newline.
        text = self._complete(codecs.utf_8_decode(memoryview(data)[:end], "replace", True)[0])
        if end + len(self._next) - 1 < len(data):
            self._hold(data[end:])
        return text

    def end(self) -> str:
        """The line that has begun, as if it had ended."""
        if not (self._begun or self._open):
            return ""
        self._begun = self._begun or [self._first]
        rest, self._open = self._open.removesuffix(b"\r"), b""
        return self._complete(rest.decode("utf-8", "replace") + "\n")

    def _hold(self, data: bytes) -> None:
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._begun.append(text)
        self._open = data[used:] + self._open

    def _complete(self, text: str) -> str:
        text = "".join([*self._begun, text])
        self._begun.clear()
        if self._keep is None:
            return text
        # Not splitlines(), which also cuts at form feeds and other characters that end no line of a log.
        lines = [f"{line}\n" for line in text[:-1].split("\n")]
        return "".join([f"{self._header}{line}" for line in lines if self._wanted(line)])

    def _wanted(self, line: str) -> bool:
        assert self._keep is not None
        try:
            return bool(self._keep(line))
        except Exception as error:
            self.filter_error = self.filter_error or error
            return False


@dataclass(slots=True)
class _Source:
    """An open file, how far it has been read, and how far it may be."""

    descriptor: int
    status: os.stat_result
    offset: int = 0
    limit: float = math.inf

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    def refresh(self) -> int:
        """How many bytes can be read now; starts again if the file has shrunk."""
        self.status = os.fstat(self.descriptor)
        if not self.regular:  # Pipes and devices have no size; `limit` then counts bytes.
            return int(min(PIECE, self.limit - self.offset))
        if self.status.st_size < self.offset:
            self.offset = os.lseek(self.descriptor, 0, os.SEEK_SET)
        return int(min(self.status.st_size, self.limit) - self.offset)


class LogFile:
    """The file that has a name, and those that had it.  Not thread-safe.

    Holds a descriptor for each file that is not yet read to its end.

    Attributes:
        rank: whose log it is.
        path: its name.
        lines: what cuts it.
        behind: the last `read` left something to be read.
        error: why the file is not read any more, `None` while it is.
    """

    def __init__(self, rank: int, path: str, lines: Lines) -> None:
        self.rank, self.path, self.lines = rank, os.fspath(path), lines
        self.behind = False
        self.error: Exception | None = None
        self._sources: deque[_Source] = deque()

    def look(self) -> int | None:
        """Open what has the name now; its descriptor if that is a file not seen yet, else `None`."""
        if self.error is not None:
            return None
        try:
            found = os.stat(self.path)
            if self._sources and os.path.samestat(found, self._sources[-1].status):
                return None
            # Opening a pipe for reading would otherwise wait for its writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.error = error
            self.close()
            return None
        self._sources.append(_Source(descriptor, os.fstat(descriptor)))
        self.behind = True
        return descriptor

    def read(self) -> str:
        """The lines completed by the next piece; `""` if there are none.  Never blocks."""
        try:
            return self._read(self._sources[0]) if self._sources else ""
        except OSError as error:
            self.error = error
            self.close()
            return ""

    def seal(self) -> None:
        """From now on read only what the files hold at this moment."""
        for source in self._sources:
            status = os.fstat(source.descriptor)
            source.limit = status.st_size if source.regular else source.offset + PIECE

    def end(self) -> str:
        """Close everything; returns the line that had begun."""
        self.close()
        return self.lines.end()

    def _read(self, source: _Source) -> str:
        before = source.offset
        size = source.refresh()
        truncated = source.offset < before
        text = self.lines.end() if truncated else ""
        try:
            data = os.read(source.descriptor, min(size, PIECE)) if size > 0 else b""
        except BlockingIOError:  # A pipe that has writers, but nothing in it.
            data = b""
        source.offset += len(data)
        if data:
            text += self.lines.feed(data)
            self.behind = size > len(data) or len(self._sources) > 1
        else:
            self.behind = len(self._sources) > 1
            if self.behind:
                os.close(self._sources.popleft().descriptor)
                text += self.lines.end()
        return text

    def close(self) -> None:
        """Close every file that is open; idempotent."""
        while self._sources:
            os.close(self._sources.popleft().descriptor)
        self.behind = False
