"""Ranks that do not come up, and forked ranks that wait for threads which the fork lost: both in words."""

from __future__ import annotations

SLOW = """
import os, time

def load_the_model():
    time.sleep(600)

if "RANK" in os.environ:
    load_the_model()
"""


def test_a_late_start_says_where_a_rank_stood_and_what_allows_more(run, pytester):
    """And why it is a fresh interpreter; the next start has half of the time."""
    pytester.makepyfile(slow=SLOW)
    pytester.syspathinsert()
    result = run(
        "import pytest\n@pytest.mark.parametrize('turn', [0, 1])\ndef test_it(rank, turn): pass\n",
        "--elastic-start-method=spawn",
        "-pslow",
        "-oelastic_start_timeout=8",
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "E*StartError: ranks 0-1 did not start: not ready after 8 s; start method spawn (as asked);"
            " the ini elastic_start_timeout allows more; rank 0 stood here:",
            "E *in load_the_model",
            "E*StartError: ranks 0-1 did not start: not ready after 4 s of 8 s, since the one before was late;*",
        ]
    )


def test_a_start_that_is_in_time_gives_the_next_one_the_whole_time():
    """One late start is no reason to hurry for the rest of a run."""
    from pytest_elastic.launch import Plan

    plan = Plan(2, None, how="spawn (as asked)")  # type: ignore[arg-type]
    limits = []
    for late in range(6):
        plan.late[plan.how] = late
        limits.append(plan.start_limit)
    assert limits == [60, 30, 15, 7.5, 6, 6]


LOCKED = """
import threading, time, pytest
lock = threading.Lock()

def work():
    with lock:
        time.sleep(60)

threading.Thread(target=work, name="poller", daemon=True).start()
time.sleep(0.1)

@pytest.mark.elastic(start_method="fork", timeout=2)
def test_it(world):
    with lock:
        pass

@pytest.mark.elastic(start_method="fork", timeout=2)
def test_store(world):
    world.store.get("nobody sets it")
"""


def test_a_forked_rank_that_hangs_in_a_lock_is_told_of_lost_threads(run):
    """One that waits in the store is not: it waits for another rank."""
    result = run(LOCKED)
    result.assert_outcomes(failed=2)
    lost = (
        "  threads that the tests' modules started are alive: poller: a rank that waits for them does so for ever;"
        " fresh interpreters do not: --elastic-start-method=spawn"
    )
    assert result.stdout.str().count(lost) == 1
    result.stdout.fnmatch_lines(["*--- lost by the fork ---*", lost])
