"""Expiring timers in the ranks of a test: the rank that hangs is killed, named, and shown."""

from __future__ import annotations

import contextlib
import html
import re
import time
from xml.etree import ElementTree

import psutil
import pytest

HEAD = """
import ctypes, os, signal, subprocess, threading, time
import pytest
from pytest_elastic.timer import expires
pytestmark = pytest.mark.elastic(nprocs=3, timeout=20)
"""


@pytest.mark.parametrize(
    "hang",
    [
        "time.sleep(100)",
        "lib, m = ctypes.PyDLL(None), ctypes.create_string_buffer(64); [lib.pthread_mutex_lock(m) for _ in (1, 2)]",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; time.sleep(100)",
    ],
    ids=["tf1-sleep", "tf2-gil-held", "tf3-stopped", "tf4-ignores"],
)
def test_the_rank_that_hangs(run, hang):
    """Its name, its line, the others' stacks beside it; the session goes on."""
    result = run(
        HEAD
        + f"""
def test_hang(rank, world):
    with expires(after=0.3, scope="exchange"):
        if rank == 2:
            {hang}
    world.barrier("after")

def test_after(world):
    world.barrier()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            'rank 2: timer "exchange" (*.py:*) expired after 0.3 s (* of 3 ranks failed)*',
            "*rank 2 died here*",
            "  *.py:* in test_hang",
        ]
    )
    # A stopped rank has to be resumed to write its stack, and may still reach the barrier.
    if "SIGSTOP" not in hang:
        result.stdout.fnmatch_lines(
            [
                '  cause: rank 2: timer "exchange" (*.py:*) expired after 0.3 s before joining "after"',
                "*ranks 0-1 failed too*",
            ]
        )


def test_an_expiry_is_the_cause_wherever_it_is_told(run, pytester):
    """In the report, its summary, junit and the errors of functions; never the signal that we sent.

    Those who hang because of it are not stopped while they say so, however slow they are.
    """
    result = run(
        HEAD.replace("pytestmark", "on_ranks")
        + """
from pytest_elastic.launch import current_world

def exchange(rank):
    with expires(after=0.5, scope="exchange"):
        time.sleep(100 if rank == 1 else 0)
    current_world().barrier("after")

@on_ranks
def test_ranks(rank):
    exchange(rank)

def slowly(rank, world_size):
    try:
        exchange(rank)
    finally:
        time.sleep(0.8)

def test_run(elastic):
    elastic.run(slowly, nprocs=3, timeout=10)

def test_start(elastic):
    result = elastic.start(lambda rank, world_size: exchange(rank), nprocs=3).wait(timeout=10, period=0.1)
    failures = list(result.failures.values())
    assert failures[0].local_rank == 1
    assert failures[0].message.startswith('timer "exchange" (')
    assert min(failures, key=lambda failure: failure.timestamp) is failures[0]
""",
        "--junitxml=junit.xml",
    )
    result.assert_outcomes(passed=1, failed=2)
    cases = list(ElementTree.parse(pytester.path / "junit.xml").iter("testcase"))
    said = [re.sub(r"\(test_\w+\.py:\d+\)", "(…)", ElementTree.tostring(case, "unicode")) for case in cases]
    known = 'timer "exchange" (…) expired after 0.5 s'
    texts = [html.unescape(text) for text in said]
    assert f'message="rank 1: {known} (barrier "after" never complete)"' in texts[0]
    assert f"rank 1: {known} (3 of 3 ranks failed)" in texts[0]
    assert 'name="elastic.first_failed_rank" value="1"' in texts[0]
    assert f'name="elastic.verdict" value="Exited: rank 1: {known} before joining "after""' in texts[0]
    assert f"arrived 0, 2; absent 1 ({known})\n" in texts[0]
    assert "killed by" not in texts[0]
    assert f"rank 1: {known} (3 of 3 ranks failed)" in texts[1]
    assert f'cause: rank 1: {known} before joining "after"' in texts[1]
    result.stdout.fnmatch_lines(['FAILED *::test_ranks - rank 1: timer "exch*'])


def test_configured_already(run):
    """As a function, as a fixture, as a decorator; nothing expires that ends in time."""
    run(
        HEAD
        + """
from pytest_elastic.timer import expires as countdown

@countdown(after=5)
def decorated(): return 1

def test_it(rank, expires):
    with expires(after=5):
        with countdown(after=4, scope="inner"):
            assert decorated() == 1
    for _ in range(1000):
        with expires(after=0.5):
            pass
"""
    ).assert_outcomes(passed=1)


def test_the_default_scope_is_the_callers_line(run):
    """The report says where."""
    result = run(HEAD + "\ndef test_it(rank):\n    with expires(after=0.2):\n        time.sleep(100)\n")
    result.stdout.fnmatch_lines(["ranks 0-2: timer at *.py:* expired after 0.2 s (3 of 3 ranks failed)"])


def test_timers_do_not_outlive_the_test(run):
    """What a test leaves armed is disarmed at its end, in kept ranks too."""
    run(
        HEAD
        + """
pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module")

def test_leaves(rank):
    expires(after=0.3, scope="left").__enter__()

def test_next(rank):
    time.sleep(0.6)
"""
    ).assert_outcomes(passed=2)


def test_a_kept_group_is_replaced(run):
    """A timer that expires ends its group; the next test gets a new one."""
    run(
        HEAD
        + """
pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module")

def test_hang(rank):
    with expires(after=0.2):
        time.sleep(rank * 100)

def test_next(world):
    world.barrier()
"""
    ).assert_outcomes(passed=1, failed=1)


def test_an_expected_kill(run):
    """The kill is the expected end, and only of that rank."""
    result = run(
        HEAD
        + """
@pytest.mark.elastic(expect={1: "SIGKILL"})
def test_expected(rank):
    with expires(after=0.2):
        time.sleep(100 if rank == 1 else 0)

@pytest.mark.elastic(expect={1: "SIGKILL"})
def test_another(rank):
    with expires(after=0.2):
        time.sleep(100 if rank == 2 else 0)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["rank 2: timer at *"])


def test_raises_on_ranks(run):
    """Exactly these ranks raise."""
    result = run(
        HEAD
        + """
from pytest_elastic.testing import raises_on_ranks

def test_right(rank):
    with raises_on_ranks(ValueError, ranks={0, 2}):
        if rank != 1:
            raise ValueError("expected")

def test_one_does_not(rank):
    with raises_on_ranks(ValueError, ranks={0, 2}):
        if rank == 0:
            raise ValueError("expected")

def test_one_too_many(rank):
    with raises_on_ranks(ValueError, ranks={0, 2}):
        raise ValueError("expected")

def test_another_error(rank):
    with raises_on_ranks(ValueError, ranks={0}):
        if rank == 0:
            raise KeyError("other")
"""
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        ["E*AssertionError: rank 2 did not raise ValueError", "E*ValueError: expected", "E*KeyError: 'other'"]
    )


def test_two_threads_one_line(run):
    """One releases, the other hangs."""
    result = run(
        HEAD
        + """
def work(seconds):
    with expires(after=0.4):
        time.sleep(seconds)

def test_it(rank):
    threads = [threading.Thread(target=work, args=(s,), daemon=True) for s in (0.1, 100)]
    [thread.start() for thread in threads]
    threads[1].join()
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["ranks 0-2: timer at *"])


def test_a_rank_that_exits_inside(run):
    """It takes its timers along: an exit without a report, and nothing else."""
    result = run(HEAD + "\ndef test_it(rank):\n    with expires(after=0.3):\n        os._exit(0)\n")
    result.stdout.fnmatch_lines(["ranks 0-2 exited with code 0 without a report*"])


def in_blocks(session, after, seconds):
    """A session whose three ranks are in a block that takes so many seconds, and may take `after`."""
    running = session(
        HEAD
        + f"""
def test_it(rank):
    with expires(after={after}):
        open(f"up{{rank}}", "w").close()
        time.sleep({seconds})
"""
    )
    running.wait_for(lambda: all((running.directory / f"up{rank}").exists() for rank in range(3)))
    return running


def test_no_rank_outlives_the_server(session):
    """The server is pytest itself; with it the ranks end."""
    import os
    import signal

    running = in_blocks(session, after=30, seconds=100)
    os.kill(running.process.pid, signal.SIGKILL)
    running.wait_for(lambda: not running.survivors(), 5)


def test_a_machine_that_stands_still_costs_no_rank(session):
    """Everything is stopped while timers expire, as in a virtual machine that is not run; pytest wakes first."""
    running = in_blocks(session, after=1, seconds=0.5)
    pytest_itself = psutil.Process(running.process.pid)
    stopped = [pytest_itself, *pytest_itself.children(recursive=True)]
    for process in reversed(stopped):
        process.suspend()
    time.sleep(1.5)
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
        time.sleep(0.05)
    running.wait_for(lambda: running.process.poll() is not None)
    assert running.process.returncode == 0, running.output.read_text()


def test_timer_and_deadline_together(run):
    """One failure; both are named where both came."""
    result = run(
        HEAD
        + """
@pytest.mark.elastic(timeout=0.5)
def test_it(rank):
    with expires(after=0.5, scope="both"):
        time.sleep(100)
"""
    )
    result.assert_outcomes(failed=1)


def test_the_first_expiry_is_the_cause(run):
    """Two timers of one group: the earlier one leads."""
    result = run(
        HEAD
        + """
def test_it(rank, world):
    world.barrier()
    with expires(after=0.3 + 0.2 * (2 - rank), scope=f"of {rank}"):
        time.sleep(100 if rank else 0)
"""
    )
    result.stdout.fnmatch_lines(
        ['rank 2: timer "of 2" (*) expired after 0.3 s (2 of 3 ranks failed)', "*rank 1 failed too*"]
    )


def test_kills_at_any_moment_hinder_nobody(run, rounds):
    """Ranks are killed in a loop of acquire and release; rank 0 and the server go on."""
    run(
        """
        import os, random, time
        from pytest_elastic.launch import current_world
        from pytest_elastic.timer import expires

        def loop(rank, world_size):
            store = current_world().store
            store.set(f"up{rank}", "1")
            while rank or not store.check(["stop"]):
                for _ in range(100):
                    with expires(after=5):
                        pass

        def test_it(elastic):
            for turn in range(TIMES):
                group = elastic.start(loop, nprocs=11)
                group.store.wait([f"up{rank}" for rank in range(11)])
                for victim in range(1, 11):
                    time.sleep(random.random() / 100)
                    group.kill(victim)
                group.store.set("stop", "1")
                result = group.wait(timeout=20, period=5)
                assert sorted(result.failures) == list(range(1, 11)), result
                group.close()
        """.replace("TIMES", str(rounds(1, 20))),
        "--timeout=50",
    ).assert_outcomes(passed=1)


def test_a_group_that_nobody_waits_for(run):
    """The timers of a started group are looked after all the same."""
    run(
        HEAD.replace("pytestmark", "_")
        + """
def work(rank, world_size):
    with expires(after=0.2):
        time.sleep(100 if rank else 0)
    time.sleep(100)

def test_it(elastic):
    group = elastic.start(work, nprocs=2)
    while group.group.take(0.1) or not group.group.exits:
        pass
    assert group.group.exits[1].exitcode == -signal.SIGKILL
    assert group.timers.stood[1]
    assert 0 not in group.group.exits
"""
    ).assert_outcomes(passed=1)


def test_function_ranks_have_timers_too(run):
    """In the controller style as well; the failure names the timer and the line."""
    run(
        HEAD.replace("pytestmark", "_")
        + """
def work(rank, world_size):
    with expires(after=0.3):
        time.sleep(100 if rank else 0)

def test_it(elastic):
    result = elastic.start(work, nprocs=2).wait(timeout=10, period=0.1)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: -9}
    message = result.failures[1].message
    assert "timer at test_function_ranks_have_timers_too.py:" in message
    assert "in work" in message
"""
    ).assert_outcomes(passed=1)
