"""Verdicts on ranks of torch that are no plain hangs: late ranks, busy threads, and hangs that nobody looked at."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

LATE = """
import datetime, faulthandler, signal, time
import pytest, torch
import torch.distributed as dist

def begin():
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=1))
    dist.barrier()

@pytest.mark.elastic(nprocs=3)
def test_slow_and_then_broken(world):
    begin()
    if world.rank == 1:
        time.sleep(1.2)
        raise ValueError("corrupt shard")
    dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=3)
def test_asleep(world):
    begin()
    if world.rank == 1:
        time.sleep(60)
    dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=3)
def test_time_out_that_is_expected(world):
    begin()
    if world.rank == 1:
        time.sleep(1.2)
    else:
        with pytest.raises(dist.DistBackendError):
            dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=3)
def test_with_a_handler_that_only_c_has(world):
    faulthandler.register(signal.SIGUSR2)
    begin()
    for _ in range(0 if world.rank == 1 else 1):
        dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=2, timeout=20)
def test_no_time_at_all(world):
    dist.init_process_group("gloo")
    if world.rank == 0:
        with pytest.raises(RuntimeError):
            dist.group.WORLD.monitored_barrier(datetime.timedelta(0))
    else:
        time.sleep(0.5)
    world.barrier()
"""


def test_who_did_not_come_in_time_is_named(run):
    """Its own error leads, and where it has none it is told what it does."""
    result = run(LATE, "--elastic-timeout=60")
    result.assert_outcomes(failed=3, passed=2)
    result.stdout.fnmatch_lines(
        [
            "3 of 3 ranks failed: rank 1 first",
            "E*ValueError: corrupt shard",
            "TIMEOUT  2 of 3 ranks waited for a collective until their time was up",
            "  all_reduce #1 of group world, float32[[]2] SUM: joined 0, 2 (*); absent 1 (failed: ValueError: *",
            "  cause: rank 1 failed after 1 collective; ranks 0, 2 timed out after 1 s in the second, *",
            "2 of 3 ranks failed: ranks 0, 2 alike; rank 1 was stopped",
            "  cause: rank 1 sleeps at *.py:* after 1 collective; ranks 0, 2 timed out after 1 s in the second, *",
            "HANG  2 of 3 ranks can never go on (known * after the last event; the group's timeout is 1 s)",
            "  cause: rank 1 passed after 1 collective; ranks 0, 2 are in the second, *",
        ]
    )


BUSY = """
import threading
import pytest
import torch.distributed as dist

class Trainer:
    def prefetch(self):
        while True:
            sum(range(1000))

    def step(self):
        dist.barrier()

@pytest.mark.elastic(nprocs=2)
def test_busy(process_group, rank):
    trainer = Trainer()
    if rank == 0:
        threading.Thread(target=trainer.prefetch, daemon=True).start()
        trainer.step()
"""


def test_a_busy_thread_beside_a_collective_does_not_hide_a_hang(run):
    """Though it could reach the group, it cannot come to the call in the place of the rank that is gone."""
    result = run(BUSY, "--elastic-timeout=50")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "HANG*1 of 2 ranks can never go on (known *",
            "*cause: rank 1 passed without joining barrier #0 of group world (*), in which rank 0 waits",
        ]
    )


OFF = """
import os, queue, sys
import pytest, torch
import torch.distributed as dist
sys.path.insert(0, os.path.abspath("site-packages"))
from mpi4py import MPI

@pytest.mark.elastic(nprocs=2, timeout=2)
def test_passed(process_group, rank):
    if rank == 0:
        dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=2, timeout=2)
def test_own_queue(process_group, rank):
    if rank == 1:
        queue.Queue().get()
    dist.all_reduce(torch.ones(2))

@pytest.mark.elastic(nprocs=2, timeout=1)
def test_mpi(rank):
    if rank == 0:
        MPI.COMM_WORLD.Barrier()
"""

MPI = """
class Comm:
    def Barrier(self):
        while True:  # As MPI does, which waits at work.
            pass

COMM_WORLD = Comm()
"""


def test_a_hang_that_nobody_looked_at_names_no_victim(run, pytester):
    """The frames of libraries tell what ranks wait for."""
    package = pytester.mkdir("site-packages") / "mpi4py"
    package.mkdir()
    (package / "MPI.py").write_text(MPI, "utf-8")
    result = run(OFF, "--elastic-collectives=off")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "  suspected cause: rank 1 passed, while rank 0 waits in all_reduce at *.py:10",
            "  suspected cause: rank 1 waits for an item of a queue at *.py:15, *, while rank 0 waits in all_reduce *",
            "  suspected cause: rank 1 passed, while rank 0 waits in MPI's Barrier at *.py:21",
        ]
    )
