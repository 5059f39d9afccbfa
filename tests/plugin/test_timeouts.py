"""Deadlines of a group: where they come from, what is shown, and that the session goes on."""

from __future__ import annotations

import pytest

from pytest_elastic.launch._stacks import find_spy

HANG = """
import ctypes, os, signal, time
import pytest

def stand_still():
    time.sleep(100)
"""

WITHOUT_SPY = """
from pytest_elastic.launch import _stacks
_stacks.find_spy = lambda: None
"""


def test_a_hang_shows_every_stack_and_the_session_goes_on(run, pytester):
    """The rank's line, its output so far, the next test, junit: nothing is lost to a hang."""
    result = run(
        HANG
        + """
@pytest.mark.elastic(nprocs=3, timeout=1)
def test_hang(rank):
    print("before, on", rank)
    stand_still()

def test_after(rank): pass
""",
        "--junitxml=junit.xml",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "ranks 0-2 did not finish within 1 s (3 of 3 ranks failed)",
            "*ranks 0-2 hung here*",
            "  *.py:* in test_hang",
            "  *.py:* in stand_still",
            "*Captured stdout [[]rank 1] call*",
            "before, on 1",
            "(whole file: *stdout.log)",
        ]
    )
    assert 'failures="1"' in (pytester.path / "junit.xml").read_text()


def test_one_rank_hangs(run):
    """Only the rank that hangs is accused."""
    result = run(
        HANG
        + """
@pytest.mark.elastic(nprocs=3, timeout=1)
def test_hang(rank):
    if rank == 2: stand_still()
"""
    )
    result.stdout.fnmatch_lines(
        ["rank 2 did not finish within 1 s (1 of 3 ranks failed)", "*rank 2 hung here*"]
    )


@pytest.mark.parametrize(
    "body",
    [
        "ctypes.PyDLL(None).sleep(100)",
        "[signal.signal(n, signal.SIG_IGN) for n in (2, 15, 1, 3)]; time.sleep(100)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["gil-held", "signals-ignored", "stopped"],
)
@pytest.mark.parametrize("seen", [WITHOUT_SPY, ""], ids=["asked", "seen"])
def test_ranks_that_cannot_be_asked(run, body, seen):
    """A rank that holds the GIL, ignores signals or is stopped ends all the same, and shows its line."""
    result = run(f"{HANG}{seen}\n@pytest.mark.elastic(timeout=1)\ndef test_hang(rank):\n    {body}\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["ranks 0-1 did not finish within 1 s*", "  *.py:* in test_hang"])


@pytest.mark.skipif(find_spy() is None, reason="py-spy is not installed")
def test_stacks_from_outside(run):
    """With py-spy the calls of C are shown, of a call that a signal would end, and a stopped rank stays so."""
    result = run(
        """
        import ctypes, os, signal
        import pytest

        def inside():
            ctypes.CDLL(None).sleep(100)

        @pytest.mark.elastic(nprocs=3, timeout=1)
        def test_hang(world):
            if world.rank == 0:
                inside()
            elif world.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
                print("went on")
            world.barrier()
        """
    )
    result.stdout.fnmatch_lines(
        [
            "  test_hang * → inside *.py:5 ?0?*",
            "*- rank 0 hung here -*",
            "*test_stacks_from_outside.py:5 in inside",
            "      ctypes.CDLL(None).sleep(100)",
            "  … *nanosleep (C)",
            "*- rank 1 hung here -*",
            "*- rank 2 hung here -*",
            "      world.barrier()",
        ]
    )
    result.stdout.no_fnmatch_line("*went on*")


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        ("elastic(timeout=1)", ["--timeout=50"]),
        ("elastic", ["--elastic-timeout=1"]),
        ("elastic", ["-o", "elastic_timeout=1"]),
        ("elastic", ["--timeout=1"]),
        ("elastic", ["-o", "timeout=1"]),
        ("timeout(1)", ["--timeout=50", "--elastic-timeout=50"]),
        ("timeout(1, func_only=True)", []),
        ("timeout(1, method='thread')", []),
        ("elastic(timeout=1)", ["-p", "no:timeout"]),
    ],
)
def test_where_the_limit_comes_from(run, mark, arguments):
    """Our marker, then pytest-timeout's marker, option and ini, then ours; the session is never ended."""
    code = HANG + f"\n@pytest.mark.{mark}\ndef test_hang(rank): stand_still()\n\ndef test_after(rank): pass\n"
    result = run(code, *arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["ranks 0-1 did not finish within 1 s*"])


def test_ordinary_tests_keep_pytest_timeout(run):
    """A test that is not elastic has pytest-timeout's own alarm."""
    result = run(HANG + "\n@pytest.mark.timeout(1)\ndef test_hang(): stand_still()\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout (>1.0s) from pytest-timeout.*"])


@pytest.mark.parametrize(
    ("mark", "argument"),
    [("elastic(timeout=0)", "--timeout=0.2"), ("timeout(0)", "--timeout=0.2"), ("elastic", "--timeout=0")],
)
def test_no_limit(run, mark, argument):
    """A limit of 0 is none, and hides those that are farther away."""
    code = HANG + f"\n@pytest.mark.{mark}\ndef test_it(rank): time.sleep(0.5)\n"
    run(code, "--elastic-timeout=0.2", "-o", "timeout=0.2", argument).assert_outcomes(passed=1)


def test_func_only_spares_the_setup(run):
    """The limit begins with the call phase."""
    result = run(
        HANG
        + """
@pytest.fixture
def slow(): time.sleep(0.8)

@pytest.mark.timeout(0.6, func_only=True)
def test_it(rank, slow): pass
"""
    )
    result.assert_outcomes(passed=1)


def test_a_limit_for_the_session(run):
    """It stops the session between two items."""
    code = HANG + "\ndef test_it(rank): time.sleep(0.4)\n\ndef test_never(rank): pass\n"
    result = run(code, "--session-timeout=0.2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*session-timeout: 0.2 sec exceeded*"])


def test_no_alarm_in_pytest(run):
    """While ranks run, nothing is armed that could interrupt pytest itself."""
    conftest = """
import signal, threading
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = set(threading.enumerate())
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    yield
    assert set(threading.enumerate()) <= before
"""
    for method in ("signal", "thread"):
        code = HANG + f"\n@pytest.mark.timeout(20, method='{method}')\ndef test_it(rank): pass\n"
        run(code, conftest=conftest).assert_outcomes(passed=1)


def test_a_hang_in_setup(run):
    """The limit spans setup, call and teardown."""
    result = run(
        HANG
        + """
@pytest.fixture
def slow(): stand_still()

@pytest.mark.elastic(timeout=1)
def test_hang(slow): pass
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["ranks 0-1 did not finish within 1 s*", "  *.py:* in slow"])


def test_a_hang_in_teardown(run):
    """It is an error of the teardown, and the ranks are stopped."""
    result = run(
        HANG
        + """
@pytest.fixture
def slow():
    yield
    stand_still()

@pytest.mark.elastic(timeout=1)
def test_hang(slow): pass
"""
    )
    result.assert_outcomes(passed=1, errors=1)


def test_start_up_is_not_charged(run):
    """Ranks that come up slowly have a limit of their own."""
    result = run(
        """
        import os, time, pytest
        os.register_at_fork(after_in_child=lambda: time.sleep(0.5))

        @pytest.mark.elastic(timeout=0.4)
        def test_it(rank): pass
        """
    )
    result.assert_outcomes(passed=1)


def test_ranks_that_never_start(run):
    """Past the limit for starting the test is an error that says so; the next test has its chance."""
    result = run(
        """
        import os, time, pytest
        os.register_at_fork(after_in_child=lambda: time.sleep(0.3))

        @pytest.mark.elastic(nprocs=2)
        def test_it(rank): pass
        """,
        "-o", "elastic_start_timeout=0.05",
    )  # fmt: skip
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*StartError: ranks 0-1 did not start: not ready after 0.05 s*"])
