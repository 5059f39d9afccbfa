"""Adoption: processes that tests start by `multiprocessing` behave as ever, and leave nothing behind."""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import textwrap

import pytest
from machine import late

ON = "--elastic-adopt=processes"
UNCACHED = ("-p", "no:cacheprovider")  # Else it is measured what a fresh interpreter takes.
TARGETS = """
import os
import signal
import sys
import time

def double(queue, number):
    queue.put((number * 2, os.getcwd(), os.environ.get("GREETING"), list(sys.argv), sys.path[0]))

def leave(code):
    sys.exit(code)

def fail():
    raise ValueError("in the child")

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def sleep():
    time.sleep(100)

def square(number):
    return number * number

def count(lock, number):
    for _ in range(50):
        with lock:
            number.value += 1

def nest(queue):
    import multiprocessing

    child = multiprocessing.get_context("spawn").Process(target=square, args=(3,))
    child.start()
    child.join()
    queue.put((child.exitcode, multiprocessing.parent_process().is_alive()))
"""
AS_EVER = """
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait

import pytest
import targets

@pytest.fixture(params=["spawn", "forkserver"])
def context(request):
    return multiprocessing.get_context(request.param)

def start(context, target, *arguments):
    process = context.Process(target=target, args=arguments)
    process.start()
    return process

def test_a_child_has_the_callers_surroundings(context, monkeypatch, tmp_path):
    monkeypatch.setenv("GREETING", "hello")
    monkeypatch.setattr(sys, "argv", ["prog", "argument"])
    monkeypatch.syspath_prepend(str(tmp_path))
    queue = context.Queue()
    children = [start(context, targets.double, queue, number) for number in range(3)]
    found = sorted(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert [one[0] for one in found] == [0, 2, 4]
    assert found[0][1:] == (os.getcwd(), "hello", ["prog", "argument"], str(tmp_path))
    assert [child.exitcode for child in children] == [0, 0, 0]

@pytest.mark.parametrize(("code", "seen"), [(0, 0), (None, 0), (3, 3), (-1, 255), ("text", 1)])
def test_exit_codes(context, code, seen):
    child = start(context, targets.leave, code)
    child.join()
    assert child.exitcode == seen

def test_a_traceback_goes_to_the_callers_stream(capfd):
    child = start(multiprocessing.get_context("spawn"), targets.fail)
    child.join()
    assert child.exitcode == 1
    assert "ValueError: in the child" in capfd.readouterr().err

def test_signals_and_timeouts(context):
    crashed = start(context, targets.crash)
    crashed.join()
    assert crashed.exitcode == -signal.SIGSEGV
    for end, signum in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        child = start(context, targets.sleep)
        assert child.is_alive()
        assert child.join(0.05) is None
        assert child.exitcode is None
        getattr(child, end)()
        assert wait([child.sentinel], 60) == [child.sentinel]
        child.join()
        assert child.exitcode == -signum
        child.close()

def test_pools_and_executors(context):
    with context.Pool(2) as pool:
        assert pool.map(targets.square, range(5)) == [0, 1, 4, 9, 16]
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(targets.square, range(5))) == [0, 1, 4, 9, 16]

def test_what_is_shared(context):
    lock, number = context.Lock(), context.Value("i", 0)
    children = [start(context, targets.count, lock, number) for _ in range(2)]
    for child in children:
        child.join()
    assert number.value == 100
    with context.Manager() as manager:
        names = manager.dict(a=1)
        assert dict(names) == {"a": 1}

def test_what_cannot_be_pickled_fails_as_ever(context):
    with pytest.raises((AttributeError, TypeError, __import__("pickle").PicklingError)):
        start(context, lambda: 0)

def test_a_start_from_a_thread(context):
    codes = []
    def run():
        child = start(context, targets.leave, 4)
        child.join()
        codes.append(child.exitcode)
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [4, 4, 4]

def test_a_child_of_a_child(context):
    queue = context.Queue()
    child = start(context, targets.nest, queue)
    assert queue.get(timeout=60) == (0, True)
    child.join()

@pytest.fixture(scope="module")
def pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool

@pytest.mark.parametrize("round", [1, 2])
def test_a_pool_outlives_a_test(pool, round):
    assert pool.map(targets.square, [round]) == [round * round]
"""


def passing(result: pytest.RunResult) -> int:
    """How many tests passed, where none did anything else."""
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}, result.stdout.str()
    return outcomes["passed"]


def test_processes_behave_as_those_of_the_standard_library(run):
    """The same tests pass with adoption and without."""
    adopted = run(AS_EVER, ON, *UNCACHED, targets=TARGETS)
    assert passing(adopted) == passing(run(AS_EVER, targets=TARGETS))
    adopted.stdout.fnmatch_lines(["adopted: * processes of * tests, * s for each start"])


def test_a_failed_test_says_what_became_of_its_processes(run):
    """Who died first, and where those stand that still run."""
    result = run(
        """
        import multiprocessing, targets

        def test_crash():
            context = multiprocessing.get_context("spawn")
            children = [context.Process(target=one, daemon=True) for one in (targets.sleep, targets.crash)]
            for child in children:
                child.start()
            children[1].join()
            assert not children[1].exitcode
        """,
        ON,
        *UNCACHED,
        targets=TARGETS,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "*adopted processes*", "*(pid *) was killed by SIGSEGV after *", "*targets.py:* in crash", "*(pid *) runs:", "*targets.py:* in sleep",
    ])  # fmt: skip


def test_processes_of_ranks_and_after_a_test_are_the_standard_librarys(run):
    """A rank's own children are its own affair, and so is what a thread starts when the test is over."""
    result = run(
        """
        import multiprocessing, threading, pytest, targets

        def start():
            child = multiprocessing.get_context("spawn").Process(target=targets.leave, args=(0,))
            child.start()
            child.join()
            return child

        @pytest.mark.elastic(nprocs=2)
        def test_rank(rank):
            assert start().exitcode == 0

        def test_adopted():
            assert start().exitcode == 0

        """,
        ON,
        *UNCACHED,
        conftest="""
        import multiprocessing

        def pytest_sessionfinish(session):
            import targets

            child = multiprocessing.get_context("spawn").Process(target=targets.leave, args=(5,))
            child.start()
            child.join()
            print("after the tests:", type(child._popen).__module__, child.exitcode)
        """,
        targets=TARGETS,
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*after the tests: multiprocessing.popen_spawn_posix 5*"])
    result.stdout.fnmatch_lines(["adopted: 1 process of 1 test, *"])


def test_a_start_that_fails_leaves_the_next_alone_and_ended_processes_leave_no_descriptor(run):
    """After a target that cannot be pickled, and want of descriptors; eighty processes keep no files open, and no finalizers."""
    result = run(
        """
        import multiprocessing, os, resource, pytest, targets

        context = multiprocessing.get_context("spawn")

        def start(target):
            child = context.Process(target=target, args=(0,))
            child.start()
            child.join()
            assert child.exitcode == 0
            return type(child._popen).__name__

        def test_failing():
            with pytest.raises(Exception):
                start(lambda code: 0)
            assert start(targets.leave) == "AdoptedPopen"

        def test_scarce(monkeypatch):
            from pytest_elastic.adoption import _adopted_popen

            def scarce(*_):
                raise OSError("no descriptors")

            with monkeypatch.context() as patched:
                patched.setattr(_adopted_popen, "started_group", scarce)
                assert start(targets.leave) == "Popen"
            assert start(targets.leave) == "AdoptedPopen"

        open_files = []

        @pytest.mark.parametrize("turn", range(2))
        def test_many(turn):
            for _ in range(40):
                open_files.append(len(os.listdir("/proc/self/fd")))
                start(targets.leave)

        def test_counts():
            assert max(open_files) < open_files[0] + 20  # Guardians may still be about to end.

        def test_finalizers():
            from multiprocessing import util

            known = set(util._finalizer_registry)
            start(targets.leave)
            assert set(util._finalizer_registry) <= known
        """,
        ON,
        *UNCACHED,
        targets=TARGETS,
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        [
            "adopted: 83 processes of 5 tests, *",
            "adopted: 1 process left to the standard library: no descriptors",
        ]
    )


@pytest.mark.parametrize(("options", "made"), [((), False), (("--continue-on-collection-errors",), True)])
def test_a_run_that_ends_with_its_collection_forks_nothing(run, pytester, options, made):
    """As after an error in it; where tests run nevertheless, they have ranks and are adopted."""
    pytester.makepyfile(test_broken="import nowhere")
    base = pytester.path / "base"
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=1)
        def test_it(world):
            pass
        """,
        ON,
        *UNCACHED,
        f"--basetemp={base}",
        *options,
    )
    result.assert_outcomes(errors=1, passed=int(made))
    assert {path.name for path in base.glob("*0")} == ({"adopted0", "elastic0"} if made else set())


def test_what_a_standard_start_takes_is_measured_in_the_first_run_only(run, pytester):
    """Since that is as long as a suite that is adopted: pytest's cache has it."""
    code = """
    import multiprocessing, targets

    def test_it():
        child = multiprocessing.get_context("spawn").Process(target=targets.leave, args=(0,))
        child.start()
        child.join()
    """
    run(code, ON, targets=TARGETS).stdout.fnmatch_lines(
        ["*; a fresh interpreter takes ?.?? s here (measured once)"]
    )
    (cached,) = pytester.path.glob(".pytest_cache/v/elastic/starts")
    cached.write_text('{"targets": 99.0}')
    run(code, ON, targets=TARGETS).stdout.fnmatch_lines(
        ["*; a fresh interpreter takes 99.00 s here (measured once)"]
    )


def test_nothing_is_replaced_where_the_option_is_off():
    """Neither in this process, nor is the module loaded."""
    popen = vars(multiprocessing.context.SpawnProcess)["_Popen"]
    assert popen.__func__.__module__ == "multiprocessing.context"


def test_no_process_survives_a_killed_pytest(session, tmp_path):
    """Nor its children, daemon or not."""
    (tmp_path / "targets.py").write_text(TARGETS)
    running = session(
        """
        import multiprocessing, targets

        def test_hang():
            context = multiprocessing.get_context("spawn")
            children = [context.Process(target=targets.sleep) for _ in range(2)]
            for child in children:
                child.start()
            print("started", flush=True)
            children[0].join()
        """,
        ON,
        *UNCACHED,
        "-s",
    )
    running.wait_for(lambda: "started" in running.output.read_text(), late(20))
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait(10)
    running.wait_for(lambda: not running.survivors(), late(5))


def test_a_value_that_is_not_allowed_is_an_error(run):
    """It says which are."""
    result = run("def test_nothing(): pass", "--elastic-adopt=threads")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--elastic-adopt: invalid choice: 'threads' (choose from *off*processes*torch*)"]
    )


def test_a_module_that_has_started_threads_does_not_keep_others_from_adoption(run):
    """Its own processes are forks as well, which import it; those of others have what they import."""
    starts = """
    import multiprocessing, os
    born = os.getpid()

    def check(imported):
        assert (born != os.getpid()) is imported
        print("from the process")

    def test_process(capfd):
        process = multiprocessing.get_context("spawn").Process(target=check, args=(IMPORTED,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert capfd.readouterr().out == "from the process\\n"
    """
    pool = """
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor(1)
    pool.submit(abs, -1).result()
    """
    other = textwrap.dedent(starts)
    result = run(
        other.replace("IMPORTED", "True"),
        "--elastic-adopt=processes",
        test_pool=textwrap.dedent(pool) + other.replace("IMPORTED", "False"),
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["adopted: 2 processes of 2 tests, *"])
