"""Groups that are kept: fixtures of higher scope pay once, and trouble is not handed on."""

from __future__ import annotations

import pytest

CODE = """
import os, pytest
pytestmark = pytest.mark.elastic(nprocs=2, lifetime=LIFETIME)

@pytest.fixture(scope=LIFETIME)
def costly(world):
    print("up")
    yield os.getpid()
    print("down")

def test_first(costly, world):
    assert costly == os.getpid()
    world.store.set("pid", str(os.getpid()))
    world.barrier("done")

def test_second(costly, world):
    assert int(world.store.get("pid")) > 0
    assert costly == os.getpid()
    world.barrier("done")
"""


@pytest.mark.parametrize("lifetime", ["module", "session"])
def test_kept(run, lifetime):
    """One set-up and one tear-down per rank; the same process and store throughout."""
    result = run(CODE.replace("LIFETIME", repr(lifetime)), "-s")
    result.assert_outcomes(passed=2)
    assert [
        result.stdout.str().count(f"[rank{rank}]:{word}") for rank in (0, 1) for word in ("up", "down")
    ] == [1] * 4


def test_default_is_fresh(run):
    """Without a lifetime every test has processes of its own."""
    run(
        """
        import os, pytest
        mine = []

        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(rank, turn):
            mine.append(turn)
            assert mine == [turn]
        """
    ).assert_outcomes(passed=2)


def test_classes_do_not_share_and_functions_have_ranks_of_their_own(run):
    """`lifetime="class"` ends with the class, also of unittest; outside of classes it is a test's."""
    run(
        """
        import os, unittest
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="class")
        seen = []

        class TestOne:
            def test_a(self, world):
                seen.append(1)
                world.store.set("from a", "1")

            def test_b(self, world):
                assert seen == [1]
                assert world.store.get("from a") == b"1"

        class TestTwo(unittest.TestCase):
            def test_a(self):
                assert not seen
                seen.append(2)

            def test_b(self):
                assert seen == [2]

        @pytest.mark.parametrize("turn", [1, 2])
        def test_function(turn, world):
            assert not seen
            seen.append(turn)
        """
    ).assert_outcomes(passed=6)


def test_modules_do_not_share(run):
    """`lifetime="module"` ends with the module; `"session"` does not."""
    code = """
        import os, pytest

        @pytest.mark.elastic(nprocs=1, lifetime="{}")
        def test_it(world, request):
            world.store.append("seen", "x")
            assert len(world.store.get("seen")) == {}
        """
    run(code.format("module", 1), test_a=code.format("module", 1)).assert_outcomes(passed=2)


def test_session_spans_modules(run):
    """The same group serves both files."""
    code = """
        import pytest

        @pytest.mark.elastic(nprocs=1, lifetime="session")
        def test_it(world):
            world.store.append("seen", "x")
            assert len(world.store.get("seen")) == {}
        """
    run(code.format(2), test_a=code.format(1)).assert_outcomes(passed=2)


@pytest.mark.parametrize("trouble", ["assert 0", "os.kill(os.getpid(), 9)", "time.sleep(100)"])
def test_trouble_is_not_handed_on(run, trouble):
    """A group that failed, died or hung is replaced before the next test."""
    result = run(
        f"""
        import os, time, pytest
        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module", timeout=1)

        def test_first(world):
            world.store.set("left", "over")

        def test_trouble(rank):
            if rank:
                {trouble}

        def test_next(world):
            assert not world.store.check(["left"])
            world.barrier()
        """
    )
    result.assert_outcomes(passed=2, failed=1)


def test_an_unclean_end_is_the_last_tests(run):
    """What goes wrong when a kept group ends is a failure of the last test that used it."""
    result = run(
        """
        import atexit, os, pytest
        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module")

        def test_first(rank):
            atexit.register(os._exit, 5)

        def test_last(rank):
            pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_last - ranks 0-1 exited with code 5*"])


def test_stopped_run_ends_kept_groups(run):
    """`-x` leaves nobody behind."""
    run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="session")

        def test_first(rank): pass
        def test_ordinary_failure(rank): assert 0
        def test_never(rank): pass
        """,
        "-x",
    ).assert_outcomes(passed=1, failed=1)
