"""The line for each failure at the end of a run: its cause, in every style of traceback."""

from __future__ import annotations

import pytest

CODE = """
    import os, threading
    import pytest
    pytestmark = pytest.mark.elastic(nprocs=3, timeout=20)

    def test_followers(world):
        if world.rank == 1:
            raise ValueError("no data")
        world.barrier("epoch3")

    def test_hang(world):
        if world.rank == 1:
            world.barrier("b")

    def test_key(world):
        if world.rank == 1:
            raise ValueError("no data")
        world.store.get("shard")

    def test_alike():
        assert 1 == 2, "twice"

    def test_one_rank():
        assert 1 == 2, "once"
    test_one_rank = pytest.mark.elastic(nprocs=1)(test_one_rank)

    def test_dies(rank):
        os._exit(3) if rank == 2 else None

    def test_waits_outside(rank):
        threading.Event().wait()
    test_waits_outside = pytest.mark.elastic(nprocs=1, timeout=1)(test_waits_outside)

    def test_error_of_the_package():
        from pytest_elastic.errors import DistStoreError
        raise DistStoreError("the store has been closed")

    @pytest.fixture
    def broken(rank):
        assert rank != 2

    def test_in_setup(broken):
        pass
    """
LINES = [
    'FAILED *::test_followers - rank 1: ValueError: no data (barrier "epoch3" never complete)',
    'FAILED *::test_hang - rank* 0, 2 passed without joining "b"*',
    'FAILED *::test_key - rank 1: ValueError: no data ("shard" never set)',
    "FAILED *::test_alike - ranks 0-2: AssertionError: twice",
    "FAILED *::test_one_rank - AssertionError: once",
    "FAILED *::test_dies - rank 2 exited with code 3 without a report",
    "FAILED *::test_waits_outside - rank 0 waits for an event of another thread at *",
    "FAILED *::test_error_of_the_package - ranks 0-2: DistStoreError: the store has been closed",
    "ERROR *::test_in_setup - rank 2: assert 2 != 2",
]


@pytest.mark.parametrize("style", ["auto", "line", "native"])
def test_the_summary_says_the_cause(run, style):
    """Whose failure it is, what it was, and what never happened for it."""
    result = run(CODE, f"--tb={style}")
    result.assert_outcomes(failed=8, errors=1)
    result.stdout.fnmatch_lines(LINES, consecutive=False)
    if style == "native":
        result.stdout.fnmatch_lines(
            ["3 of 3 ranks failed: rank 1 first", "Traceback (most recent call last):"]
        )


def test_workers_of_xdist_send_it(run):
    """The report is text between processes."""
    pytest.importorskip("xdist")
    result = run(CODE, "-p", "xdist", "-n", "1")
    for line in LINES:
        result.stdout.fnmatch_lines([line])
