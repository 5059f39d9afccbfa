"""Adopted processes that torch makes ranks of one world: checked like ranks, and never a cause of hangs."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

ON = "--elastic-adopt=processes"
TARGETS = """
import datetime
import os
import signal
import sys
import time

import torch
import torch.distributed as dist

def begin(rank, size, file, seconds=300):
    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timeout)

def add(rank):
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)
    return int(total)

def by_file(rank, size, file):
    begin(rank, size, file)
    assert add(rank) == sum(range(size))
    dist.destroy_process_group()

def by_environment(rank, size, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    assert add(rank) == sum(range(size))
    pair = dist.new_group([0, 1])
    if rank < 2:
        dist.all_reduce(torch.ones(1), group=pair)
    dist.destroy_process_group()

def by_store_twice(rank, size, file):
    for turn in range(2):
        store = dist.FileStore(f"{file}{turn}", size)
        if turn:
            store = dist.PrefixStore("deep", store)
        dist.init_process_group("gloo", store=store, rank=(rank + turn) % size, world_size=size)
        assert add(rank) == sum(range(size))
        dist.barrier()
        dist.destroy_process_group()

def less(rank, size, file, seconds=300):
    begin(rank, size, file, seconds)
    for _ in range(1 if rank == 1 else 2):
        dist.all_reduce(torch.ones(4))

def die(rank, size, file):
    begin(rank, size, file)
    dist.all_reduce(torch.ones(4))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(4))

def die_before(rank, size, file):
    if rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    by_file(rank, size, file)

def pass_before(rank, size, port):
    if rank != 1:
        by_environment(rank, size, port)

def die_before_store(rank, size, file):
    if rank == 1:
        sys.exit(7)
    store = dist.PrefixStore("deep", dist.FileStore(file, size))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)

def die_between(rank, size, file):
    by_file(rank, size, file)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    by_file(rank, size, f"{file}.2")

def late(rank, size, file):
    time.sleep(3 if rank == 2 else 0)
    by_file(rank, size, file)

def differ(rank, size, file):
    begin(rank, size, file)
    dist.all_reduce(torch.ones(3 if rank == 1 else 4))
"""
START = """
import multiprocessing, threading, time
import pytest, targets, torch.distributed as dist
import torch.multiprocessing as mp

def start(function, *arguments, ranks=range(3), size=3):
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=function, args=(rank, size, *arguments)) for rank in ranks]
    for one in started:
        one.start()
    return started

def codes(processes):
    for one in processes:
        one.join()
    return [one.exitcode for one in processes]
"""
RIGHT = """
def test_file(tmp_path):
    assert codes(start(targets.by_file, tmp_path / "a")) == [0, 0, 0]
    assert "elastic family" not in [thread.name for thread in threading.enumerate()]

def test_environment():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    mp.spawn(targets.by_environment, args=(3, port), nprocs=3)

def test_store_twice_with_other_ranks(tmp_path):
    assert codes(start(targets.by_store_twice, str(tmp_path / "c"))) == [0, 0, 0]

def test_two_worlds_at_once(tmp_path):
    one, other = (start(targets.by_file, tmp_path / name, size=2, ranks=range(2)) for name in "de")
    assert codes(one + other) == [0] * 4

def test_a_rank_in_pytest_itself(tmp_path):
    others = start(targets.by_file, tmp_path / "f", size=2, ranks=[1])
    targets.by_file(0, 2, tmp_path / "f")
    assert codes(others) == [0]

def test_a_process_that_has_ended_before_it_is_looked_at(monkeypatch, tmp_path):
    from pytest_elastic.adoption import _family

    def gone(pid):
        raise ProcessLookupError

    with monkeypatch.context() as patched:
        patched.setattr(_family.os, "pidfd_open", gone)
        processes = start(targets.by_file, tmp_path / "i", ranks=[0], size=1)
    assert type(processes[0]._popen).__name__ == "AdoptedPopen"
    assert codes(processes) == [0]

def test_a_helper_that_has_failed_and_a_rank_that_comes_late(tmp_path):
    helper = multiprocessing.get_context("spawn").Process(target=time.strptime, args=("", "%Y"))
    ranks = start(targets.late, tmp_path / "l")
    helper.start()
    assert codes([*ranks, helper]) == [0, 0, 0, 1]

def test_a_rank_that_is_started_in_place_of_one_that_died(tmp_path):
    ranks = start(targets.die_before, tmp_path / "m")
    assert codes(ranks[1:2]) == [-9]
    again = start(targets.by_file, tmp_path / "m", ranks=[1])
    assert codes([ranks[0], *again, ranks[2]]) == [0, 0, 0]

def test_a_rank_that_is_started_again(tmp_path):
    broken = start(targets.die, tmp_path / "g")
    assert codes(broken) == [1, -9, 1]
    assert codes(start(targets.by_file, tmp_path / "h")) == [0, 0, 0]
"""
WRONG = """
def test_less(tmp_path):
    assert codes(start(targets.less, tmp_path / "a")) == [0, 0, 0]

def test_die(tmp_path):
    assert codes(start(targets.die, tmp_path / "b")) == [0, 0, 0]

def test_differ(tmp_path):
    mp.spawn(targets.differ, args=(3, tmp_path / "c"), nprocs=3)
"""
BEFORE = """
def test_die_before(tmp_path):
    assert codes(start(targets.die_before, tmp_path / "a")) == [0, 0, 0]

def test_pass_before():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    assert codes(start(targets.pass_before, port)) == [0, 0, 0]

def test_die_between(tmp_path):
    assert codes(start(targets.die_between, tmp_path / "d")) == [0, 0, 0]

def test_die_before_store(tmp_path):
    processes = start(targets.die_before_store, str(tmp_path / "c"))
    while any(one.is_alive() for one in processes):
        time.sleep(0.1)
    assert codes(processes) == [0, 0, 0]
"""


def test_worlds_work_as_they_do_without_adoption(run_with_libraries):
    """By a file, the environment and a store; twice, two at once, with a rank that nobody sees, late or anew."""
    result = run_with_libraries(START + RIGHT, ON, "-p", "no:cacheprovider", targets=TARGETS)
    result.assert_outcomes(passed=9)


def test_what_does_not_fit_is_named_as_for_ranks_at_once(run_with_libraries):
    """Who waits for whom and why, though the test looks at no exit code before all have ended."""
    result = run_with_libraries(START + WRONG, ON, "-p", "no:cacheprovider", targets=TARGETS)
    result.assert_outcomes(failed=3)
    assert result.duration < 150  # The groups' timeout is 300 s.
    result.stdout.fnmatch_lines(
        [
            "*- who waits for whom -*",
            "HANG  2 of 3 ranks can never go on *",
            "  all_reduce #1 of group world, float32[[]4] SUM: joined 0, 2 (targets.py:*); absent 1 (exited *",
            "  cause: rank 1 exited with code 0 after 1 collective; ranks 0, 2 are in the second, *",
            "  less targets.py:* all_reduce #1 of group world [[]0,2[]]",
            "*- adopted processes -*",
            "SpawnProcess-2 (pid *) exited with code 0 after *",
            "*- who waits for whom -*",
            "  cause: rank 1 was killed by SIGKILL before joining all_reduce #1 of group world (targets.py:*",
            "SpawnProcess-5 (pid *) was killed by SIGKILL after *",
            "*- who waits for whom -*",
            "  cause: call #0 of group world has another size: rank 1 calls all_reduce(float32[[]3], SUM) at targets.*",
        ]
    )


def test_who_dies_before_the_others_could_connect_ends_their_wait_at_once_and_is_the_cause(
    run_with_libraries,
):
    """By a signal, by an exit, by a return, and after another world: torch alone would wait for 300 s and more."""
    result = run_with_libraries(START + BEFORE, ON, "-p", "no:cacheprovider", targets=TARGETS)
    result.assert_outcomes(failed=4)
    assert result.duration < 100
    result.stdout.fnmatch_lines(
        [
            "*- who waits for whom -*",
            "HANG  2 of 3 ranks can never go on",
            "  init_process_group of init file://*/a: joined 0, 2; absent 1",
            "  cause: SpawnProcess-2 (pid *) was killed by SIGKILL after *, before init_process_group",
            "*- adopted processes -*",
            "SpawnProcess-2 (pid *) was killed by SIGKILL after *",
            "SpawnProcess-? (pid *) exited with code 1 after *",
            "  cause: SpawnProcess-5 (pid *) exited with code 0 after *, before init_process_group",
            "  init_process_group of init file://*/d.2: joined 0, 2; absent 1",
            "  cause: SpawnProcess-8 (pid *) was killed by SIGKILL after *, before init_process_group",
            "  cause: SpawnProcess-11 (pid *) exited with code 7 after *, before init_process_group",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "*CollectiveTimeout: call #0 of group init file:*: rank 1 did not come*: SpawnProcess-2 (pid *) was killed *"
            "; rank *: init_process_group(world_size=3) at *targets.py:*"
        ]
    )


def test_with_collectives_off_the_backends_own_error_comes_when_it_comes(run_with_libraries):
    """No words of ours are in it."""
    code = """
    def test_less(tmp_path):
        assert codes(start(targets.less, tmp_path / "a", 2.0)) == [0, 0, 0]
    """
    result = run_with_libraries(
        START + "".join(line[4:] for line in code.splitlines(True)),
        ON,
        "-p",
        "no:cacheprovider",
        "--elastic-collectives=off",
        targets=TARGETS,
    )
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*who waits for whom*")
    result.stdout.no_fnmatch_line("*CollectiveTimeout*")
