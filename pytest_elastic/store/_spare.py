"""A descriptor kept for the moment in which there is none: to tell those who connect that it is so."""

from __future__ import annotations

from contextlib import suppress

from pytest_elastic.pristine import os, socket
from pytest_elastic.store._wire import pack_refusal


class Spare:
    """One descriptor, open as long as there are others."""

    def __init__(self) -> None:
        self._descriptor: int | None = os.open(os.devnull, os.O_RDONLY)

    def turn_away(self, listening: socket.socket, error: OSError) -> None:
        """Accept a client in its place and tell it why it is not served; or it would stay ready for ever."""
        self.close()
        with suppress(OSError):
            end, _ = listening.accept()
            with end:
                end.send(pack_refusal(f"the store's server cannot take a client: {error}"))
        with suppress(OSError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Let it go; idempotent."""
        # First forgotten: a child forked meanwhile must not close it again.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
