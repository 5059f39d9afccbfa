"""The `elastic` fixture: the test stays in pytest, functions go to the ranks."""

from __future__ import annotations


def test_readme_controller(run):
    """Lambdas and what they close over go along; results come back in rank order."""
    run(
        """
        def test_it(elastic):
            factor = 3
            assert elastic.run(lambda rank, world_size: rank * factor, nprocs=4) == [0, 3, 6, 9]
        """
    ).assert_outcomes(passed=1)


def test_functions_by_value(run):
    """Closures over closures, recursion, defaults, module globals, arguments of any size."""
    run(
        """
        SCALE = 10

        def at_module_level(rank, world_size, *args): return rank, world_size, args

        def test_it(elastic):
            assert elastic.run(at_module_level, nprocs=2, args=(1, "x")) == [(0, 2, (1, "x")), (1, 2, (1, "x"))]

            def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
            def local(rank, world_size, offset=5, *, more=1): return SCALE * factorial(rank + 3) + offset + more
            assert elastic.run(local, nprocs=2) == [66, 246]

            data = bytes(10_000_000)
            assert elastic.run(lambda rank, n, sent: (len(sent), sent), nprocs=2, args=(data,)) == [(10_000_000, data)] * 2
        """
    ).assert_outcomes(passed=1)


def test_what_cannot_be_sent(run):
    """One error that names it, before anything starts."""
    result = run(
        """
        import threading

        def test_argument(elastic):
            elastic.run(print, nprocs=2, args=(threading.Lock(),))

        def test_result(elastic):
            elastic.run(lambda rank, n: threading.Lock(), nprocs=2)
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["E*TypeError: cannot be sent to the ranks: cannot pickle '_thread.lock' object*"]
    )
    result.stdout.fnmatch_lines(
        ["TypeError: the result, a lock, cannot be sent from the rank: cannot pickle '_thread.lock' object*"]
    )


def test_what_cannot_be_read_at_the_other_end(run):
    """A result in the launcher, arguments in a rank, a gathered value: the error names it and what was raised."""
    result = run(
        """
        import pytest

        class Pair(Exception):
            def __init__(self, code, text):
                super().__init__(f"{code}: {text}")

        def test_result(elastic):
            elastic.run(lambda rank, n: Pair(3, "ok"), nprocs=1)

        def test_argument(elastic):
            elastic.run(lambda rank, n, pair: None, nprocs=1, args=(Pair(3, "ok"),))

        @pytest.mark.elastic(nprocs=2)
        def test_gather(world):
            world.gather(Pair(3, "ok") if world.rank else 1)

        @pytest.mark.elastic(nprocs=2)
        def test_sent(world):
            world.gather(world.rank or (lambda: 1))

        @pytest.mark.elastic(nprocs=2)
        def test_broadcast(world):
            if world.rank == 0:
                world.broadcast(Pair(3, "ok"))
            else:
                with pytest.raises(TypeError, match="^broadcast: the value of rank 0, a Pair, cannot be unpickled"):
                    world.broadcast(None)
        """
    )
    result.assert_outcomes(failed=4, passed=1)
    lost = "cannot be unpickled%s: TypeError: Pair.__init__() missing 1 required positional argument: 'text'"
    for line in (
        "rank 0 returned a Pair, which " + lost % " here" + " (1 of 1 ranks failed)",
        "TypeError: the function or its arguments " + lost % " in the rank",
        "E*TypeError: gather: the value of rank 1, a Pair, " + lost % "",
        "E*TypeError: gather: the value of rank 0, a function, cannot be pickled: *",
    ):
        result.stdout.fnmatch_lines([line])


def test_sys_exit(run):
    """Its code is the rank's; without a value a clean exit is a failure in words, with `expect` it is none."""
    result = run(
        """
        import sys, unittest
        import pytest

        def leave(rank, n, code):
            sys.exit(code)

        @pytest.mark.parametrize("code, seen", [(7, 7), (-1, 255), ("text", 1), (True, 1), (2**70, 255)])
        def test_code(elastic, code, seen):
            assert elastic.start(leave, nprocs=1, args=(code,)).wait(20).failures[0].exitcode == seen
            assert elastic.run(leave, nprocs=2, args=(code,), expect={0: seen, 1: seen}) == [None, None]

        @pytest.mark.parametrize("code, shown", [(0, "0"), (None, ""), (256, "256")])
        def test_clean(elastic, code, shown):
            assert elastic.run(leave, nprocs=1, args=(code,), expect={0: 0}) == [None]
            failure = elastic.start(leave, nprocs=1, args=(code,)).wait(20).failures[0]
            assert failure.message == f"rank 0 ended with sys.exit({shown}) before it returned a value"

        @pytest.mark.elastic(nprocs=2, expect={1: 3})
        def test_marked(rank):
            if rank:
                sys.exit(3)

        @pytest.fixture
        def leaves(rank):
            if rank:
                sys.exit(3)

        @pytest.mark.elastic(nprocs=2, expect={1: 3})
        def test_in_a_fixture(leaves):
            pass

        @pytest.mark.elastic(nprocs=1, expect={0: 0})
        class TestCase(unittest.TestCase):
            def test_it(self):
                sys.exit()

        @pytest.mark.elastic(nprocs=2, expect={1: 3})
        def test_another_code(rank):
            if rank:
                sys.exit(4)

        @pytest.mark.elastic(nprocs=1)
        def test_unexpected():
            sys.exit(0)
        """
    )
    result.assert_outcomes(passed=11, failed=2)
    result.stdout.fnmatch_lines(["E*SystemExit: 4"])
    result.stdout.fnmatch_lines(["E*SystemExit: 0"])


def test_failures(run):
    """`ChildFailedError` has every failed rank and its traceback."""
    result = run(
        """
        import pytest
        from pytest_elastic.multiprocessing.errors import ChildFailedError

        def test_it(elastic):
            def broken(rank, world_size):
                if rank:
                    raise ValueError(f"boom {rank}")

            with pytest.raises(ChildFailedError) as caught:
                elastic.run(broken, nprocs=3)
            assert sorted(caught.value.failures) == [1, 2]
            for rank in (1, 2):
                assert f"ValueError: boom {rank}" in str(caught.value)
            raise caught.value
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*ValueError: boom [12]*"])


def test_timeout(run):
    """The error says which ranks, and where they stood."""
    result = run(
        """
        import time

        def test_it(elastic):
            elastic.run(lambda rank, world_size: rank and time.sleep(100), nprocs=3, timeout=0.5)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "ranks 1-2 did not finish within 0.5 s (2 of 3 ranks failed)",
            "run by test_timeout.py:4: elastic.run(lambda rank, world_size: *",
            "-* ranks 1-2 hung here -*",
            "  */test_timeout.py:4 in <lambda>",
        ]
    )


def test_a_failure_looks_like_that_of_a_test_on_ranks(run, pytester):
    """Cause first, with its source; followers in a line; what is known of the hang; the same summary."""
    code = """
        import os
        from pytest_elastic.launch import current_world

        def train(rank):
            print("loading")
            if rank == 1:
                raise ValueError("no data")

        def test_it(elastic):
            def fn(rank, world_size):
                train(rank)
                current_world().barrier("epoch3")

            elastic.run(fn, nprocs=3)

        def test_dies(elastic):
            elastic.run(lambda rank, world_size: rank == 1 and os._exit(3), nprocs=2)
        """
    for style in ("auto", "native"):
        result = run(code, f"--tb={style}")
        result.stdout.fnmatch_lines(
            [
                "3 of 3 ranks failed: rank 1 first",
                "run by *.py:14: elastic.run(fn, nprocs=3)",
                '*raise ValueError("no data")',
                "*ValueError: no data",
                "-* who waits for whom -*",
                '  barrier "epoch3": arrived 0, 2; absent 1 (*ValueError: no data, *.py:7)',
                "-* ranks 0, 2 failed too -*",
                "-* Captured stdout [[]ranks 0-2[]] call -*",
                "page: .pytest_elastic/*/page.html",
                "rank 1 exited with code 3 without a report (1 of 2 ranks failed)",
                "run by *.py:17: *",
                'FAILED *::test_it - rank 1: ValueError: no data (barrier "epoch3" never complete)',
                "FAILED *::test_dies - rank 1 exited with code 3 without a report",
            ]
        )
        text = result.stdout.str()
        assert text.count('raise ValueError("no data")') == 1
        for word in ("error_file", "Captured stderr", "_rank.py", "_record.py"):
            assert word not in text
    assert len(list(pytester.path.glob(".pytest_elastic/*/page.html"))) == 2


def test_an_error_that_the_test_expects_leaves_nothing(run, pytester):
    """Its text has every failure, and what is known of the hang."""
    result = run(
        """
        import pytest
        from pytest_elastic.launch import current_world
        from pytest_elastic.multiprocessing.errors import ChildFailedError

        def fn(rank, world_size):
            assert rank
            current_world().barrier("b")

        def test_it(elastic):
            with pytest.raises(ChildFailedError) as caught:
                elastic.run(fn, nprocs=2)
            assert sorted(caught.value.failures) == [0, 1]
            assert "HANG  1 of 2 ranks" in caught.value.__notes__[0]
        """
    )
    result.assert_outcomes(passed=1)
    assert not list(pytester.path.glob(".pytest_elastic/*"))


def test_bad_ends_are_failures(run):
    """A function rank that ends without a result has failed, whatever its exit code."""
    run(
        """
        import os, sys, pytest
        from pytest_elastic.multiprocessing.errors import ChildFailedError

        @pytest.mark.parametrize("end", [lambda r, n: os._exit(0), lambda r, n: os.kill(os.getpid(), 9), lambda r, n: sys.exit(3)])
        def test_it(elastic, end):
            with pytest.raises(ChildFailedError):
                elastic.run(end, nprocs=2)
        """
    ).assert_outcomes(passed=3)


def test_group_handle(run):
    """`start`: pids, kill, pause, resume, logs, wait; the result says who failed."""
    run(
        """
        import os, time, psutil

        def work(rank, world_size):
            print("working", rank, flush=True)
            time.sleep(100 if rank else 0)

        def test_kill(elastic):
            group = elastic.start(work, nprocs=3)
            assert sorted(group.pids()) == [0, 1, 2]
            assert group.wait(timeout=0) is None
            group.pause(2)
            deadline = time.monotonic() + 5
            while psutil.Process(group.pids()[2]).status() != "stopped" and time.monotonic() < deadline: pass
            assert psutil.Process(group.pids()[2]).status() == "stopped"
            group.resume(2)
            while psutil.Process(group.pids()[2]).status() == "stopped" and time.monotonic() < deadline: pass
            # It may have come to nothing yet, or to the first half of its line.
            while "\\n" not in group.logs[1].stdout and time.monotonic() < deadline: pass
            group.kill(1)
            result = group.wait(timeout=10, period=0.1)
            assert [f.exitcode for f in result.failures.values()] == [-9]
            assert list(result.failures) == [1] and list(result.stopped) == [2]
            assert group.logs[1].stdout == "working 1\\n"

        def test_close(elastic):
            group = elastic.start(work, nprocs=2)
            group.close(timeout=1)
            group.close()
            assert not any(psutil.pid_exists(pid) for pid in group.pids().values())
        """
    ).assert_outcomes(passed=2)


def test_exit_codes_are_known_when_they_happen(run):
    """By a sentinel for each rank; a signal to one rank, and a rank that is not there."""
    run(
        """
        import signal, sys, time
        from multiprocessing.connection import wait
        import pytest
        from pytest_elastic import is_rank

        def work(rank, world_size):
            assert is_rank()
            if rank == 2:
                sys.exit(5)
            time.sleep(100)

        def test_sentinels(elastic):
            assert not is_rank()
            group = elastic.start(work, nprocs=3)
            sentinels = {group.sentinel(rank): rank for rank in range(3)}
            assert [sentinels[one] for one in wait(list(sentinels), 30)] == [2]
            assert [group.exitcode(rank) for rank in range(3)] == [None, None, 5]
            group.signal(0, signal.SIGUSR1)
            assert wait([group.sentinel(0)], 30)
            assert group.exitcode(0) == -signal.SIGUSR1
            assert wait([group.sentinel(2)], 0)
            with pytest.raises(ValueError, match="no rank 3, only 0 to 2"):
                group.signal(3, signal.SIGTERM)
            group.close(timeout=1)
            assert group.exitcode(1) == -signal.SIGTERM
            with pytest.raises(RuntimeError, match="the group is closed"):
                group.sentinel(1)
        """
    ).assert_outcomes(passed=1)


def test_a_group_left_open_is_closed(run):
    """The fixture's end is the group's."""
    run(
        """
        import time, psutil
        pids = []

        def test_open(elastic):
            pids.extend(elastic.start(lambda rank, n: time.sleep(100), nprocs=2).pids().values())
            assert all(map(psutil.pid_exists, pids))

        def test_closed():
            assert not any(map(psutil.pid_exists, pids))
        """
    ).assert_outcomes(passed=2)


def test_the_store_is_shared_with_the_controller(run):
    """Ranks and the test see the same data."""
    run(
        """
        from pytest_elastic.launch import current_world

        def work(rank, world_size):
            world = current_world()
            world.store.set(f"hello/{rank}", str(rank))
            return world.store.get("answer")

        def test_it(elastic):
            group = elastic.start(work, nprocs=2)
            assert [group.store.get(f"hello/{rank}") for rank in range(2)] == [b"0", b"1"]
            group.store.set("answer", "42")
            assert group.wait(timeout=10).return_values == {0: b"42", 1: b"42"}
        """
    ).assert_outcomes(passed=1)


def test_bad_nprocs(run):
    """A size that is none is one clear error."""
    result = run("def test_it(elastic): elastic.run(print, nprocs=0)")
    result.stdout.fnmatch_lines(["E*ValueError: nprocs must be a whole number from 1, not 0"])


def test_assert_in_a_function(run):
    """A failed assert in a function rank shows its text."""
    result = run(
        """
        def test_it(elastic):
            def check(rank, world_size):
                assert rank == 7, f"rank {rank} is not seven"
            elastic.run(check, nprocs=1)
        """
    )
    result.stdout.fnmatch_lines(["E*AssertionError: rank 0 is not seven*"])


def test_an_expected_end_is_spelled_as_in_the_marker(run):
    """By a signal's name, as `signal` has it, or by code; what no rank can end with is an error, and nothing runs."""
    run(
        """
        import os, signal
        import pytest

        def die(rank, world_size):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 2:
                os._exit(3)
            return rank

        @pytest.mark.parametrize("end", ["SIGKILL", signal.SIGKILL, -9])
        def test_it(elastic, end):
            assert elastic.run(die, nprocs=3, expect={1: end, 2: 3}) == [0, None, None]

        @pytest.mark.parametrize("expect", [
            {1: "SIGKIL"}, {1: "sigkill"}, {1: 256}, {1: -1000}, {1: True}, {1: None}, {3: "SIGKILL"}, {"1": 3}, ["SIGKILL"],
        ], ids=str)
        def test_bad(elastic, expect):
            with pytest.raises(ValueError) as caught:
                elastic.run(die, nprocs=3, expect=expect)
            assert str(caught.value).startswith(f"elastic.run(expect={expect!r}): ")
            assert str(caught.value).endswith(
                "allowed is a dict of rank to a signal's name ('SIGKILL') or an exit code"
            )
            assert not elastic.groups

        @pytest.mark.elastic(nprocs=2, expect={1: signal.SIGKILL})
        def test_marked(rank):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        """
    ).assert_outcomes(passed=13)
