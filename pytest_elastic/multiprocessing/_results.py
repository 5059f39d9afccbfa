"""Results of function ranks: a channel for each, so that one killed in the middle of its own hurts nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._group import Group, sleep_until_readable
from pytest_elastic.pristine import socket, threading

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Returned:
    """From a function rank: its value, pickled, and the name of its type."""

    value: bytes
    type_name: str


@dataclass(frozen=True, slots=True)
class Left:
    """From a function rank: how it ends without a value, in words."""

    how: str


class RankChannels:
    """The launcher's ends.  Thread-safe but for `inbox`.

    Attributes:
        inbox: rank -> messages that have arrived and were not taken yet.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self.inbox: dict[int, deque[Any]] = {rank: deque() for rank in ranks}
        self._channels: dict[int, Channel] = {}
        self._values: dict[int, tuple[bool, Any]] = {}
        self._lock = threading.RLock()

    def open(self, rank: int) -> socket.socket:
        """Make one; the other end is the value."""
        self._channels[rank], theirs = Channel.pair()
        return theirs

    def send(self, rank: int, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send to a rank; one that is gone is passed over."""
        try:
            self._channels[rank].send(message, descriptors)
        except OSError:
            pass

    def read(self, rank: int) -> deque[Any]:
        """Take in what has arrived; the rank's inbox is the value."""
        channel = self._channels.get(rank)
        with self._lock:
            if channel is not None and channel.fileno() >= 0:
                for message, numbers in channel.receive():
                    # What a descriptor comes with has a place for it.
                    self.inbox[rank].append(replace(message, descriptor=numbers[0]) if numbers else message)
        return self.inbox[rank]

    def sleep(self, group: Group, ranks: Iterable[int], deadline: Deadline, also: Iterable[int] = ()) -> None:
        """Until one of these ranks sends, the guardian tells something, or the deadline passes; maybe less.

        Args:
            also: further descriptors that end it when they are readable.
        """
        open_ones = [self._channels[rank] for rank in ranks if not self._channels[rank].closed]
        # Where nothing more comes from the guardian, its channel would be readable for ever.
        ends: list[Group | Channel] = [*open_ones] if group.over else [group, *open_ones]
        sleep_until_readable([*also, *(end.fileno() for end in ends)], deadline)

    def take(self, group: Group, timeout: float) -> None:
        """Wait up to `timeout` seconds for news of any rank, and take them in."""
        if timeout > 0 and not group.over:
            self.sleep(group, self._channels, Deadline.after(timeout))
        group.take()
        for rank in self._channels:
            self.read(rank)

    def returned(self, rank: int, loads: Callable[[bytes], Any]) -> tuple[bool, Any]:
        """Whether a rank has returned, and its value; where it has none that `loads` can read, the reason."""
        with self._lock:
            if rank not in self._values:
                inbox = self.read(rank)
                last = next((message for message in inbox if isinstance(message, Returned | Left)), None)
                if last is None:
                    return False, f"rank {rank} ended before it returned"
                self._values[rank] = _read(rank, last, loads)
            return self._values[rank]

    def close(self) -> None:
        """Let go of all; idempotent."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()


def _read(rank: int, last: Returned | Left, loads: Callable[[bytes], Any]) -> tuple[bool, Any]:
    if isinstance(last, Left):
        return False, f"rank {rank} {last.how}"
    try:
        return True, loads(last.value)
    except Exception as error:
        what = f"rank {rank} returned a {last.type_name}, which cannot be unpickled here"
        return False, f"{what}: {type(error).__name__}: {error}"


def load_call(data: bytes, loads: Callable[[bytes], Any]) -> Call:
    """In the rank: the function and the arguments that came.

    Raises:
        TypeError: they cannot be unpickled; the text says why.
    """
    try:
        call: Call = loads(data)
    except Exception as error:
        what = "the function or its arguments cannot be unpickled in the rank"
        raise TypeError(f"{what}: {type(error).__name__}: {error}") from error
    return call
