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


# What the test is about: (its code, the lines of its report).
SAID = {
    "a segfault shows its stack, from the test's first line on": (
        """
def test_0(rank):
    if rank == 1:
        ctypes.string_at(0)
""",
        ["*rank 1 died here*", "  *.py:* in test_0"],
    ),
    "the first failure in time leads, and those we stopped say where they stood": (
        """
def test_1(rank):
    if rank == 1:
        raise ValueError("boom")
    time.sleep(100)
""",
        [
            "1 of 3 ranks failed: rank 1 alone; ranks 0, 2 were stopped",
            "E*ValueError: boom",
            "*ranks 0, 2 stood here when stopped*",
            "*.py:* in test_1",
        ],
    ),
    "a rank that failed because another was gone is no cause, though it failed first": (
        """
from pytest_elastic.errors import DistNetworkError
def test_2(rank):
    if rank == 0:
        raise DistNetworkError("the store's server is gone")
    if rank == 1:
        time.sleep(0.2)
        raise ValueError("boom")
""",
        ["2 of 3 ranks failed: rank 1 first", "E*ValueError: boom", "*rank 0 failed too*"],
    ),
    "one traceback for what all ranks say alike": (
        """
def test_3(rank):
    assert [1, 2] == [1, 3]
""",
        ["3 of 3 ranks failed: ranks 0-2 alike", "E*At index 1 diff: 2 != 3"],
    ),
    "the same line with other values is one failure, and what else is said there a line for each": (
        """
def test_4(rank):
    assert rank == 7, 'x' * (rank == 1)
""",
        ["*failed too, on the same line*", "rank*: AssertionError*"],
    ),
    "an error that does not pickle is told with the rank's own traceback": (
        """
class Odd(Exception):
    def __init__(self, a, b):
        super().__init__("odd one")

def test_5(rank):
    raise Odd(1, 2)
""",
        ["E*Odd: odd one"],
    ),
    "an exception whose `__str__` raises is a failure of its rank": (
        """
class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def test_6(rank):
    if rank == 1:
        raise Mute
""",
        ["*Mute*"],
    ),
}


def test_what_a_failure_says(run):
    """Each of its own test, whatever has failed before it."""
    result = run(HEAD + "".join(code for code, _ in SAID.values()))
    result.assert_outcomes(failed=len(SAID))
    _, *reports = re.split(r"^_+ test_\d _+$", result.stdout.str(), flags=re.MULTILINE)
    for (_, lines), report in zip(SAID.values(), reports, strict=True):
        pytest.LineMatcher(report.splitlines()).fnmatch_lines(lines)
    assert reports[3].count("E         At index 1 diff") == 1
    assert reports[4].count("def test_4(rank):") == 1
    result.stdout.fnmatch_lines(["FAILED *.py::test_1 - rank 1: ValueError: boom"])


# (mark, body, outcome)
XFAILS = [
    ("xfail", "assert rank != 1", "XFAIL"),
    ("xfail", "pass", "XPASS"),
    ("xfail(strict=True)", "pass", "FAILED"),
    ("xfail(raises=ValueError)", "raise ValueError", "XFAIL"),
    ("xfail(raises=ValueError)", "raise KeyError", "FAILED"),
    ("xfail(strict=True, raises=RankDiedError)", "os._exit(rank)", "XFAIL"),
    ("timeout(20)", "pytest.xfail('known')", "XFAIL"),
]


def test_xfail_is_judged_on_the_merged_outcome(run):
    """Rule 2: pytest judges, once, what came of all ranks."""
    tests = [
        f"\n@pytest.mark.{mark}\ndef test_{number}(rank):\n    {body}\n"
        for number, (mark, body, _) in enumerate(XFAILS)
    ]
    result = run(HEAD + "from pytest_elastic.errors import RankDiedError\n" + "".join(tests), "-rA")
    found = re.findall(r"^([A-Z]+) \S+::test_(\d)", result.stdout.str(), re.MULTILINE)
    assert {XFAILS[int(number)][:2]: outcome for outcome, number in found} == {
        (mark, body): outcome for mark, body, outcome in XFAILS
    }


def test_a_fixture_that_fails_on_one_rank_is_an_error(run, pytester):
    """Of the setup, and no rank enters the body; of the teardown, which runs where the body failed while others hang."""
    result = run(
        HEAD
        + """
@pytest.fixture
def broken(rank):
    if rank == 1:
        raise RuntimeError("no")

def test_setup(broken):
    open("entered", "w").close()

@pytest.fixture
def broken_late(rank):
    yield
    assert rank != 1

def test_teardown(broken_late):
    pass

@pytest.fixture
def resource(rank):
    yield
    if rank == 1:
        open("finalized", "w").close()

def test_body(resource, rank):
    if rank == 1:
        raise ValueError
    time.sleep(100)
"""
    )
    result.assert_outcomes(passed=1, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_setup*", "E*RuntimeError: no"])
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_teardown*", "E*assert 1 != 1"])
    assert not (pytester.path / "entered").exists()
    assert (pytester.path / "finalized").exists()


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
