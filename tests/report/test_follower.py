"""Which errors say that a peer was not there, and which are the rank's own: by origin, not by name."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import socket
import struct

import pytest

from pytest_elastic.errors import (
    CollectiveMismatch,
    CollectiveTimeout,
    DistNetworkError,
    DistStoreError,
    QueueEmptyError,
)
from pytest_elastic.report import follows
from pytest_elastic.store import HashStore

GLOO = "/__w/pytorch/third_party/gloo/gloo"


def of_torch(name, text):
    return type(name, (RuntimeError,), {"__module__": "torch.distributed"})(text)


def raised(function):
    with pytest.raises(BaseException) as caught:
        function()
    return caught.value


def wait_for_a_key():
    HashStore().wait(["k"], timeout=0.001)


def truncated_checkpoint():
    pickle.load(io.BytesIO(b""))


def broken_pipe():
    reads, writes = os.pipe()
    os.close(reads)
    try:
        os.write(writes, b"x")
    finally:
        os.close(writes)


def reset_socket():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as s,
    ):
        other, _ = server.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        s.recv(1)


def closed_connection():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with ours:
        ours.recv()


def by_hand():
    raise ConnectionResetError("peer gone")


def from_a_follower():
    try:
        wait_for_a_key()
    except DistStoreError as error:
        raise ValueError("training failed") from error


class OwnDistStoreError(Exception):
    """Of the code under test."""


OwnDistStoreError.__name__ = "DistStoreError"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (wait_for_a_key, "peer"),
        (from_a_follower, "peer"),
        (reset_socket, "connection"),
        (closed_connection, "connection"),
        (truncated_checkpoint, ""),
        (broken_pipe, ""),
        (by_hand, ""),
    ],
)
def test_an_error_that_was_raised(function, expected):
    """The frames tell where it comes from."""
    assert follows(raised(function)) == expected


@pytest.mark.parametrize(
    "error",
    [
        DistNetworkError("the store's server is gone"),
        of_torch("DistStoreError", "wait timeout after 1000ms, keys: /k"),
        of_torch("DistNetworkError", "failed to recv, got 0 bytes"),
        RuntimeError(
            f"[{GLOO}/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation"
        ),
        RuntimeError(f"[{GLOO}/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:13547."),
        RuntimeError(f"[{GLOO}/transport/tcp/pair.cc:537] Read error [::1]:1: Connection reset by peer"),
        RuntimeError("Application timeout caused pair closure"),
        RuntimeError("Gloo connectFullMesh failed with [pair.cc:1] Connection refused"),
        RuntimeError("[Rank 0]: Ranks 1 failed to pass monitoredBarrier in 1000 ms"),
        of_torch("DistBackendError", "NCCL error: ncclRemoteError: A call failed, possibly a network error"),
        RuntimeError("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)"),
        RuntimeError("Socket Timeout"),
        ExceptionGroup("tasks", [DistStoreError("timeout"), DistNetworkError("the server is gone")]),
        CollectiveTimeout("world", 2, {0: "barrier()"}, [1], 1.0),
    ],
    ids=str,
)
def test_what_libraries_say_of_a_peer(error):
    """Stores, gloo, nccl."""
    assert follows(error) == "peer"


@pytest.mark.parametrize(
    "error",
    [
        OwnDistStoreError("timeout"),
        QueueEmptyError("queue is empty"),
        DistNetworkError("this store has been closed"),
        of_torch("DistNetworkError", "The server socket has failed to listen: name: EADDRINUSE"),
        RuntimeError(
            f"[enforce fail at {GLOO}/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 32 vs 8"
        ),
        RuntimeError(f"[{GLOO}/transport/tcp/device.cc:208] Unable to find address for: lo7"),
        RuntimeError("Connection refused by the database"),
        TimeoutError("the loader's worker did not answer"),
        ExceptionGroup("tasks", [DistStoreError("timeout"), ValueError("corrupt shard 7")]),
    ],
    ids=str,
)
def test_what_is_the_ranks_own(error):
    """A name or a word is no evidence."""
    assert follows(error) == ""


@pytest.mark.parametrize(("rank", "expected"), [(1, ""), (0, "peer"), (None, "")])
def test_a_mismatch_is_the_own_error_of_those_whose_call_was_the_rarer_one(rank, expected):
    """The others only met it; where nobody knows in which rank it was raised, it is the rank's own."""
    error = CollectiveMismatch("world", 2, {0: "barrier()", 1: "all_reduce()"}, [1], "operation")
    error.rank = rank
    assert follows(error) == expected
    assert follows(pickle.loads(pickle.dumps(error))) == expected


def test_an_error_that_cannot_be_printed():
    """It is the rank's own."""

    class Unprintable(RuntimeError):
        def __str__(self):
            raise ValueError

    assert follows(Unprintable()) == ""


def test_a_signal_is_no_peer():
    """Ctrl-C in a rank."""
    assert follows(KeyboardInterrupt(signal.SIGINT)) == ""
