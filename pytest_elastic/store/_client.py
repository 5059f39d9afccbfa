"""The store of a server, from any thread of any process."""

from __future__ import annotations

from typing import Any

from pytest_elastic.pristine import signal, socket
from pytest_elastic.store._api import Span
from pytest_elastic.store._arguments import Asked
from pytest_elastic.store._handle import DEFAULT_TIMEOUT, Handle
from pytest_elastic.store._line import AddressDialer, Lines, PairDialer
from pytest_elastic.store._wire import REQUESTS, unpack_answer

_ITIMER_REAL, _getitimer = signal.ITIMER_REAL, signal.getitimer


class RemoteStore(Handle):
    """A `StoreServer`'s data.  Each thread has its own connection, made at its first use.

    Handlers of signals and finalizers may use it, also in the middle of an operation; they have a connection
    of their own then, until that operation goes on.

    One operation is one round trip, and a write has happened when the call returns.  An operation raises
    `DistNetworkError` when the server goes away, or is silent for 5 s beyond the operation's own timeout.
    After a fork the child makes its own connection if the store was made from an address; from a socket it
    cannot, and its operations are `DistNetworkError`.

    Args:
        address: `StoreServer.address`, or what `StoreServer.pair` gave (owned by the store from then on).
        token: `StoreServer.token`, where the address is a TCP port.
        timeout: of operations that block.
    """

    def __init__(
        self, address: str | socket.socket, token: str | None = None, timeout: Span = DEFAULT_TIMEOUT
    ) -> None:
        super().__init__(timeout)
        if isinstance(address, socket.SocketType):
            self._lines = Lines(PairDialer(address))
        else:
            self._lines = Lines(AddressDialer(address, token))

    def clone(self) -> RemoteStore:
        """A handle on the same connections with its own timeout, equal at first."""
        other = object.__new__(RemoteStore)
        other._lines, other.place = self._lines, self.place
        other.set_timeout(self._timeout)
        return other

    def close(self) -> None:
        """Hang up, for the clones too; later operations are `DistNetworkError`."""
        self._lines.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        answer = self._lines.mine().exchange(REQUESTS[name].pack(arguments), 0.0)
        return unpack_answer(REQUESTS[name], answer)

    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        layout = REQUESTS[name]
        if layout.declares:
            asked = arguments[0]
            known = (asked.may_timeout, asked.writers) if type(asked) is Asked else (False, ())
            arguments = (asked, *known)
        request = layout.pack((seconds, _getitimer(_ITIMER_REAL)[0], *arguments))
        answer = self._lines.mine().exchange(request, seconds)
        return unpack_answer(layout, answer)
