"""Torch's own barrier, unmodified, in the simulator: each of its flaws in less than a second."""

import time
from datetime import timedelta

import pytest

from pytest_elastic import store as ours
from pytest_elastic.simulator import RankFailed, explore, prove, prove_kills, simulate

torchs = pytest.importorskip("torch.distributed.elastic.utils.store")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_it_synchronises(ranks):
    """The first use of a prefix is right in every schedule, and so is `synchronize`."""

    def program(rank, world_size, store):
        store.set(f"x{rank}", "1")
        torchs.barrier(store, world_size, "b")
        assert store.check([f"x{r}" for r in range(world_size)])
        return torchs.synchronize(store, str(rank).encode(), rank, world_size, "data")

    assert prove(program, min(ranks, 3)).exhausted
    data = [str(rank).encode() for rank in range(ranks)]
    assert simulate(program, ranks=ranks).check().results == [data] * ranks


def test_a_prefix_synchronises_only_once():
    """The second barrier of the same name lets every rank pass at once."""

    def program(rank, world_size, store):
        torchs.barrier(store, world_size, "epoch")
        store.set(f"x{rank}", "1")
        torchs.barrier(store, world_size, "epoch")
        assert store.check([f"x{r}" for r in range(world_size)]), "passed alone"

    with pytest.raises(RankFailed, match="passed alone"):
        explore(program, ranks=3)


@pytest.mark.parametrize("barrier", [torchs.barrier, ours.barrier], ids=["torch", "ours"])
def test_who_is_missing_when_it_is_rank_0(barrier):
    """Torch's ranks wait twice their timeout and name no rank; ours name rank 0 in time."""

    def program(rank, world_size, store):
        if rank == 0:
            return None
        try:
            barrier(store, world_size, "b", barrier_timeout=300, rank=rank)
        except RuntimeError as error:
            return round(time.monotonic()), "missing_ranks=[0]" in str(error)

    results = simulate(program, ranks=3, may_timeout=True).check().results
    slow, soon = [None, (600, False), (600, False)], [None, (310, True), (310, True)]
    assert results == (slow if barrier is torchs.barrier else soon)


@pytest.mark.parametrize("barrier", [torchs.barrier, ours.barrier], ids=["torch", "ours"])
def test_who_is_missing_when_somebody_is_late(barrier):
    """Rank 1 joins 20 s after rank 0, well in time, and rank 2 never: torch accuses both."""

    def program(rank, world_size, store):
        if rank == 2:
            return None
        time.sleep(20 * rank)
        try:
            barrier(store, world_size, "b", barrier_timeout=300, rank=rank)
        except RuntimeError as error:
            return str(error)

    error = simulate(program, ranks=3, may_timeout=True).check().results[0]
    accused = "missing_ranks=[2]" if barrier is ours.barrier else "missing_ranks=[1, 2]"
    assert accused in error.replace("[2, 1]", "[1, 2]")


def test_a_timeout_that_stays():
    """After a failed barrier the store keeps the barrier's timeout."""

    def program(rank, world_size, store):
        before = store.timeout
        with pytest.raises(RuntimeError):
            torchs.barrier(store, world_size + 1, "b", barrier_timeout=0.5)
        return before, store.timeout

    before, after = simulate(program, ranks=1, may_timeout=True).check().results[0]
    assert (before, after) == (timedelta(seconds=300), timedelta(seconds=0.5))


def test_with_every_single_kill():
    """Whichever rank dies, before whichever of its operations: no rank passes alone."""

    def program(rank, world_size, store):
        store.set(f"x{rank}", "1")
        try:
            torchs.barrier(store, world_size, "b", barrier_timeout=30)
        except RuntimeError:
            return
        assert store.check([f"x{r}" for r in range(world_size)])

    assert len(prove_kills(program, ranks=3)) == 15
