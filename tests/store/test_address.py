"""Where servers listen."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from pytest_elastic import pristine
from pytest_elastic.store._address import TcpListener, UnixListener, connect, peer_user


def test_the_peer_of_a_unix_socket_is_known() -> None:
    """By the kernel, not by what it says."""
    listener = UnixListener()
    with connect(listener.address, 1.0), listener.socket.accept()[0] as peer:
        assert peer_user(peer) == os.geteuid()
        assert listener.refusal(peer) == ""
    listener.close()


def test_where_the_peer_is_not_known_the_mode_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without SO_PEERCRED."""
    monkeypatch.delattr(pristine.socket, "SO_PEERCRED")
    with socket.socket() as end:
        assert peer_user(end) == os.geteuid()


def test_a_long_temporary_directory_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unix socket's path has about 100 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    listener = UnixListener()
    assert listener.address.startswith("unix:/tmp/elastic-")
    assert list(long.iterdir()) == []
    connect(listener.address, 1.0).close()
    listener.close()


def test_close_twice_and_after_a_clean_up() -> None:
    """Somebody may have emptied the temporary directory."""
    listener = UnixListener()
    path = listener.address.removeprefix("unix:")
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    listener.close()
    listener.close()


def test_tcp_addresses_of_both_families() -> None:
    """As `connect` takes them."""
    for host, start in (("127.0.0.1", "tcp://127.0.0.1:"), ("::1", "tcp://[::1]:")):
        try:
            listener = TcpListener(host)
        except OSError:
            continue  # This machine has no such family.
        assert listener.address.startswith(start)
        with connect(listener.address, 1.0) as end, listener.socket.accept()[0] as peer:
            assert listener.refusal(peer) == ""
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        listener.close()


@pytest.mark.parametrize(
    "address", ["", "localhost:80", "tcp://localhost", "tcp://localhost:x", "http://x:1"]
)
def test_other_addresses_are_refused(address: str) -> None:
    """A ValueError that says what an address is."""
    with pytest.raises(ValueError, match="unix:/path or tcp://host:port, not"):
        connect(address, 1.0)


def test_a_failed_connection_leaves_no_descriptor() -> None:
    """Whatever the address."""
    for address in ("unix:/nowhere", "unix:" + "x" * 200, "tcp://127.0.0.1:1"):
        with pytest.raises(OSError):
            connect(address, 1.0)


def test_more_may_connect_at_once_than_the_queue_of_a_server_takes(tmp_path: Path) -> None:
    """They come when there is room, or are told that there is none."""
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        first = connect(f"unix:{path}", 5.0)
        with pytest.raises(TimeoutError, match="no room in the queue"):
            connect(f"unix:{path}", 0.05)
        made_room = threading.Timer(0.1, lambda: listening.accept()[0].close())
        made_room.start()
        connect(f"unix:{path}", 20.0).close()
        made_room.join()
        first.close()
