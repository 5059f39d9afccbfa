"""Results of function ranks: a channel for each, so that one killed in the middle of its own hurts nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.pristine import socket

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
    """The launcher's ends.

    Args:
        ranks: their numbers.
        loop: that reads.
        heard: called in the loop with each message.

    Attributes:
        inbox: rank -> messages that have arrived and were not taken yet.
        fault: why a rank's message could not be unpickled; `None` where all could.
    """

    def __init__(
        self, ranks: Iterable[int], loop: Loop, heard: Callable[[int, Any], object] = lambda rank, _: None
    ) -> None:
        self.inbox: dict[int, deque[Any]] = {rank: deque() for rank in ranks}
        self.fault: Exception | None = None
        self._loop, self._heard = loop, heard
        self._channels: dict[int, Channel] = {}
        self._values: dict[int, tuple[bool, Any]] = {}

    def open(self, rank: int) -> socket.socket:
        """Make one; the other end is the value."""
        ours, theirs = socket.socketpair()
        self.adopt(rank, ours)
        return theirs

    def adopt(self, rank: int, end: socket.socket) -> None:
        """Use this connected socket as a rank's channel."""
        channel = self._channels[rank] = Channel(end)
        self._loop.call(partial(self._loop.watch, channel.fileno(), partial(self._read, rank)))

    def has(self, rank: int) -> bool:
        """Whether there is one to this rank."""
        return rank in self._channels

    def is_silent(self, rank: int) -> bool:
        """Whether nothing more will come from a rank: it has hung up, or never connected."""
        channel = self._channels.get(rank)
        return channel is None or channel.closed

    def send(self, rank: int, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send to a rank, from one thread; one that is gone is passed over."""
        try:
            self._channels[rank].send(message, descriptors)
        except (OSError, KeyError):  # Or it has not connected.
            pass

    def returned(self, rank: int, loads: Callable[[bytes], Any]) -> tuple[bool, Any]:
        """Whether a rank has returned, and its value; where it has none that `loads` can read, the reason."""
        if rank not in self._values:
            messages = tuple(self.inbox[rank])
            last = next((message for message in messages if isinstance(message, Returned | Left)), None)
            if last is None:
                return False, f"rank {rank} ended before it returned"
            self._values[rank] = _read(rank, last, loads)
        return self._values[rank]

    def close(self) -> None:
        """Let go of all; idempotent."""
        self._loop.call(self._close)

    # In the loop.

    def _read(self, rank: int) -> None:
        channel = self._channels[rank]
        try:
            for message, numbers in channel.receive():
                # What a descriptor comes with has a place for it.
                message = replace(message, descriptor=numbers[0]) if numbers else message
                self.inbox[rank].append(message)
                self._heard(rank, message)
        except Exception as error:  # It is of the user's classes: whoever waits for it shall be told.
            self.fault = error
            self._loop.unwatch(channel.fileno())
        if channel.closed:
            self._loop.unwatch(channel.fileno())
        self._loop.recheck()

    def _close(self) -> None:
        for channel in self._channels.values():
            self._loop.unwatch(channel.fileno())
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
