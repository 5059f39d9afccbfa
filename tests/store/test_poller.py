"""Which sockets are ready."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_elastic.pristine import select
from pytest_elastic.store._poller import READ, WRITE, Poller


@pytest.fixture(params=["epoll", "poll"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poller]:
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll")
    poller = Poller()
    yield poller
    poller.close()


def test_finds_what_is_ready(poller: Poller) -> None:
    """By its descriptor and bits, as long as it is watched."""
    ours, theirs = socket.socketpair()
    poller.add(ours.fileno(), READ)
    assert poller.wait(0.0) == []
    theirs.send(b"1")
    assert poller.wait(10.0) == [(ours.fileno(), READ)]
    poller.change(ours.fileno(), WRITE)
    assert poller.wait(float("inf")) == [(ours.fileno(), WRITE)]
    poller.remove(ours.fileno())
    assert poller.wait(0.0) == []
    ours.close()
    theirs.close()


def test_an_end_is_no_bare_write(poller: Poller) -> None:
    """The bits of a hang-up make its finder read."""
    ours, theirs = socket.socketpair()
    poller.add(ours.fileno(), READ)
    theirs.close()
    ((_, bits),) = poller.wait(10.0)
    assert bits & READ
    ours.close()


def test_has_a_descriptor_where_it_can(poller: Poller) -> None:
    """For a loop of the caller's."""
    assert (poller.fileno() >= 0) == hasattr(select, "epoll")
