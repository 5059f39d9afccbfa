"""Where a server listens: `unix:/path` in a directory of its own, or `tcp://host:port`."""

from __future__ import annotations

import contextlib
from typing import Protocol

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import os, socket, struct, time

Socket = socket.socket

_LONGEST_PATH = 100  # A unix socket's path has 107 bytes on Linux, 103 elsewhere.
_BACKLOG = 1024
_PERIOD = 0.005  # Seconds between two attempts.


class Listener(Protocol):
    """A listening socket and its rules."""

    socket: Socket

    def refusal(self, peer: Socket) -> str:
        """Why this peer is not served; empty if it is."""

    def close(self) -> None:
        """Stop listening and leave no file."""


class UnixListener:
    """A unix socket that only this user can reach: mode 0600 in a new directory of mode 0700.

    Attributes:
        address: what a `RemoteStore` takes.
        socket: the listening socket, non-blocking.
    """

    def __init__(self) -> None:
        import tempfile

        self._folder = tempfile.mkdtemp(prefix="elastic-")
        if len(os.fsencode(self._folder)) > _LONGEST_PATH - len("/store"):
            os.rmdir(self._folder)
            self._folder = tempfile.mkdtemp(prefix="elastic-", dir="/tmp")
        self._path = os.path.join(self._folder, "store")
        self.address = f"unix:{self._path}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(self._path)
        os.chmod(self._path, 0o600)
        self.socket.listen(_BACKLOG)
        self.socket.setblocking(False)

    def refusal(self, peer: socket.socket) -> str:
        """Why this peer is not served; empty if it is."""
        user = peer_user(peer)
        return "" if user == os.geteuid() else f"user {user} is not the owner of this store"

    def close(self) -> None:
        """Stop listening and leave no file."""
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
            os.rmdir(self._folder)


class TcpListener:
    """A TCP port that the system chooses."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
        self.socket.setblocking(False)
        name = f"[{host}]" if ":" in host else host
        self.address = f"tcp://{name}:{self.socket.getsockname()[1]}"

    def refusal(self, peer: socket.socket) -> str:
        """Empty: whoever has the token is served."""
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ""

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


def peer_user(peer: socket.socket) -> int:
    """The user id of the process at the other end of a unix socket, as of when it connected."""
    if not hasattr(socket, "SO_PEERCRED"):  # Not Linux: the directory's mode is what keeps others out.
        return os.geteuid()
    credentials = struct.Struct("3i")
    user: int = credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[
        1
    ]
    return user


def connect(address: str, timeout: float) -> socket.socket:
    """A connected, blocking socket.

    Raises:
        ValueError: the address is neither kind.
        OSError: nobody is there within `timeout` seconds.
    """
    if address.startswith("unix:"):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.settimeout(timeout)
        try:
            _connect(end, address.removeprefix("unix:"), timeout)
        except BaseException:
            end.close()
            raise
        return end
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not port.isdecimal():
        raise ValueError(f"a store's address is unix:/path or tcp://host:port, not {address!r}")
    end = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def _connect(end: socket.socket, path: str, timeout: float) -> None:
    """Connect a unix socket, also where more connect at once than the server's queue takes.

    With a timeout the kernel does not wait for room there, as it does in TCP.
    """
    deadline = Deadline.after(timeout)
    while True:
        try:
            return end.connect(path)
        except BlockingIOError:
            if deadline.passed():
                raise TimeoutError(f"no room in the queue of the server within {timeout:g} s") from None
            time.sleep(_PERIOD)
