"""Send standard streams to files, for Python, for C and for child processes alike.

*Theory of operation.*  What all three share is the descriptor (1 or 2), so that is what moves: the file is
put in its place and the old one is put back.  Buffers above it are flushed on both edges, Python's first, so
that everything lands on the side of the edge on which it was printed.  Where `sys.stdout` does not write to
descriptor 1 (captured, replaced or missing), it is replaced for the time being by one that does.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import TextIO

from pytest_elastic.pristine import fcntl, os

__all__ = ["redirect", "redirect_stderr", "redirect_stdout"]

_DESCRIPTORS = {"stdout": 1, "stderr": 2}
_FIRST_FREE = 3


@contextlib.contextmanager
def redirect(std: str, to_file: str) -> Iterator[None]:
    """Redirect a standard stream of this whole process to a file, until the block ends.

        with redirect("stdout", "out.log"):  # Or redirect_stdout("out.log").
            os.system("echo in the file too")

    The file is truncated, its directory must exist.  Blocks may be nested.  Not thread-safe: other threads
    print to the file too.

    Args:
        std: `"stdout"` or `"stderr"`.
        to_file: path.

    Raises:
        ValueError: no such stream.
        OSError: the file cannot be opened, or what was printed before or in the block cannot be written.
    """
    if std not in _DESCRIPTORS:
        raise ValueError(f"unknown standard stream <{std}>, must be one of {list(_DESCRIPTORS)}")
    descriptor = _DESCRIPTORS[std]
    with contextlib.ExitStack() as cleanup:
        file = _open(to_file)
        cleanup.callback(os.close, file)
        _flush(std)
        cleanup.enter_context(_kept(descriptor))
        os.dup2(file, descriptor)
        stream = cleanup.enter_context(_printing_to(std, descriptor))
        cleanup.callback(_flush, std, stream)
        yield


redirect_stdout = functools.partial(redirect, "stdout")
redirect_stderr = functools.partial(redirect, "stderr")


def _open(path: str) -> int:
    # To append: after somebody truncated the file, the next line is its first, not one behind a hole.
    low = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    finally:
        os.close(low)


@contextlib.contextmanager
def _kept(descriptor: int) -> Iterator[None]:
    """Put back at the end what a descriptor refers to now; close it if it is closed now."""
    saved = None
    with contextlib.suppress(OSError):
        saved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    try:
        yield
    finally:
        if saved is None:
            os.close(descriptor)
        else:
            os.dup2(saved, descriptor)
            os.close(saved)


@contextlib.contextmanager
def _printing_to(std: str, descriptor: int) -> Iterator[TextIO]:
    """Have `sys.stdout` or `sys.stderr` write to the descriptor; gives the stream that does."""
    before: TextIO | None = getattr(sys, std)
    number = -1
    with contextlib.suppress(AttributeError, OSError, ValueError):  # It has no descriptor, or is closed.
        number = before.fileno()  # type: ignore[union-attr]
    if before is not None and number == descriptor:
        yield before
        return
    with open(descriptor, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False) as stream:
        setattr(sys, std, stream)
        try:
            yield stream
        finally:
            setattr(sys, std, before)


def _flush(std: str, *streams: TextIO) -> None:
    """Write out what Python and C hold back, also in the stream that a capture hides."""
    for stream in (*streams, getattr(sys, std), getattr(sys, f"__{std}__")):
        if hasattr(stream, "flush") and not getattr(stream, "closed", False):
            stream.flush()
    libc = ctypes.CDLL(None)
    name = f"__{std}p" if sys.platform == "darwin" else std
    libc.fflush(ctypes.c_void_p.in_dll(libc, name))
