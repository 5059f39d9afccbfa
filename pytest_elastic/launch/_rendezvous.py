"""Rendezvous: ranks that connect to the launcher by address, with a token, instead of inheriting descriptors.

*Theory of operation.*  A launcher that cannot hand descriptors to its ranks, since they may be on another
machine, gives each its `Place`, which pickles.  The rank connects once for its channel and once for its
timers, and says each time which rank it is, and the group's token, in one frame of plain bytes; anything else
is refused in words.  Its store has an address and a token of its own (`StoreServer.admit`).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.loop import Loop
from pytest_elastic.pristine import os, socket, struct

_log = logging.getLogger(__name__)

CHANNEL, TIMERS = b"c", b"t"  # What a rank connects for.
_HEAD = struct.Struct("!4scIH")  # Magic, purpose, rank, length of the token that follows.
_MAGIC, _WELCOME = b"pel1", b"+"
_LONGEST = 1024  # Bytes of a frame.
_GREETING_TIME = 10.0  # Seconds for a stranger to say who it is, and for a rank to connect.
_MOST = 1024  # Strangers at once.


@dataclass(frozen=True, slots=True)
class StorePlace:
    """To the rank: where its store is.

    Attributes:
        address, token: for `RemoteStore`.
    """

    address: str
    token: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank finds its launcher.

    Attributes:
        address: of the rendezvous, `host:port`.
        token: what it has to say there.
        store: where its store is.
        ahead: by how many seconds the launcher's monotonic clock is ahead of the rank's.
    """

    address: str
    token: str
    store: StorePlace
    ahead: float = 0.0


class Rendezvous:
    """The launcher's side: accepts ranks.  All methods belong to the loop.

    Args:
        loop: in which it listens.
        host: the interface to listen on.
        purposes: what ranks may connect for, a byte each.
        refusal: called with a rank and its purpose: why it is refused, `""` if it is not.
        admit: called with both and the connected socket.

    Attributes:
        address: see `Place`.
        token: likewise, made at random.
    """

    def __init__(
        self,
        loop: Loop,
        host: str,
        purposes: bytes,
        refusal: Callable[[int, bytes], str],
        admit: Callable[[int, bytes, socket.socket], object],
    ) -> None:
        self._loop, self._purposes, self._refusal, self._admit = loop, purposes, refusal, admit
        self.token = os.urandom(16).hex()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=128)
        self._socket.setblocking(False)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._strangers: dict[socket.socket, tuple[float, bytearray]] = {}
        self._alarm = loop.alarm(self._expire)
        loop.watch(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening, and hang up on strangers; idempotent."""
        for stranger in list(self._strangers):
            self._part(stranger).close()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        try:
            end, _ = self._socket.accept()
        except OSError as error:  # It has gone again; or no descriptor is left, and it will be asked again.
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                _log.warning("a rank could not connect: %s", error)
            return
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._strangers[end] = SYSTEM_CLOCK.monotonic() + _GREETING_TIME, bytearray()
        self._alarm.at = min(until for until, _ in self._strangers.values())
        self._loop.watch(end.fileno(), partial(self._hear, end))
        if len(self._strangers) > _MOST:
            self._refuse(next(iter(self._strangers)), "too many ranks connect at once")

    def _hear(self, end: socket.socket) -> None:
        _, said = self._strangers[end]
        try:
            # Not a byte more than the frame: what follows is the channel's.
            size = _HEAD.size if len(said) < _HEAD.size else _HEAD.size + _HEAD.unpack_from(said)[3]
            data = end.recv(size - len(said))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        said += data
        if not data:
            self._part(end).close()
        elif len(said) >= _HEAD.size:
            self._judge(end, bytes(said))

    def _judge(self, end: socket.socket, said: bytes) -> None:
        magic, purpose, rank, length = _HEAD.unpack_from(said)
        if magic != _MAGIC or purpose not in self._purposes or length > _LONGEST:
            self._refuse(end, "this is no rank of pytest-elastic, or one of another version")
        elif len(said) == _HEAD.size + length:
            known = hmac.compare_digest(said[_HEAD.size :], self.token.encode())
            if reason := self._refusal(rank, purpose) if known else "wrong token":
                self._refuse(end, reason)
                return
            with suppress(OSError):
                self._part(end).send(_WELCOME)
            end.setblocking(True)
            self._admit(rank, purpose, end)

    def _refuse(self, end: socket.socket, reason: str) -> None:
        with suppress(OSError):
            _log.warning("a rank that came from %s was refused: %s", end.getpeername()[0], reason)
            end.send(reason.encode())
        self._part(end).close()

    def _part(self, end: socket.socket) -> socket.socket:
        """Forget a stranger; it is the caller's."""
        self._loop.unwatch(end.fileno())
        del self._strangers[end]
        return end

    def _expire(self) -> None:
        now = SYSTEM_CLOCK.monotonic()
        for stranger in [one for one, (until, _) in self._strangers.items() if until <= now]:
            self._refuse(stranger, f"said nothing within {_GREETING_TIME:g} s")
        self._alarm.at = min((until for until, _ in self._strangers.values()), default=float("inf"))


def keep_alive(end: socket.socket) -> None:
    """Have a connection fail when the other machine has not answered for 20 seconds."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("KEEPIDLE", 5), ("KEEPINTVL", 5), ("KEEPCNT", 3), ("USER_TIMEOUT", 20_000)):
        end.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)


def connect(address: str, token: str, purpose: bytes, rank: int) -> socket.socket:
    """In the rank: a connection to its launcher; blocks for ten seconds at most.

    Raises:
        DistNetworkError: nobody is there, or the rank is refused; the text says why.
    """
    host, _, port = address.rpartition(":")
    try:
        end = socket.create_connection((host, int(port)), timeout=_GREETING_TIME)
    except OSError as error:
        raise DistNetworkError(f"rank {rank} finds no launcher at {address}: {error}") from None
    try:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(end)
        said = token.encode()
        end.sendall(_HEAD.pack(_MAGIC, purpose, rank, len(said)) + said)
        answer = end.recv(1)
        if answer != _WELCOME:
            answer += end.recv(_LONGEST)
            reason = answer.decode("utf-8", "replace") or "it hung up"
            raise DistNetworkError(f"the launcher at {address} refused rank {rank}: {reason}")
        end.settimeout(None)
    except OSError as error:
        end.close()
        raise DistNetworkError(f"rank {rank} could not join its launcher: {error}") from None
    except BaseException:
        end.close()
        raise
    return end
