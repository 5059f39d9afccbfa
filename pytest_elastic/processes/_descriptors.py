"""File descriptors of this process: their limit, memory files, and a wake-up for poll loops."""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from functools import cache

from pytest_elastic.pristine import os, select, threading


class Wakeup:
    """A descriptor (eventfd) by which any thread ends another thread's poll.  Thread-safe."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Reentrant: a finalizer may call `set` in the thread that is inside it.
        self._lock = threading.RLock()

    def fileno(self) -> int:
        """The descriptor to poll for reading, -1 once closed."""
        return self._descriptor

    def set(self) -> None:
        """Make it readable until `clear`; does nothing once closed."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Have the next poll block again; does nothing if it was not set."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; not while a thread polls it.  Idempotent."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def wait_for(descriptor: int, event: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds for `select.POLLIN` or `POLLOUT` on a descriptor; whether it came."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(timeout * 1000))


def open_descriptors() -> list[int]:
    """The open descriptors of this process; one is that by which the list was read, and is closed."""
    return list(map(int, os.listdir("/proc/self/fd")))


def path_of(descriptor: int) -> str:
    """A path by which this process opens or watches what the descriptor refers to, whatever its name is."""
    return f"/proc/self/fd/{descriptor}"


def memory_file(data: bytes) -> int:
    """A descriptor of a file in memory that holds `data`, for `read_memory_file` in another process."""
    number = os.memfd_create("payload")
    with open(number, "wb", closefd=False) as file:
        file.write(data)
    return number


def read_memory_file(number: int) -> bytes:
    """The whole file, which is closed; it is opened anew, since processes share the descriptor's offset."""
    with open(path_of(number), "rb") as file:
        data = file.read()
    os.close(number)
    return data


@cache
def descriptor_limit() -> int:
    """The soft limit of open descriptors that this process was started with; -1 for none."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> float:
    """Raise the soft limit of descriptors to the hard one, and return it; `inf` for none."""
    import resource

    descriptor_limit()  # Before it changes.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return math.inf if hard == resource.RLIM_INFINITY else hard


def restore_descriptor_limit(soft: int) -> None:
    """Set the soft limit of descriptors, in a rank, to that of its launcher."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def provide_descriptors(number: int, purpose: str) -> None:
    """Raise the soft limit if fewer than `number` more descriptors may be opened.

    Raises:
        OSError: the hard limit is lower; the text names limit and need.
    """
    need = len(open_descriptors()) + number
    if not 0 <= descriptor_limit() < need:
        return
    limit = raise_descriptor_limit()
    if need > limit:
        raise OSError(
            errno.EMFILE,
            f"{purpose} need about {need} file descriptors, and the hard limit is {limit}: "
            f"raise it (`ulimit -n {need}`), or use fewer ranks",
        )
