"""Threads of ranks that errors of the store or of a group call have ended: pytest alone would only warn of them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

THREADS = """
import threading
import pytest

def in_thread(work, **options):
    thread = threading.Thread(target=work, **options)
    thread.start()
    thread.join()

@pytest.mark.elastic(nprocs=2)
def test_daemon_that_is_joined(world):
    if world.rank == 0:
        in_thread(lambda: world.store.wait(["never"]), daemon=True)

@pytest.mark.elastic(nprocs=2)
def test_hang(world):
    if world.rank == 0:
        in_thread(lambda: world.store.wait(["never"]))

def test_function(elastic):
    def work(rank, world_size):
        if rank == 0:
            in_thread(lambda: __import__("pytest_elastic").current_world().store.wait(["never"]))

    elastic.run(work, nprocs=2)

@pytest.mark.elastic(nprocs=2)
def test_its_own_error_leads(world):
    if world.rank == 0:
        in_thread(lambda: world.store.wait(["never"]))
        raise ValueError("boom")

@pytest.mark.elastic(nprocs=2)
def test_watcher_that_is_a_daemon(world):
    if world.rank == 0:
        threading.Thread(target=lambda: world.store.wait(["stop"], 200), daemon=True).start()
    with pytest.raises(RuntimeError):
        world.store.wait(["nobody"], 300)

@pytest.mark.elastic(nprocs=2)
def test_handled(world):
    def work():
        with pytest.raises(RuntimeError):
            world.store.wait(["never"])

    in_thread(work)

@pytest.mark.elastic(nprocs=2)
def test_other_errors_are_warnings(world):
    in_thread(lambda: 1 / 0)
"""


def test_a_hang_that_ended_a_thread_fails_the_test(run):
    result = run(THREADS)
    result.assert_outcomes(failed=4, passed=3, warnings=5)
    result.stdout.fnmatch_lines(
        [
            "_* test_daemon_that_is_joined _*",
            "E*DistStoreError: Wait timeout after 300000 ms, missing keys: 'never'",
            "_* test_hang _*",
            "1 of 2 ranks failed: rank 0 alone",
            "E*DistStoreError: Wait timeout after 300000 ms, missing keys: 'never'",
            "HANG  1 of 2 ranks can never go on *",
            "_* test_function _*",
            "*DistStoreError: Wait timeout after 300000 ms, missing keys: 'never'*",
            "_* test_its_own_error_leads _*",
            "E*ValueError: boom",
        ]
    )


MISMATCH = """
import threading
import pytest, torch
import torch.distributed as dist

@pytest.mark.elastic(nprocs=2)
def test_mismatch(process_group, rank):
    work = threading.Thread(target=lambda: dist.all_reduce(torch.ones(2 + rank)), daemon=True)
    work.start()
    work.join()

@pytest.mark.elastic(nprocs=2)
def test_match(process_group, rank):
    work = threading.Thread(target=lambda: dist.all_reduce(torch.ones(2)))
    work.start()
    work.join()
"""


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_mismatch_that_ended_a_thread_fails_the_test(run):
    result = run(MISMATCH)
    result.assert_outcomes(failed=1, passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "2 of 2 ranks failed: ranks 0-1 alike",
            "MISMATCH  2 ranks called call #0 of group world with another size *",
        ]
    )


JOINED = """
import threading
from concurrent.futures import ThreadPoolExecutor
import pytest

@pytest.mark.elastic(nprocs=2, timeout=100)
def test_joined(world):
    world.barrier("begin")
    if world.rank == 0:
        thread = threading.Thread(target=world.barrier, args=("end",))
        thread.start()
        thread.join()

@pytest.mark.elastic(nprocs=3, timeout=100)
def test_pool(world):
    world.barrier("begin")
    if world.rank == 0:
        with ThreadPoolExecutor() as pool:
            pool.submit(world.barrier, "end")
    elif world.rank == 1:
        world.barrier("end")

def test_function(elastic):
    def work(rank, world_size):
        from pytest_elastic import current_world

        current_world().barrier("begin")
        if rank == 0:
            with ThreadPoolExecutor() as pool:
                pool.submit(current_world().barrier, "end")

    elastic.run(work, nprocs=2, timeout=100)

@pytest.mark.elastic(nprocs=2, timeout=100)
def test_time_outs_before_the_tests_own(world):
    found = []

    def work():
        with pytest.raises(RuntimeError):
            world.store.wait(["never"], 1)
        found.append(world.rank)

    world.barrier("begin")
    if world.rank == 0:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [0]
"""


def test_a_hang_of_a_thread_that_is_waited_for_ends_the_test_at_once(run):
    """Where its time-outs come before the test's, they are waited for."""
    result = run(JOINED)
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "rank 0 can never go on (1 of 2 ranks failed)",
            '*cause: rank 1 passed after 1 barrier; rank 0 is at number 2, "end"',
            "ranks 0-1 can never go on (2 of 3 ranks failed)",
            '*cause: rank 2 passed after 1 barrier; ranks 0-1 are at number 2, "end"',
            "*1 of 2 ranks can never go on*",
        ]
    )
