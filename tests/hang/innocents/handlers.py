"""Handlers of signals: what they do to the store, and who sends the signals."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


class Preempted(Exception):
    pass


def raise_it(*_):
    raise Preempted


def tell_pid(world):
    world.store.set(f"pid/{world.rank}", str(os.getpid()))


def pid_of(world, rank):
    return int(world.store.get(f"pid/{rank}"))


def test_a_handler_that_a_thread_of_the_rank_calls_for(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGUSR2, raise_it)

        def send():
            time.sleep(0.4)
            os.kill(os.getpid(), signal.SIGUSR2)

        thread = threading.Thread(target=send)
        thread.start()
        with pytest.raises(Preempted):
            world.store.wait(["never"], 60)
        thread.join()
        signal.signal(signal.SIGUSR2, former)
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_a_handler_that_a_child_calls_for(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGUSR1, raise_it)
        code = f"import os, time; time.sleep(0.4); os.kill({os.getpid()}, {int(signal.SIGUSR1)})"
        child = subprocess.Popen([sys.executable, "-c", code])
        with pytest.raises(Preempted):
            world.store.wait(["never"], 60)
        assert child.wait() == 0
        signal.signal(signal.SIGUSR1, former)
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_the_end_of_a_child(world):
    """SIGCHLD tells the rank, in a wait, that its child is done; the handler raises."""
    if world.rank == 0:
        former = signal.signal(signal.SIGCHLD, raise_it)
        child = None
        with pytest.raises(Preempted):
            child = subprocess.Popen(["sleep", "0.4"])
            world.store.wait(["never"], 60)
        signal.signal(signal.SIGCHLD, former)
        child.wait()
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_a_wakeup_descriptor(world):
    """A thread reads the signal's number from it, and sets the key."""
    if world.rank == 0:
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        former = signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno())

        def read():
            assert reader.recv(1)[0] == signal.SIGUSR1
            world.store.clone().set("go", "1")

        thread = threading.Thread(target=read)
        thread.start()
        tell_pid(world)
        world.store.wait(["go"], 30)
        thread.join()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, former)
        reader.close()
        writer.close()
    else:
        pid = pid_of(world, 0)
        time.sleep(0.3)
        os.kill(pid, signal.SIGUSR1)
        world.store.wait(["go"], 30)


def test_signals_in_a_hurry(world):
    """A hundred of them while both ranks use the store."""
    count = []
    former = signal.signal(signal.SIGUSR1, lambda *_: count.append(1))
    tell_pid(world)
    other = pid_of(world, 1 - world.rank)
    world.barrier("ready")
    for turn in range(50):
        os.kill(other, signal.SIGUSR1)
        world.store.set(f"{turn}/{world.rank}", "1")
        world.store.wait([f"{turn}/0", f"{turn}/1"], 30)
    world.barrier("end")
    signal.signal(signal.SIGUSR1, former)
    assert count
