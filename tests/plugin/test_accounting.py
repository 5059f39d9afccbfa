"""A pass is N reports and N clean exits; everything else fails, and says who and why."""

from __future__ import annotations

import re

import pytest

HEAD = """
import atexit, ctypes, faulthandler, os, signal, sys, threading, time
import pytest
pytestmark = pytest.mark.elastic(nprocs=3, timeout=20)
"""

# (body of the test on rank 1 of 3, a line that the report must hold)
BAD_ENDS = {
    "exception": ("raise ValueError('boom')", "E*ValueError: boom"),
    "segfault": (
        "ctypes.string_at(0)",
        "rank 1 was killed by SIGSEGV without a report (1 of 3 ranks failed)*",
    ),
    "sigkill": ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL without a report*"),
    "abort": ("os.abort()", "rank 1 was killed by SIGABRT without a report*"),
    "hard_exit_0": ("os._exit(0)", "rank 1 exited with code 0 without a report*"),
    "hard_exit_3": ("os._exit(3)", "rank 1 exited with code 3 without a report*"),
    "sys_exit_0": ("sys.exit(0)", "E*SystemExit: 0"),
    "sys_exit": ("sys.exit()", "E*SystemExit"),
    "interrupt": ("raise KeyboardInterrupt", "E*KeyboardInterrupt"),
    "atexit_crash": (
        "atexit.register(lambda: os.kill(os.getpid(), 11))",
        "rank 1 was killed by SIGSEGV after the last report*",
    ),
    "atexit_error": ("atexit.register(lambda: 1 / 0)", "rank 1 exited with code 1 after the last report*"),
    "atexit_hang": ("atexit.register(time.sleep, 100)", "rank 1 did not exit after the test*"),
    "thread": (
        "threading.Thread(target=time.sleep, args=(100,)).start()",
        "rank 1 did not exit after the test*",
    ),
    "closed_descriptors": ("os.closerange(3, 4096)", "rank 1 * without a report*"),
}


def test_a_bad_end_of_one_rank_fails_the_test(run):
    """Whatever ends rank 1 badly, the test fails and names rank 1; the next one has ranks of its own."""
    tests = [
        f"\ndef test_{name}(rank):\n    if rank == 1:\n        {body}\n"
        for name, (body, _) in BAD_ENDS.items()
    ]
    result = run(HEAD + "".join(tests))
    result.assert_outcomes(failed=len(BAD_ENDS))
    for name, (_, line) in BAD_ENDS.items():
        result.stdout.fnmatch_lines([f"_* test_{name} _*", line])


def test_an_exit_that_waits_for_work_is_clean(run):
    """As a pool's does for its workers, which have come late: it takes longer than a rank that hangs may."""
    result = run(
        HEAD
        + """
import subprocess
WORK = "import time\\nwhile time.process_time() < 3: pass"

def test_it(rank):
    if rank == 1:
        atexit.register(subprocess.Popen([sys.executable, "-c", WORK]).wait)
"""
    )
    result.assert_outcomes(passed=1)


def test_the_others_pass(run):
    """A bad end is of its test alone: the next one starts from fresh ranks."""
    result = run(
        HEAD
        + """
def test_bad(rank):
    os._exit(rank)

def test_good(world):
    assert world.gather(world.rank) == [0, 1, 2]
"""
    )
    result.assert_outcomes(passed=1, failed=1)


def test_segfault_shows_its_stack(run):
    """A fatal error's Python stack is in the report, from the test's first line on."""
    result = run(HEAD + "\ndef test_it(rank):\n    if rank == 1:\n        ctypes.string_at(0)\n")
    result.stdout.fnmatch_lines(["*rank 1 died here*", "  *test_segfault_shows_its_stack.py:* in test_it"])


def test_root_cause_first(run):
    """The first failure in time heads the report; those we stopped say where they stood."""
    result = run(
        HEAD
        + """
def test_it(rank, world):
    if rank == 1:
        raise ValueError("boom")
    time.sleep(100)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 of 3 ranks failed: rank 1 alone; ranks 0, 2 were stopped",
            "E*ValueError: boom",
            "*ranks 0, 2 stood here when stopped*",
            "*test_root_cause_first.py:* in test_it",
        ]
    )
    assert "FAILED test_root_cause_first.py::test_it - rank 1: ValueError: boom" in result.stdout.str()


def test_followers_come_after_the_cause(run):
    """A rank that failed because another was gone is no cause, though it failed first."""
    result = run(
        HEAD
        + """
from pytest_elastic.errors import DistNetworkError
def test_it(rank):
    if rank == 0:
        raise DistNetworkError("the store's server is gone")
    if rank == 1:
        time.sleep(0.2)
        raise ValueError("boom")
"""
    )
    result.stdout.fnmatch_lines(
        ["2 of 3 ranks failed: rank 1 first", "E*ValueError: boom", "*rank 0 failed too*"]
    )


def test_equal_failures_are_folded(run):
    """One traceback for what all ranks say alike."""
    result = run(HEAD + "\ndef test_it(rank):\n    assert [1, 2] == [1, 3]\n")
    result.stdout.fnmatch_lines(["3 of 3 ranks failed: ranks 0-2 alike", "E*At index 1 diff: 2 != 3"])
    assert result.stdout.str().count("E         At index 1 diff") == 1


def test_same_line_other_values(run):
    """The same line with other values is one failure; what else is said there is one line for each."""
    result = run(HEAD + "\ndef test_it(rank):\n    assert rank == 7, 'x' * (rank == 1)\n")
    result.stdout.fnmatch_lines(["*failed too, on the same line*", "rank*: AssertionError*"])
    assert result.stdout.str().count("def test_it(rank):") == 1


def test_skip_on_all_ranks(run):
    """Rule 2: a unanimous skip is a skip, with the reason and place of the test."""
    result = run(HEAD + "\ndef test_it(rank):\n    pytest.skip('not today')\n", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * test_skip_on_all_ranks.py:6: not today"])


@pytest.mark.parametrize(("policy", "outcome"), [("fail", "failed"), ("skip", "skipped"), ("pass", "passed")])
def test_skip_on_some_ranks(run, policy, outcome):
    """Rule 2: a skip on some ranks is what `elastic_partial_skip` says; by default a failure with names."""
    code = HEAD + "\ndef test_it(rank):\n    if rank == 1:\n        pytest.skip('not today')\n"
    result = run(code, "-o", f"elastic_partial_skip={policy}")
    result.assert_outcomes(**{outcome: 1})
    if policy == "fail":
        result.stdout.fnmatch_lines(["rank 1 skipped the test and ranks 0, 2 did not", "rank 1: not today"])


@pytest.mark.parametrize(
    ("mark", "body", "outcome"),
    [
        ("xfail", "assert rank != 1", "xfailed"),
        ("xfail", "pass", "xpassed"),
        ("xfail(strict=True)", "pass", "failed"),
        ("xfail(raises=ValueError)", "raise ValueError", "xfailed"),
        ("xfail(raises=ValueError)", "raise KeyError", "failed"),
        ("xfail(strict=True, raises=__import__('pytest_elastic.errors').errors.RankDiedError)",
         "os._exit(rank)", "xfailed"),
    ],
)  # fmt: skip
def test_xfail_is_judged_on_the_merged_outcome(run, mark, body, outcome):
    """Rule 2: pytest judges, once, what came of all ranks."""
    result = run(HEAD + f"\n@pytest.mark.{mark}\ndef test_it(rank):\n    {body}\n")
    result.assert_outcomes(**{outcome: 1})


def test_imperative_xfail(run):
    """`pytest.xfail()` on the ranks."""
    result = run(HEAD + "\ndef test_it(rank):\n    pytest.xfail('known')\n")
    result.assert_outcomes(xfailed=1)


def test_exit_request(run):
    """`pytest.exit()` on a rank ends the run, with its message and code."""
    code = (
        HEAD + "\ndef test_it(rank):\n    pytest.exit('enough', returncode=7)\n\ndef test_never(rank): pass\n"
    )
    result = run(code)
    assert result.ret == 7
    result.stdout.fnmatch_lines(["*Exit: enough*"])


def test_expected_death(run):
    """`expect`: a rank that dies as declared is a pass, one that does not is a failure."""
    result = run(
        HEAD
        + """
@pytest.mark.elastic(expect={1: "SIGKILL"})
def test_dies(rank):
    if rank == 1:
        os.kill(os.getpid(), 9)
    time.sleep(0.7)

@pytest.mark.elastic(expect={1: "SIGKILL"})
def test_lives(rank):
    pass

@pytest.mark.elastic(expect={1: "SIGKILL"})
def test_dies_otherwise(rank):
    if rank == 1:
        os.abort()
"""
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "rank 1 passed, but it was expected to be one that was killed by SIGKILL*",
            "rank 1 was killed by SIGABRT*",
        ]
    )


def test_setup_failure_is_an_error(run, pytester):
    """A fixture that fails on one rank is an error of the setup; no rank enters the body."""
    result = run(
        HEAD
        + """
@pytest.fixture
def broken(rank):
    if rank == 1:
        raise RuntimeError("no")

def test_it(broken):
    open("entered", "w").close()
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", "E*RuntimeError: no"])
    assert not (pytester.path / "entered").exists()


def test_teardown_failure_is_an_error(run):
    """As for any test: the call passed, the teardown did not."""
    result = run(
        HEAD
        + """
@pytest.fixture
def broken(rank):
    yield
    assert rank != 1

def test_it(broken):
    pass
"""
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*"])


def test_teardown_runs_on_the_rank_that_failed(run, pytester):
    """Finalizers run where the body failed, also when other ranks hang."""
    result = run(
        HEAD
        + """
@pytest.fixture
def resource(rank):
    yield
    if rank == 1:
        open("finalized", "w").close()

def test_it(resource, rank):
    if rank == 1:
        raise ValueError
    time.sleep(100)
"""
    )
    result.assert_outcomes(failed=1)
    assert (pytester.path / "finalized").exists()


def test_leak_of_a_passing_test(run):
    """A passing test that leaves a process behind says so: rank, pid and command; the process is killed."""
    result = run(
        HEAD
        + """
import subprocess

def test_it(rank):
    if rank == 1:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
"""
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*ElasticWarning: * left a process behind: pid * `sleep 1000` (killed)"])


def test_leak_may_be_a_failure(run):
    """`elastic_leaks=fail` makes it one."""
    code = HEAD + "\nimport subprocess\n\ndef test_it(rank):\n    subprocess.Popen(['sleep', '1000'])\n"
    result = run(code, "-o", "elastic_leaks=fail")
    result.assert_outcomes(failed=1)


def test_a_failed_subtest_fails_the_rank(run):
    """Subtests of a rank are part of its test."""
    code = HEAD + "\ndef test_it(subtests, rank):\n    with subtests.test(i=1):\n        assert rank != 1\n"
    run(code).assert_outcomes(failed=2)  # As in a plain run: the subtest, and its test.


def test_an_error_that_does_not_pickle(run):
    """The launcher says what it was, with the rank's own traceback."""
    result = run(
        HEAD
        + """
class Odd(Exception):
    def __init__(self, a, b):
        super().__init__("odd one")

def test_it(rank):
    raise Odd(1, 2)
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*Odd: odd one"])


def test_an_error_that_cannot_be_printed(run):
    """An exception whose `__str__` raises is still a failure of its rank."""
    result = run(
        HEAD
        + """
class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def test_it(rank):
    if rank == 1:
        raise Odd
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Odd*"])


def test_a_duration_is_that_of_the_slowest_rank(run):
    """Also of one that hung, died or was stopped; without the start of the ranks."""
    result = run(
        HEAD
        + """
@pytest.mark.elastic(timeout=1)
def test_hung(rank):
    time.sleep(100 * rank)

def test_died(rank):
    if rank == 1:
        time.sleep(0.5)
        os._exit(3)

@pytest.fixture
def slow(rank):
    time.sleep(0.4 * rank)
    yield
    time.sleep(0.3 * rank)

def test_phases(slow):
    time.sleep(0.2 * rank)
""".replace("0.2 * rank", "0.2"),
        "--durations=0", "-vv",
    )  # fmt: skip
    found = {
        (name, when): float(seconds)
        for seconds, when, name in re.findall(
            r"^([\d.]+)s (\w+) +\S+::(\w+)$", result.stdout.str(), re.MULTILINE
        )
    }
    assert 0.9 < found["test_hung", "call"] < 5
    assert 0.4 < found["test_died", "call"] < 5
    assert found["test_phases", "setup"] >= 0.8
    assert found["test_phases", "call"] >= 0.2
    assert found["test_phases", "teardown"] >= 0.6


def test_a_crash_loses_nothing_that_was_printed(run):
    """The last line has no end."""
    result = run(
        HEAD
        + """
@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), 9), os.abort])
def test_it(rank, end):
    print("to stdout:", rank, end=" ")
    sys.stdout.buffer.write(b"and as bytes")
    print("to stderr:", rank, end="", file=sys.stderr)
    end()
""",
        "-s",
    )
    text = result.stdout.str()
    for rank in range(3):
        assert text.count(f"to stdout: {rank} and as bytes\n") >= 3
        assert text.count(f"to stderr: {rank}\n") >= 3
