"""Which sockets can be read or written; epoll where there is one, without the copying of `selectors`."""

from __future__ import annotations

import math

from pytest_elastic.pristine import select

READ, WRITE = 1, 4  # The bits of epoll and of poll alike.  Any other bit is an end, to be found by reading.

_LONGEST = 86_400.0


class Poller:
    """A set of descriptors.  One thread's."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._poll = self._epoll or select.poll()

    def add(self, descriptor: int, bits: int) -> None:
        self._poll.register(descriptor, bits)

    def change(self, descriptor: int, bits: int) -> None:
        self._poll.modify(descriptor, bits)

    def remove(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """The descriptors that are ready, with their bits; waits so many seconds for the first."""
        if self._epoll is not None:
            return self._epoll.poll(seconds if seconds < _LONGEST else _LONGEST)
        return self._poll.poll(math.ceil(min(seconds, _LONGEST) * 1000))

    def fileno(self) -> int:
        """A descriptor that can be read when one of the set is ready; -1 without epoll."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
