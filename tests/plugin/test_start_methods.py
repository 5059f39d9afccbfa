"""How ranks are made: the zygote, fresh interpreters, and who decides."""

from __future__ import annotations

import pytest

CODE = """
import os, subprocess, threading, time, pytest

@pytest.fixture(scope="module")
def module_pid():
    yield os.getpid()

@pytest.mark.elastic(nprocs=2)
class TestIt:
    def test_store(self, world):
        world.store.set("key", "value")
        assert world.gather(world.rank) == [0, 1]

    def test_store_is_fresh(self, world):
        assert not world.store.check(["key"])
        world.barrier()

    def test_fixtures_are_fresh(self, rank, module_pid, tmp_path, shared_tmp_path):
        assert module_pid == os.getpid()
        assert list(shared_tmp_path.iterdir()) == []

    def test_fails(self, rank):
        assert rank == 0

@pytest.mark.elastic(nprocs=1)
class TestOne:
    def test_dies(self, rank):
        os.kill(os.getpid(), 9)

    def test_leaks(self, rank):
        subprocess.Popen(["sleep", "1000"])

    def test_leaves_a_thread(self, rank):
        threading.Thread(target=time.sleep, args=(100,)).start()

    def test_is_fresh_after_all_that(self, rank):
        pass

def test_controller(elastic):
    factor = 2
    assert elastic.run(lambda rank, n: rank * factor, nprocs=2) == [0, 2]
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_same_outcomes(run, method):
    """Both ways give every test the same outcome, and each its own failure to the right test."""
    result = run(CODE, f"--elastic-start-method={method}", "-rA")
    result.assert_outcomes(passed=6, failed=3, warnings=1)
    result.stdout.fnmatch_lines_random(
        [
            f"elastic: 8 on ranks, start method {method} (as asked)",
            "FAILED *::test_fails - rank*: assert 1 == 0",
            "FAILED *::test_dies - rank 0 was killed by SIGKILL*",
            "FAILED *::test_leaves_a_thread - rank 0 did not exit*",
            "*::TestOne::test_leaks",
        ]
    )


def test_threads_of_a_test_module(run):
    """A thread that a test module started makes `auto` choose fresh interpreters, and say why."""
    result = run(
        """
        import os, threading, time, pytest
        threading.Thread(target=time.sleep, args=(3,), name="poller", daemon=True).start()

        @pytest.mark.elastic(nprocs=1)
        def test_it(world):
            assert threading.active_count() <= 3
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*start method spawn (threads that the tests' modules started are alive: poller)"]
    )


def test_threads_of_an_application_that_calls_pytest(pytester, monkeypatch):
    """They may hold a lock at any time, as those of test modules may."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        app="""
        import threading, time, pytest
        lock = threading.Lock()
        def work():
            while True:
                with lock:
                    time.sleep(0.05)
        if __name__ == "__main__":
            threading.Thread(target=work, daemon=True, name="worker of the app").start()
            import app
            app.lock = lock
            pytest.main(["-p", "no:cacheprovider", "-p", "pytest_elastic", "--elastic-nprocs=1"])
        """,
        test_it="""
        import app
        def test_it(rank):
            with app.lock:
                pass
        """,
    )
    result = pytester.runpython("app.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*spawn (threads that the application that called pytest started are alive: worker of the app)"]
    )


def test_spawned_ranks_are_kept_warm(run):
    """Clean ranks of one size serve the next test; a failed group is replaced."""
    run(
        """
        import os, pytest
        seen = []

        @pytest.mark.elastic(nprocs=1)
        @pytest.mark.parametrize("turn", [0, 1, 2])
        def test_warm(rank, turn):
            assert len(seen) == turn
            seen.append(turn)

        @pytest.mark.elastic(nprocs=1)
        @pytest.mark.xfail(strict=True)
        def test_fails(rank): assert 0

        @pytest.mark.elastic(nprocs=1)
        def test_replaced(rank): assert seen == []
        """,
        "--elastic-start-method=spawn",
    ).assert_outcomes(passed=4, xfailed=1)


def test_the_marker_chooses_and_spawned_ranks_come_up_while_earlier_tests_run(run):
    """`start_method=` is for one test.  Whatever tests there are before: on fresh ranks, they are there by then."""
    run(
        """
        import os, pathlib, pytest, time
        born = os.getpid()
        pathlib.Path("up").mkdir(exist_ok=True)
        if "RANK" in os.environ:
            pathlib.Path("up", os.environ["RANK"]).touch()

        def test_plain():
            deadline = time.monotonic() + 60
            while not list(pathlib.Path("up").iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.01)

        @pytest.mark.elastic(start_method="fork")
        def test_forked(rank): assert born != os.getpid()

        @pytest.mark.elastic(start_method="spawn")
        def test_spawned(rank): assert born == os.getpid()
        """,
        "--elastic-nprocs=1",
    ).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "arguments",
    [["-p", "xdist", "-n1"], ["-p", "pytest_cov", "--cov=.", "--cov-report=", "--junitxml=j.xml", "-v"]],
)
def test_spawn_with_other_plugins(run, arguments):
    """The arguments of the run go to the ranks, and do not do their work twice."""
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_cov")
    code = "def test_it(world):\n    world.barrier()\n\ndef test_other(rank): assert rank\n"
    result = run(code, "--elastic-start-method=spawn", "--elastic-nprocs=1", *arguments)
    result.assert_outcomes(passed=1, failed=1)


def test_a_rank_that_cannot_collect(run):
    """A fresh interpreter that fails before it is a rank is a start error, with the end of its output."""
    result = run(
        """
        import os, pytest
        if "RANK" in os.environ:
            raise SystemExit("not in a rank")

        @pytest.mark.elastic(nprocs=1)
        def test_it(rank): pass
        """,
        "--elastic-start-method=spawn",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*StartError: rank 0 did not start: *", "*not in a rank*"])
