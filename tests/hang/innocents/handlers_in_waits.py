"""Handlers that come into a wait while every rank waits in the store, and what they do to the store."""

import os
import signal
import subprocess
import time

import pytest

from pytest_elastic.errors import DistStoreError

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


class Preempted(Exception):
    pass


def raise_it(*_):
    raise Preempted


def tell_pid(world):
    world.store.set(f"pid/{world.rank}", str(os.getpid()))


def pid_of(world, rank):
    return int(world.store.get(f"pid/{rank}"))


def test_a_handler_that_raises_into_a_wait(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGUSR1, raise_it)
        tell_pid(world)
        with pytest.raises(Preempted):
            world.store.wait(["never"], 60)
        signal.signal(signal.SIGUSR1, former)
        world.store.set("stopped", "1")
    else:
        time.sleep(0.2)
        os.kill(pid_of(world, 0), signal.SIGUSR1)
    world.store.wait(["stopped"], 30)


def test_a_handler_that_sets_a_flag(world):
    """The loop looks at the flag between waits that it bounds."""
    flag = []
    if world.rank == 0:
        former = signal.signal(signal.SIGTERM, lambda *_: flag.append(1))
        tell_pid(world)
        while not flag:
            try:
                world.store.wait(["more work"], 0.05)
            except DistStoreError:
                pass
        signal.signal(signal.SIGTERM, former)
        world.store.set("checkpoint", "1")
    else:
        time.sleep(0.3)
        os.kill(pid_of(world, 0), signal.SIGTERM)
    world.store.wait(["checkpoint"], 30)


def test_a_handler_that_sets_a_key_in_a_wait(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGTERM, lambda *_: world.store.set("preempted", "0"))
        tell_pid(world)
        world.barrier("step")
        signal.signal(signal.SIGTERM, former)
    else:
        pid = pid_of(world, 0)
        time.sleep(0.2)
        os.kill(pid, signal.SIGTERM)
        world.store.wait(["preempted"], 30)
        world.barrier("step")


def test_a_handler_that_asks_the_store_in_a_wait(world):
    seen = []
    world.store.set(f"here/{world.rank}", "1")
    if world.rank == 0:
        former = signal.signal(signal.SIGUSR1, lambda *_: seen.append(world.store.get("here/0")))
        tell_pid(world)
        world.store.wait(["go"], 30)
        signal.signal(signal.SIGUSR1, former)
        assert seen == [b"1"]
    else:
        time.sleep(0.2)
        os.kill(pid_of(world, 0), signal.SIGUSR1)
        time.sleep(0.2)
        world.store.set("go", "1")


def test_the_end_of_a_child_sets_a_key(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGCHLD, lambda *_: world.store.set("go", "1"))
        child = subprocess.Popen(["sleep", "0.4"])
        world.store.wait(["ack"], 30)
        signal.signal(signal.SIGCHLD, former)
        child.wait()
    else:
        world.store.wait(["go"], 30)
        world.store.set("ack", "1")


def test_an_interrupt_from_a_peer(world):
    """Ctrl-C as a supervisor sends it, caught where the work is."""
    if world.rank == 0:
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        tell_pid(world)
        with pytest.raises(KeyboardInterrupt):
            world.store.wait(["never"], 60)
        signal.signal(signal.SIGINT, former)
        world.store.set("go", "1")
    else:
        time.sleep(0.3)
        os.kill(pid_of(world, 0), signal.SIGINT)
    world.store.wait(["go"], 30)
