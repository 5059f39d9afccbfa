"""The port that `MASTER_PORT` names."""

from __future__ import annotations

from pytest_elastic.pristine import socket


def reserve_port() -> socket.socket:
    """A port of the loopback that is ours but listens to nobody.

    With SO_REUSEADDR on both sides a server may bind it while we hold it, since we do not listen; the
    kernel gives it to nobody who did not ask for it by number.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
