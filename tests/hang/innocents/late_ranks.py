"""Ranks that come late: asleep, at work, stopped and resumed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


def test_a_late_rank_at_a_barrier(world):
    if world.rank == 1:
        time.sleep(0.5)
    world.barrier(timeout=20)


def test_later_than_the_confirmation_of_a_suspicion(world):
    if world.rank == 1:
        time.sleep(2.3)
    world.barrier(timeout=20)


def test_a_rank_that_computes(world):
    if world.rank == 1:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            sum(range(1000))
    world.barrier(timeout=20)


def test_a_rank_that_imports(world):
    if world.rank == 1:
        import sqlite3
        import xmlrpc.server  # noqa: F401

        sqlite3.connect(":memory:").close()
    world.barrier(timeout=20)


@pytest.mark.elastic(nprocs=4)
def test_one_after_the_other(world):
    if world.rank:
        world.store.wait([f"turn/{world.rank - 1}"], 20)
    time.sleep(0.1)
    world.store.set(f"turn/{world.rank}", "1")


@pytest.mark.elastic(nprocs=4)
def test_a_ring_of_many_turns(world):
    following, before = (world.rank + 1) % 4, world.rank
    for turn in range(20):
        if world.rank == 0:
            world.store.set(f"{turn}/{following}", "token")
            world.store.wait([f"{turn}/{before}"], 20)
        else:
            world.store.wait([f"{turn}/{before}"], 20)
            world.store.set(f"{turn}/{following}", "token")


def test_late_in_the_setup(world, slow_on_rank_1):
    world.barrier(timeout=20)


@pytest.fixture
def slow_on_rank_1(rank):
    if rank == 1:
        time.sleep(0.4)
    yield
    if rank == 0:
        time.sleep(0.2)


def test_a_rank_that_stops_itself_and_is_resumed_by_a_peer(world):
    if world.rank == 1:
        world.store.set("pid", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        world.store.set("resumed", "1")
    else:
        pid = int(world.store.get("pid"))
        while state_of(pid) != "T":
            time.sleep(0.005)
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        world.store.wait(["resumed"], 20)


def test_a_rank_that_a_child_resumes(world):
    """Everybody else waits meanwhile."""
    if world.rank == 1:
        pid = os.getpid()
        code = f"import os, time; time.sleep(0.6); os.kill({pid}, {int(signal.SIGCONT)})"
        child = subprocess.Popen([sys.executable, "-c", code])
        os.kill(pid, signal.SIGSTOP)
        assert child.wait() == 0
        world.store.set("resumed", "1")
    world.store.wait(["resumed"], 20)


def test_a_rank_that_is_stopped_in_a_wait(world):
    """By a peer, which sets the key before it resumes it."""
    world.store.set(f"pid/{world.rank}", str(os.getpid()))
    if world.rank == 0:
        world.store.wait(["go"], 20)
        world.store.set("went", "1")
    else:
        pid = int(world.store.get("pid/0"))
        os.kill(pid, signal.SIGSTOP)
        while state_of(pid) != "T":
            time.sleep(0.005)
        world.store.set("go", "1")
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
        world.store.wait(["went"], 20)


@pytest.mark.elastic(nprocs=3)
def test_stopped_by_one_while_the_other_waits_for_it(world):
    world.store.set(f"pid/{world.rank}", str(os.getpid()))
    if world.rank == 0:
        while not world.store.check(["stopped"]):
            time.sleep(0.005)
        world.store.set("answer", "1")
    elif world.rank == 1:
        world.store.wait(["answer"], 20)
    else:
        pid = int(world.store.get("pid/0"))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        world.store.set("stopped", "1")


def test_a_rank_that_holds_the_interpreter(world):
    """A long call in C, in which nobody else of the rank can run."""
    if world.rank == 1:
        assert sum(range(20_000_000)) > 0
    world.barrier(timeout=20)


def test_a_rank_that_waits_for_its_own_thread(world):
    if world.rank == 1:
        thread = threading.Thread(target=time.sleep, args=(0.7,))
        thread.start()
        thread.join()
    world.barrier(timeout=20)


def test_one_passes_long_before_the_other(world):
    if world.rank == 1:
        time.sleep(1.2)
        assert world.store.get("left behind") == b"0"
    else:
        world.store.set("left behind", "0")


def test_waits_as_long_as_the_work_takes(world):
    """Many steps, the slower rank another one each time."""
    for step in range(8):
        if step % 2 == world.rank:
            time.sleep(0.05)
        world.barrier("step", timeout=20)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
