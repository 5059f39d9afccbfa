"""Three hangs of a trainer with DDP, with the cause that the report names; the repaired trainer has none.

To see the whole reports: `pytest --runxfail examples/test_trainer.py`.
"""

import pytest

pytest.importorskip("torch")

from trainer import EarlyStopTrainer, LonelyValidationTrainer, Trainer, UnevenTrainer

pytestmark = pytest.mark.elastic(nprocs=3)
hangs = pytest.mark.xfail(strict=True, reason="it hangs")


def test_the_repaired_trainer(process_group, rank, world_size):
    Trainer(rank, world_size).fit()


@hangs
def test_uneven_data(process_group, rank, world_size):
    """CollectiveMismatch: call #15 of group world has another operation:

    rank 2 calls all_reduce(float32[], SUM) at trainer.py:45,
    ranks 0-1 call broadcast(float32[8], from 0) at trainer.py:26.
    """
    UnevenTrainer(rank, world_size).fit()


@hangs
def test_validation_on_one_rank(process_group, rank, world_size):
    """CollectiveMismatch: call #15 of group world has another operation:

    rank 0 calls broadcast(float32[8], from 0) at trainer.py:61,
    ranks 1-2 call all_reduce(float32[], SUM) at trainer.py:45.
    """
    LonelyValidationTrainer(rank, world_size).fit()


@hangs
def test_early_stop(process_group, rank, world_size):
    """CountMismatch: rank 1 passed after 15 collectives;

    rank 0 is in the 16th, broadcast #15 of group world (trainer.py:26).
    """
    EarlyStopTrainer(rank, world_size).fit()
