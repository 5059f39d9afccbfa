"""Hangs beside alarms, handlers, threads and processes: named as soon as can be known, and nobody accused."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

CORRECT = """
    import contextlib, ctypes, os, queue, signal, subprocess, sys, threading, time
    import pytest
    from pytest_elastic.errors import DistStoreError

    pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)

    class TooLong(Exception):
        pass

    def give_up(*_):
        raise TooLong

    @contextlib.contextmanager
    def time_limit(seconds):
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_an_alarm_ends_a_wait_and_not_the_clock(run):
    """A limit by signal, in one go, around polls, by a timer that repeats, and one that only reports."""
    run(
        CORRECT
        + """
    def test_a_time_limit(world):
        if world.rank == 0:
            with pytest.raises(TooLong), time_limit(0.7):
                world.store.wait(["reply"], 60)
            world.store.set("go", "fallback")
        assert world.store.get("go") == b"fallback"

    def test_an_alarm(world):
        if world.rank == 0:
            signal.signal(signal.SIGALRM, give_up)
            signal.alarm(1)
            with pytest.raises(TooLong):
                world.barrier("b")
            world.store.set("go", "1")
        else:
            world.store.wait(["go"])

    def test_a_time_limit_around_polls(world):
        if world.rank == 0:
            with pytest.raises(TooLong), time_limit(0.7):
                while True:
                    with contextlib.suppress(DistStoreError):
                        world.store.wait(["reply"], 0.2)
            world.store.set("go", "1")
        assert world.store.get("go") == b"1"

    def test_a_watchdog_that_counts(world):
        if world.rank == 0:
            ticks = []
            def tick(*_):
                ticks.append(1)
                if len(ticks) == 4:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    raise TooLong
            signal.signal(signal.SIGALRM, tick)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
            with pytest.raises(TooLong):
                world.store.wait(["reply"], 60)
            world.store.set("go", "1")
        world.store.wait(["go"])

    def test_a_handler_that_only_looks(world):
        if world.rank == 0:
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            world.store.wait(["late"], 60)
        else:
            time.sleep(0.8)
            world.store.set("late", "1")

    def test_a_timer_of_the_c_library(world):
        if world.rank == 0:
            signal.signal(signal.SIGALRM, give_up)
            libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
            assert libc.timer_create(1, None, ctypes.byref(timer)) == 0
            assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 1, 500_000_000), None) == 0
            with pytest.raises(TooLong):
                world.store.wait(["reply"], 60)
            world.store.set("go", "1")
        world.store.wait(["go"])
"""
    ).assert_outcomes(passed=6)


def test_a_signal_that_may_still_come_is_waited_for(run):
    """From a rank that works, from a child, and from a thread."""
    run(
        CORRECT
        + """
    def test_from_a_rank(world):
        signal.signal(signal.SIGUSR1, give_up)
        pids = world.gather(os.getpid())
        if world.rank == 0:
            with pytest.raises(TooLong):
                world.store.wait(["reply"], 60)
            world.store.set("go", "1")
        else:
            time.sleep(1.5)
            os.kill(pids[0], signal.SIGUSR1)
            world.store.wait(["go"])

    def test_from_a_child(world):
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, give_up)
            with subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -USR1 {os.getpid()}"]):
                with pytest.raises(TooLong):
                    world.store.wait(["reply"], 60)
            world.store.set("go", "1")
        world.store.wait(["go"])

    def test_of_a_child_that_ends(world):
        if world.rank == 0:
            signal.signal(signal.SIGCHLD, give_up)
            child = subprocess.Popen(["sleep", "1.5"])
            with pytest.raises(TooLong):
                world.store.wait(["reply"], 60)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child.wait()
            world.store.set("go", "1")
        world.store.wait(["go"])

    def test_from_a_thread(world):
        if world.rank == 0:
            signal.signal(signal.SIGUSR1, give_up)
            pid = os.getpid()
            def later():
                time.sleep(1.5)
                os.kill(pid, signal.SIGUSR1)
            threading.Thread(target=later).start()
            with pytest.raises(TooLong):
                world.store.wait(["reply"], 60)
            world.store.set("go", "1")
        world.store.wait(["go"])
"""
    ).assert_outcomes(passed=4)


WAYS = ["argument", "closure", "method", "global", "timer", "loop", "pool"]


def test_who_writes_later_is_never_accused(template, tmp_path):
    """A thread that sleeps, polls, or is a timer's, an event loop's or a pool's, whatever holds the store.

    Each in a session of its own, side by side: they sleep.
    """
    code = (
        CORRECT
        + """
    @pytest.mark.parametrize("way", WAYS)
    def test_it(world, way):
        import asyncio, functools
        from concurrent.futures import ThreadPoolExecutor

        class Trainer:
            def __init__(self):
                self.where = {"store": [world.store]}
            def run(self):
                time.sleep(2.5)
                self.where["store"][0].set("late", "1")

        def by_argument(store):
            time.sleep(2.5)
            store.set("late", "1")

        def by_closure():
            for _ in range(5):
                with contextlib.suppress(queue.Empty):
                    queue.Queue().get(timeout=0.5)
            write()

        def write():
            world.store.set("late", "1")

        def of_loop():
            async def main():
                await asyncio.sleep(2.5)
                write()
            asyncio.run(main())

        if world.rank == 0:
            target, args = {
                "argument": (by_argument, (world.store,)),
                "closure": (by_closure, ()),
                "method": (Trainer().run, ()),
                "global": (by_global, ()),
                "loop": (of_loop, ()),
            }.get(way, (None, ()))
            if way == "timer":
                threading.Timer(2.5, world.store.set, ("late", "1")).start()
            elif way == "pool":
                ThreadPoolExecutor(1).submit(by_argument, world.store)
            else:
                threading.Thread(target=target, args=args).start()
        world.store.wait(["late"], 60)

    def by_global():
        from pytest_elastic.launch import current_world
        time.sleep(2.5)
        current_world().store.set("late", "1")
""".replace("WAYS", str(WAYS))
    )
    (tmp_path / "test_late.py").write_text(textwrap.dedent(code))

    def run(way):
        output = tmp_path / way
        arguments = [
            "-q",
            "-p",
            "no:cacheprovider",
            "--basetemp",
            f"{output}.temp",
            f"test_late.py::test_it[{way}]",
        ]
        return template.run_to_end(arguments, tmp_path, output, 100), output.read_text()

    with ThreadPoolExecutor() as pool:
        for code, said in pool.map(run, WAYS):
            assert (code, "1 passed" in said) == (0, True), said


HANGS = """
    import os, queue, signal, threading, time
    import pytest

    pytestmark = pytest.mark.elastic(nprocs=2, timeout=50)

    def hang(world):
        if world.rank == 0:
            world.barrier("saved")

    def test_beside_a_progress_bar(world):
        from tqdm import tqdm
        for _ in tqdm(range(2)):
            pass
        hang(world)

    def test_beside_a_thread_that_polls_a_queue(world):
        def work(tasks):
            while True:
                try:
                    tasks.get(timeout=0.4)
                except queue.Empty:
                    pass
        threading.Thread(target=work, args=(queue.Queue(),), daemon=True).start()
        hang(world)

    def test_beside_a_loader(world):
        from torch.utils.data import DataLoader
        loader = iter(DataLoader(range(100), num_workers=1))
        next(loader)
        hang(world)

    def test_beside_a_child(world):
        import subprocess
        with subprocess.Popen(["sleep", "600"]) as child:
            try:
                hang(world)
            finally:
                child.kill()

    def test_after_an_alarm_without_effect(world):
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        hang(world)
"""


def test_a_hang_is_known_beside_company(run_with_libraries):
    """Of what cannot write, at once or after a second or two, and never when the test's time is over."""
    result = run_with_libraries(HANGS, "-o", "faulthandler_timeout=200", "--tb=line")
    result.assert_outcomes(failed=5)
    result.stdout.no_fnmatch_line("*did not finish within*")


def test_who_polls_without_end_is_ended(run):
    """A loop that looks at the wall's clock is over long before it, with the verdict and the stacks."""
    result = run(
        """
        import time
        import pytest

        @pytest.mark.elastic(nprocs=2, timeout=50)
        def test_marked(world):
            if world.rank == 0:
                poll(world.store)

        def poll(store):
            until = time.time() + 1800
            while time.time() < until:
                try:
                    return store.wait(["never"], 10)
                except RuntimeError:
                    store.add("polls", 0)

        def test_functions(elastic):
            from pytest_elastic.launch import current_world
            elastic.run(lambda rank, n: poll(current_world().store) if rank == 0 else None, nprocs=2)

        @pytest.mark.elastic(nprocs=2)
        def test_who_has_a_way_out_is_not(world):
            if world.rank == 0:
                until = time.monotonic() + 2
                while time.monotonic() < until and not world.store.check(["reply"]):
                    with pytest.raises(RuntimeError):
                        world.store.wait(["reply"], 0.5)
                world.store.set("go", "1")
            world.store.wait(["go"], 300)
        """
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        [
            'rank 0 polled without end: * timeouts of wait("never") in * s *',
            "HANG  1 of 2 ranks can never go on*",
            'rank 0 polled without end: * timeouts of wait("never") in * s *',
            "run by *: elastic.run(*",
        ]
    )
