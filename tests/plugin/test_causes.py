"""Which rank's failure is the cause: the first in time, and never one that only says that a peer was not there.

Rank 1 is the cause in every test, so that no order of ranks makes it right.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from xml.etree import ElementTree

import pytest

# Not importorskip: pytester forgets the modules that a test imported, and torch cannot be imported twice.
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

HEAD = """
import asyncio, io, os, pickle, socket, struct, subprocess, sys, time, unittest
import pytest
from pytest_elastic.launch import current_world
pytestmark = pytest.mark.elastic(nprocs=2, timeout=20)

class Slow:
    "An object that takes a while to be shown."
    def __init__(self, seconds=0.3): self.seconds = seconds
    def __repr__(self):
        time.sleep(self.seconds)
        return "<slow>"

@pytest.fixture
def flag(shared_tmp_path):
    return shared_tmp_path / "failed"

def load(batch, flag):
    flag.write_text("")
    raise ValueError("corrupt shard 7")

def wait_for(flag, then=0.1):
    while not flag.exists():
        time.sleep(0.001)
    time.sleep(then)
    raise RuntimeError("peer gave up")
"""


@pytest.fixture
def causes(run, run_with_libraries, pytester):
    """Run a session of failing tests: test -> (the first failed rank, the failure's message, its text)."""

    def causes(code: str) -> dict[str, tuple[int, str, str]]:
        (run_with_libraries if "torch" in code else run)(HEAD + code, "--junitxml=junit.xml")
        found = {}
        for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase"):
            ranks = [one.get("value") for one in case.iter("property") if "first_failed" in one.get("name")]
            said = case.find("failure") if case.find("failure") is not None else case.find("error")
            message = re.sub(r"^ranks? [\d, -]+: ", "", said.get("message"))
            found[case.get("name")] = (int(ranks[0]), message, said.text)
        return found

    return causes


def test_a_failure_is_as_old_as_its_exception(causes):
    """Not as its report: in each phase and style, an object in the traceback takes its time to be shown."""
    found = causes(
        """
def test_call(rank, flag):
    load(Slow(), flag) if rank else wait_for(flag)

@pytest.fixture
def broken(rank, flag):
    load(Slow(), flag) if rank else wait_for(flag)

def test_setup(broken):
    pass

@pytest.fixture
def broken_late(rank, flag):
    yield
    load(Slow(), flag) if rank else wait_for(flag)

def test_teardown(broken_late):
    pass

def test_subtests(rank, flag, subtests):
    with subtests.test("loads"):
        load(Slow(), flag) if rank else wait_for(flag)

def test_coroutine(rank, flag):
    async def work():
        load(Slow(), flag) if rank else wait_for(flag)
    asyncio.run(work())

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, flag): self.flag = flag
    def tearDown(self): time.sleep(0.3 * current_world().rank)
    def test_method(self):
        load(Slow(0.1), self.flag) if current_world().rank else wait_for(self.flag)

@pytest.mark.xfail(raises=KeyError)
def test_not_the_expected_failure(rank, flag):
    load(Slow(), flag) if rank else wait_for(flag)

def test_a_patched_clock(rank, flag, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1e9 * rank)
    load(Slow(), flag) if rank else wait_for(flag)
"""
    )
    assert len(found) == 8
    assert {name: rank for name, (rank, *_) in found.items()} == dict.fromkeys(found, 1)


def test_a_rank_that_failed_is_not_stopped_while_it_says_why(causes):
    """Its report has some seconds; one that never comes is a failure all the same, with what is known."""
    found = causes(
        """
def test_late(rank, flag):
    load(Slow(1.5), flag) if rank else wait_for(flag)

def test_past_the_deadline(rank, flag):
    if not rank:
        time.sleep(100)
    load(Slow(1.5), flag)
test_past_the_deadline = pytest.mark.elastic(timeout=1)(test_past_the_deadline)

def test_never(rank, flag):
    load(Slow(100), flag) if rank else wait_for(flag)
"""
    )
    assert {name: rank for name, (rank, *_) in found.items()} == dict.fromkeys(found, 1)
    assert found["test_late"][1] == "ValueError: corrupt shard 7"
    assert "2 of 2 ranks failed: rank 1 first\n" in found["test_late"][2]
    assert found["test_past_the_deadline"][1] == "ValueError: corrupt shard 7"
    assert "rank 0 did not finish within 1 s" in found["test_past_the_deadline"][2]
    assert found["test_never"][1].startswith("rank 1 failed (ValueError: corrupt shard 7 at ")
    assert "rank 1 failed, and stood here then" in found["test_never"][2]


def test_a_name_makes_no_follower(causes):
    """A truncated checkpoint, a program that ended, a service that hung up: each is the cause."""
    found = causes(
        """
def test_truncated_checkpoint(rank, flag):
    if not rank: wait_for(flag)
    try:
        pickle.load(io.BytesIO(b""))
    finally:
        flag.touch()

def test_program_that_ended(rank, flag):
    if not rank: wait_for(flag)
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as program:
        program.wait()
        flag.touch()
        program.stdin.write(b"x" * 100_000)

def test_service_that_hung_up(rank, flag):
    if not rank: wait_for(flag)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client, (there, _) = socket.create_connection(server.getsockname()), server.accept()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()
        flag.touch()
        client.recv(1)
"""
    )
    assert {name: (rank, text) for name, (rank, text, _) in found.items()} == {
        "test_truncated_checkpoint": (1, "EOFError: Ran out of input"),
        "test_program_that_ended": (1, "BrokenPipeError: [Errno 32] Broken pipe"),
        "test_service_that_hung_up": (1, "ConnectionResetError: [Errno 104] Connection reset by peer"),
    }


def test_a_connection_to_a_peer_that_failed_or_died(causes):
    """Whoever lost it follows, though the death of the other is seen later."""
    found = causes(
        """
def connected(rank, directory):
    port = directory / "port"
    if rank:
        while not port.exists():
            time.sleep(0.001)
        return socket.create_connection(("127.0.0.1", int(port.read_text())))
    with socket.create_server(("127.0.0.1", 0)) as server:
        (directory / "new").write_text(str(server.getsockname()[1]))
        (directory / "new").rename(port)
        return server.accept()[0]

def talk(rank, directory, end):
    with connected(rank, directory) as other:
        if rank:
            other.recv(1, socket.MSG_PEEK)
            end()  # With a byte unread, so that the connection is reset.
        other.sendall(b"x")
        other.recv(1)

def fail():
    raise ValueError("corrupt shard 7")

def test_failed(rank, shared_tmp_path):
    talk(rank, shared_tmp_path, fail)

def test_died(rank, shared_tmp_path):
    talk(rank, shared_tmp_path, lambda: os._exit(3))
"""
    )
    assert {name: (rank, text.partition(" (")[0]) for name, (rank, text, _) in found.items()} == {
        "test_failed": (1, "ValueError: corrupt shard 7"),
        "test_died": (1, "rank 1 exited with code 3 without a report"),
    }


@needs_torch
def test_what_gloo_says_of_a_peer_is_no_cause(causes):
    """However late the peer's own failure comes; what differs only in ports and spans is told once."""
    found = causes(
        """
from datetime import timedelta
import torch, torch.distributed as dist
pytestmark = pytest.mark.elastic(nprocs=3, timeout=25, collectives="off")

def fail_late():
    time.sleep(1.4)
    raise ValueError("corrupt shard 7")

@pytest.mark.parametrize("end", [fail_late, lambda: os._exit(3)], ids=["is slow and fails", "exits"])
def test_peer(rank, end):
    dist.init_process_group("gloo", timeout=timedelta(seconds=1))
    dist.barrier()
    if rank == 1:
        end()
    dist.all_reduce(torch.ones(2))

def test_nobody_else_fails(rank):
    dist.init_process_group("gloo", timeout=timedelta(seconds=1))
    dist.barrier()
    if rank == 1:
        time.sleep(1.4)
    dist.all_reduce(torch.ones(2))
"""
    )
    assert "Timed out waiting 1000ms" in found.pop("test_nobody_else_fails")[1]
    assert {name: rank for name, (rank, *_) in found.items()} == dict.fromkeys(found, 1)
    said = [message.partition(" (")[0] for _, message, _ in found.values()]
    assert said == ["ValueError: corrupt shard 7", "rank 1 exited with code 3 without a report"]
    assert not any("DEBUG " in text for *_, text in found.values())
