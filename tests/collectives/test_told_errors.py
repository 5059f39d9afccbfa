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
"""


def test_errors_tell_what_they_came_of(run):
    result = run(TOLD)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*ValueError: no data",
            "During handling of the above exception, another exception occurred:",
            "E*CollectiveMismatch: call #0 of group world has another operation: *",
        ]
    )
