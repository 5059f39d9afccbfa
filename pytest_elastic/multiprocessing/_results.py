"""Results of function ranks: a channel for each, so that one killed in the middle of its own hurts nobody."""

from __future__ import annotations

import math
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._group import Group


@dataclass(frozen=True, slots=True)
class Returned:
    """From a function rank: its value, pickled."""

    value: bytes


class RankChannels:
    """The launcher's ends.  Not thread-safe.

    Attributes:
        inbox: rank -> messages that have arrived and were not taken yet.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self.inbox: dict[int, deque[Any]] = {rank: deque() for rank in ranks}
        self._channels: dict[int, Channel] = {}

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
        if channel is not None and channel.fileno() >= 0:
            self.inbox[rank].extend(message for message, _ in channel.receive())
        return self.inbox[rank]

    def sleep(self, group: Group, ranks: Iterable[int], deadline: Deadline, also: Iterable[int] = ()) -> None:
        """Until one of these ranks sends, the guardian tells something, or the deadline passes.

        Args:
            also: further descriptors that end it when they are readable.
        """
        poll = select.poll()
        for descriptor in also:
            poll.register(descriptor, select.POLLIN)
        if not group.over:
            poll.register(group.fileno(), select.POLLIN)
        for rank in ranks:
            if not self._channels[rank].closed:
                poll.register(self._channels[rank].fileno(), select.POLLIN)
        left = deadline.remaining()
        poll.poll(None if left == math.inf else math.ceil(left * 1000))

    def take(self, group: Group, timeout: float) -> None:
        """Wait up to `timeout` seconds for news of any rank, and take them in."""
        if timeout > 0 and not group.over:
            self.sleep(group, self._channels, Deadline.after(timeout))
        group.take()
        for rank in self._channels:
            self.read(rank)

    def returned(self, rank: int, loads: Callable[[bytes], Any]) -> tuple[bool, Any]:
        """Whether a rank has returned, and its value."""
        for message in self.read(rank):
            if isinstance(message, Returned):
                return True, loads(message.value)
        return False, None

    def close(self) -> None:
        """Let go of all; idempotent."""
        for channel in self._channels.values():
            channel.close()


def in_memory(data: bytes) -> int:
    """A descriptor to read `data` from; see `read_memory`."""
    number = os.memfd_create("payload")
    with open(number, "wb", closefd=False) as file:
        file.write(data)
    return number


def read_memory(number: int) -> bytes:
    """What `in_memory` put there; opened anew, since ranks share the descriptor's offset."""
    with open(f"/proc/self/fd/{number}", "rb") as file:
        data = file.read()
    os.close(number)
    return data
