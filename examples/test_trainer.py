"""Three hangs of a trainer with DDP, and the cause that the report names; the repaired one is proved right.

To see the whole reports: `pytest --runxfail examples/test_trainer.py`.
"""

import pytest

from pytest_elastic.simulator import RankFailed, Verdict, explore, prove, torch_ranks

pytest.importorskip("torch")

from torch.distributed import init_process_group
from trainer import EarlyStopTrainer, LonelyValidationTrainer, Trainer, UnevenTrainer

on_ranks = pytest.mark.elastic(nprocs=3)
hangs = pytest.mark.xfail(strict=True, reason="it hangs")


@on_ranks
def test_the_repaired_trainer(process_group, rank, world_size):
    Trainer(rank, world_size).fit()


@on_ranks
@hangs
def test_uneven_data(process_group, rank, world_size):
    """CollectiveMismatch: call #15 of group world has another operation:

    rank 2 calls all_reduce(float32[], SUM) at trainer.py:45,
    ranks 0-1 call broadcast(float32[8], from 0) at trainer.py:26.
    """
    UnevenTrainer(rank, world_size).fit()


@on_ranks
@hangs
def test_validation_on_one_rank(process_group, rank, world_size):
    """CollectiveMismatch: call #15 of group world has another operation:

    rank 0 calls broadcast(float32[8], from 0) at trainer.py:61,
    ranks 1-2 call all_reduce(float32[], SUM) at trainer.py:45.
    """
    LonelyValidationTrainer(rank, world_size).fit()


@on_ranks
@hangs
def test_early_stop(process_group, rank, world_size):
    """CountMismatch: rank 1 passed after 15 collectives;

    rank 0 is in the 16th, broadcast #15 of group world (trainer.py:26).
    """
    EarlyStopTrainer(rank, world_size).fit()


# Without processes, every order in which ranks can come.


def simulated(trainer):
    @torch_ranks
    def fit(rank, world_size, store):
        init_process_group("gloo")
        trainer(rank, world_size).fit()

    return fit


@pytest.mark.parametrize("trainer", [UnevenTrainer, LonelyValidationTrainer])
def test_a_mismatch_is_found_in_the_simulator(trainer):
    with pytest.raises(RankFailed, match=r"call #15 of group world has another operation"):
        explore(simulated(trainer), ranks=3)


def test_an_early_stop_is_found_in_the_simulator():
    with pytest.raises(Verdict) as info:
        explore(simulated(EarlyStopTrainer), ranks=3)
    assert any("cause: rank 1 passed after 15 collectives" in note for note in info.value.__notes__)


def test_the_repaired_trainer_never_hangs():
    assert prove(simulated(Trainer), ranks=3).exhausted
