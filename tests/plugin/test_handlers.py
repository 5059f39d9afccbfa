"""Handlers of signals, and finalizers, that use the store while their rank is in it."""

from __future__ import annotations

import re
import time

PROMPT = 120.0  # Seconds for a run that would take minutes if it waited; a busy machine needs some.

SEND = """
    import os, signal, threading, time
    import pytest

    def tell_pid(world):
        world.store.set(f"pid{world.rank}", str(os.getpid()))

    def is_waiting(pid):
        # Its main thread is in a system call; right, too, if it is not yet in that of the store.
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def send(world, number=signal.SIGUSR1, to=0):
        pid = int(world.store.get(f"pid{to}"))
        while not is_waiting(pid):
            time.sleep(0.001)
        os.kill(pid, number)

    def see(world, key):
        world.store.wait([key])
"""


def test_a_handler_may_use_the_store(run):
    """For anything, while its rank is in anything; nobody is accused while it works, and other ranks wait."""
    run(
        SEND
        + """
    pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
    def test_preemption(world, number):
        if world.rank == 0:
            signal.signal(number, lambda *_: world.store.set("preempted", "0"))
            tell_pid(world)
        else:
            send(world, number)
        world.barrier("step")
        assert world.store.get("preempted") == b"0"

    def test_a_handler_that_waits_for_the_others(world):
        world.barrier("start")
        def handler(*_):
            world.store.set("asked", "1")
            assert world.store.get("answer") == b"42"
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, handler)
            tell_pid(world)
        else:
            send(world)
            see(world, "asked")
            world.store.set("answer", "42")
        world.barrier("step")

    def test_a_handler_that_takes_its_time(world):
        def handler(*_):
            world.store.set("begun", "1")
            time.sleep(1.5)
            world.store.set("done", "1")
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, handler)
            tell_pid(world)
            world.store.wait(["go"])
        else:
            send(world)
            began = time.monotonic()
            see(world, "begun")
            world.store.wait(["done"])
            assert time.monotonic() - began < 200
            world.store.set("go", "1")

    def test_a_handler_that_gives_up(world):
        class Preempted(TimeoutError):
            pass
        def handler(*_):
            world.store.set("preempted", "1")
            raise Preempted
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, handler)
            tell_pid(world)
            with pytest.raises(Preempted):
                world.store.wait(["never"])
            world.store.set("go", "1")
        else:
            send(world)
            see(world, "preempted")
            world.store.wait(["go"])

    def test_finalizers(world):
        import gc
        class Leaves:
            def __init__(self):
                self.myself = self
            def __del__(self):
                world.store.add("left", 1)
        gc.set_threshold(5)
        for i in range(50):
            Leaves()
            world.barrier(f"step{i}")
        gc.set_threshold(700)
        gc.collect()
        world.barrier()
        assert world.store.add("left", 0) == 100
    """
    ).assert_outcomes(passed=8)


def test_a_hang_after_a_handler_is_known_at_once(run):
    """Who has come back from a handler waits like everybody; so does a handler that waits itself."""
    began = time.monotonic()
    result = run(
        SEND
        + """
    pytestmark = pytest.mark.elastic(nprocs=2)

    def prepare(world, act):
        def handler(*_):
            act()
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, handler)
            tell_pid(world)
        else:
            send(world)

    def test_after_it(world):
        prepare(world, lambda: world.store.set("seen", "1"))
        if world.rank == 0:
            world.barrier("after")
        else:
            see(world, "seen")

    def test_in_it(world):
        prepare(world, lambda: world.store.wait(["inner"]))
        if world.rank == 0:
            world.store.wait(["outer"])

    def test_in_it_when_the_outer_wait_is_over(world):
        prepare(world, lambda: (world.store.set("seen", "1"), world.store.wait(["inner"])))
        if world.rank == 0:
            world.store.wait(["outer"])
        else:
            see(world, "seen")
            world.store.set("outer", "1")
    """,
    )
    result.assert_outcomes(failed=3)
    assert time.monotonic() - began < PROMPT
    result.stdout.fnmatch_lines(
        [
            "*HANG  1 of 2 ranks can never go on (known *",
            '*barrier "after": arrived 0; absent 1 (passed*',
            "*HANG  1 of 2 ranks can never go on (known *",
            '*"inner": awaited by 0*',
            "*HANG  1 of 2 ranks can never go on (known *",
            '*"inner": awaited by 0*',
        ]
    )


def test_a_handlers_calls_are_replayed(run):
    """From the recording, where they have their place; beside faults, too.  A token does not hold it."""
    for faults in ("", ", faults='D0@1=1ms'"):
        code = (
            SEND
            + f"""
    @pytest.mark.elastic(nprocs=2{faults})
    def test_it(world):
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, lambda *_: world.store.set("preempted", "0"))
            tell_pid(world)
            world.store.wait(["go"])
        else:
            send(world)
            see(world, "preempted")
            world.store.set("go", "1")
        assert world.store.get("preempted") == b"1"
    """
        )
        found = run(code, "--elastic-stress=1")
        found.assert_outcomes(failed=1)
        (given,) = set(re.findall(r"--elastic-replay=(\S+)$", found.stdout.str(), re.MULTILINE))
        assert given.endswith("recording.jsonl")
        again = run(code, f"--elastic-replay={given}")
        again.assert_outcomes(failed=1)
        again.stdout.fnmatch_lines(["E*assert b'0' == b'1'", "replayed * steps in their order"])
