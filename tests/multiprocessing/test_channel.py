"""Framed messages with descriptors."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_elastic.multiprocessing._channel import Channel


@pytest.fixture
def ends():
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_messages_arrive_whole_and_in_order(ends):
    """Several at once, none lost."""
    ours, theirs = ends
    for number in range(5):
        ours.send({"number": number})
    assert [message["number"] for message, _ in theirs.receive()] == list(range(5))
    assert theirs.receive() == []


def test_half_a_frame_waits(ends):
    """Reading never blocks on a writer that was stopped in the middle."""
    ours, theirs = ends
    ours._socket.sendall(b"\0\0\0")
    assert theirs.receive() == []
    assert not theirs.closed


def test_the_end(ends):
    """What was sent before the end is delivered; then the channel is closed."""
    ours, theirs = ends
    ours.send("last")
    ours.close()
    assert theirs.receive() == [("last", ())]
    assert theirs.closed
    with pytest.raises(EOFError):
        theirs.wait()


@pytest.mark.parametrize("count", [1, 250, 251, 600])
def test_descriptors(ends, count):
    """They arrive with their message, more than the kernel takes at once too, and are close-on-exec."""
    ours, theirs = ends
    read, write = os.pipe()
    ours.send("first", (write,) * count)
    ours.send("second")
    (first, second) = theirs.wait(), theirs.wait()
    assert (len(first[1]), second) == (count, ("second", ()))
    assert not os.get_inheritable(first[1][-1])
    for number in first[1]:
        os.close(number)
    os.close(read)
    os.close(write)


def test_descriptors_that_nobody_took_are_closed():
    """A message that was not read leaves nothing open."""
    ours, end = socket.socketpair()
    channel, sender = Channel(end), Channel(ours)
    read, write = os.pipe()
    sender.send("x", (write,))
    channel._read(0)
    channel.close()
    sender.close()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_lost_reader_is_an_error(ends):
    """Sending to nobody is `BrokenPipeError`, as ever."""
    ours, theirs = ends
    theirs.close()
    with pytest.raises(BrokenPipeError):
        ours.send("x")
