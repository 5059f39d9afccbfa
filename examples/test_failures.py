"""Failures of ranks, marked as expected so that the run passes."""

import os
import time

import pytest

from pytest_elastic.errors import GroupTimeoutError, PartialSkipError, RankDiedError


@pytest.mark.elastic(nprocs=4)
@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_one_rank_fails(world):
    """Rank 2 is the cause; the others wait for it, and their timeouts pass at once."""
    parts = world.gather(world.rank)
    if world.rank == 2:
        assert sum(parts) == 7
    world.barrier("summed")


@pytest.mark.elastic(nprocs=4, timeout=1)
@pytest.mark.xfail(strict=True, raises=GroupTimeoutError)
def test_one_rank_hangs(rank):
    """After a second the report shows the stack of rank 1; the session goes on."""
    if rank == 1:
        time.sleep(100)


@pytest.mark.elastic(nprocs=4)
@pytest.mark.xfail(strict=True, raises=RankDiedError)
def test_one_rank_ends_silently(rank):
    """Exit code 0 without a report is not a success."""
    if rank == 3:
        os._exit(0)


@pytest.mark.elastic(nprocs=2)
@pytest.mark.xfail(strict=True, raises=PartialSkipError)
def test_one_rank_skips(rank):
    """Ranks that disagree about a skip are a failure that names them."""
    if rank == 0:
        pytest.skip("not on this one")


@pytest.mark.elastic(nprocs=3, expect={1: "SIGKILL"})
def test_the_others_survive_a_lost_rank(rank, tmp_path):
    """A test may declare how a rank ends."""
    if rank == 1:
        os.kill(os.getpid(), 9)
    (tmp_path / "still").write_text("here")
