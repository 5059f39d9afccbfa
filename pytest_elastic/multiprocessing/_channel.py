"""Framed messages with descriptors between processes of one run that trust each other.

A frame is `length, descriptor count` (two 4-byte numbers) and a pickle.  Only our own processes hold the
ends: socket pairs, never addresses.  Reading never blocks on half a frame, because the writer may have
been killed or stopped in the middle of it.
"""

from __future__ import annotations

import array
import contextlib
from typing import Any

from pytest_elastic.pristine import os, pickle, socket, struct

_HEADER = struct.Struct("!QI")
_CHUNK = 1 << 20
_DESCRIPTORS_AT_ONCE = 250  # The kernel's limit for one message is 253.
_SPACE = _DESCRIPTORS_AT_ONCE * array.array("i").itemsize


class Channel:
    """One end.  Not thread-safe.

    Attributes:
        closed: the other end is gone; what it had sent before was still delivered.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self.closed = False

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the other end's socket, to be sent or inherited."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        """The end with this descriptor, which the channel owns from now on."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """The descriptor, for a selector; -1 once closed."""
        return self._socket.fileno()

    def send(self, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send one message; blocks while the other end's buffer is full.

        Raises:
            OSError: the other end is gone (`BrokenPipeError`).
        """
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        header = _HEADER.pack(len(body), len(descriptors))
        if not descriptors:
            self._socket.sendall(header + body)
            return
        # Each byte of the header can carry a batch of descriptors, so twelve batches fit.
        for position in range(len(header)):
            batch = descriptors[position * _DESCRIPTORS_AT_ONCE : (position + 1) * _DESCRIPTORS_AT_ONCE]
            part = header[position : position + 1]
            if batch:
                socket.send_fds(self._socket, [part], list(batch))
            else:
                self._socket.sendall(part)
        self._socket.sendall(body)

    def receive(self) -> list[tuple[Any, tuple[int, ...]]]:
        """All whole messages that have arrived, with their descriptors; never blocks."""
        while not self.closed and self._read(socket.MSG_DONTWAIT):
            pass
        return self._frames()

    def wait(self) -> tuple[Any, tuple[int, ...]]:
        """The next message; blocks until it is whole.

        Raises:
            EOFError: the other end is gone.
        """
        while not (frames := self._frames(1)):
            if self.closed:
                raise EOFError("the other end of the channel is gone")
            self._read(0)
        return frames[0]

    def close(self) -> None:
        """Close this end and every descriptor that nobody took; idempotent."""
        self.closed = True
        self._socket.close()
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors.clear()

    def _read(self, flags: int) -> bool:
        try:
            space = socket.CMSG_SPACE(_SPACE)
            data, extra, _, _ = self._socket.recvmsg(_CHUNK, space, flags | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:  # ConnectionResetError: the writer was killed with our bytes unread.
            data, extra = b"", []
        for _, _, packed in extra:
            self._descriptors += array.array("i", packed)
        self._buffer += data
        self.closed = not data
        return bool(data)

    def _frames(self, most: int | None = None) -> list[tuple[Any, tuple[int, ...]]]:
        frames: list[tuple[Any, tuple[int, ...]]] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size and len(frames) != most:
            length, count = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + length
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                message = pickle.loads(view[start + _HEADER.size : end])
            frames.append((message, tuple(self._descriptors[:count])))
            del self._descriptors[:count]
            start = end
        del self._buffer[:start]
        return frames
