"""One file that grows: whole lines out of it, with their header, whatever happens to the file.

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
import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

PIECE = 1 << 16  # Bytes at a time: larger ones cost the allocator a mapping each, and are slower.

LineFilter = Callable[[str], bool]

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Lines:
    """Cuts bytes into lines, which end by `\\n`, `\\r\\n` or a lone `\\r`; out come header, line, `\\n`.

    Attributes:
        filter_error: the first exception that the filter raised, `None` if it never did.
    """

    def __init__(self, header: str, keep: LineFilter | None = None) -> None:
        self._text_header, self._keep = header, keep
        # A filter must see lines without header: then it is added after it, else on the way.
        self._header = header.encode("utf-8", "replace") if keep is None else b""
        # The line that has begun; as pieces of text, since a long one would be copied when it grows.
        self._begun: list[str] = []
        self._decoder = _new_decoder("replace")
        self._held_return = False
        self.filter_error: Exception | None = None

    def feed(self, data: bytes) -> str:
        """The lines that end within `data`."""
        if self._held_return:
            data, self._held_return = b"\r" + data, False
        if b"\r" in data:
            self._held_return = data.endswith(b"\r")
            whole = data[:-1] if self._held_return else data
            data = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._begin(data)
            return ""
        head = data[: end - 1].replace(b"\n", b"\n" + self._header) + b"\n"
        text = self._complete(head if self._begun else self._header + head)
        self._begin(data[end:])
        return text

    def end(self) -> str:
        """The line that has begun, as if it had ended."""
        if not (self._begun or self._held_return):
            return ""
        self._held_return = False
        return self._complete(b"\n" if self._begun else self._header + b"\n")

    def _begin(self, data: bytes) -> None:
        if data:
            self._begun.append(self._decoder.decode(data if self._begun else self._header + data))

    def _complete(self, data: bytes) -> str:
        # Characters are not cut here: one bad byte cannot swallow a newline.
        self._begun.append(self._decoder.decode(data, True))
        text = "".join(self._begun)
        self._begun.clear()
        return text if self._keep is None else self._filter(text)

    def _filter(self, text: str) -> str:
        # Not splitlines(), which also cuts at form feeds and other characters that end no line of a log.
        lines = [f"{line}\n" for line in text[:-1].split("\n")]
        return "".join([f"{self._text_header}{line}" for line in lines if self._wanted(line)])

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
    """What has, and what had, one name.  Not thread-safe; holds a descriptor for each file not yet read out.

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
            self._give_up(error)
            return None
        self._sources.append(_Source(descriptor, os.fstat(descriptor)))
        self.behind = True
        return descriptor

    def read(self) -> str:
        """The lines completed by the next piece; `""` if there are none.  Never blocks."""
        text = ""
        try:
            if self._sources:
                text = self._read(self._sources[0])
        except OSError as error:
            self._give_up(error)
        return text

    def seal(self) -> None:
        """From now on read only what the files hold at this moment."""
        for source in self._sources:
            status = os.fstat(source.descriptor)
            source.limit = status.st_size if source.regular else source.offset + PIECE

    def end(self) -> str:
        """Close everything; returns the line that had begun."""
        while self._sources:
            os.close(self._sources.popleft().descriptor)
        self.behind = False
        return self.lines.end()

    def _read(self, source: _Source) -> str:
        before = source.offset
        size = source.refresh()
        truncated = source.offset < before
        text = self.lines.end() if truncated else ""
        data = self._take(source, min(size, PIECE))
        if data:
            text += self.lines.feed(data)
            self.behind = size > len(data) or len(self._sources) > 1
        else:
            self.behind = len(self._sources) > 1
            if self.behind:
                os.close(self._sources.popleft().descriptor)
                text += self.lines.end()
        return text

    def _take(self, source: _Source, size: int) -> bytes:
        try:
            data = os.read(source.descriptor, size) if size > 0 else b""
        except BlockingIOError:  # A pipe that has writers, but nothing in it.
            data = b""
        source.offset += len(data)
        return data

    def _give_up(self, error: Exception) -> None:
        self.error = error
        while self._sources:
            os.close(self._sources.popleft().descriptor)
        self.behind = False
