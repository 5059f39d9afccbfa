"""What the errors of group calls say to who has only read the test: causes before them, places, and who did what."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

TOLD = """
import pytest, torch
import torch.distributed as dist

@pytest.mark.elastic(nprocs=2)
def test_error_before_a_mismatch(process_group, rank):
    try:
        if rank == 1:
            raise ValueError("no data")
        dist.all_reduce(torch.ones(2))
    finally:
        dist.barrier()

@pytest.mark.elastic(nprocs=3)
def test_other_splits(process_group, rank):
    sends = [2, 1, 0] if rank == 1 else [1, 1, 1]
    dist.all_to_all_single(torch.zeros(3), torch.ones(3), [1, 1, 1], sends)

@pytest.mark.elastic(nprocs=2)
def test_two_files(rank, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/here", rank=rank, world_size=2)

@pytest.mark.elastic(nprocs=2)
def test_same_rank_twice(shared_tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{shared_tmp_path}/here", rank=0, world_size=2)
"""


def test_errors_tell_what_they_came_of(run):
    result = run(TOLD)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E*ValueError: no data",
            "During handling of the above exception, another exception occurred:",
            "E*CollectiveMismatch: call #0 of group world has another operation: *",
            "  cause: call #0 of group world has another size: rank 1 calls all_to_all_single(*; rank 1 sends 2"
            " elements to rank 0, which expects 1",
            "  cause: rank * is in init_process_group (*) by file://*/here, rank * is in * by file://*/here",
            "E*ValueError: init_process_group by file://*/here: rank * of the test comes as rank 0 of 2, and so"
            " did another one",
        ]
    )
