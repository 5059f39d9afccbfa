"""What goes wrong in collectives on ranks: each kind of difference, ranks that stay away, circles of messages."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

HEAD = """
import contextlib, os, time
import pytest, torch
import torch.distributed as dist
from pytest_elastic.errors import CollectiveMismatch, CollectiveTimeout

mode = os.environ["MODE"]
three = pytest.mark.elastic(nprocs=3, collectives=mode)
ones = torch.ones

def differs(function, difference, ranks, group="world", number=0):
    with pytest.raises(CollectiveMismatch) as caught:
        function()
    error = caught.value
    assert isinstance(error, dist.DistBackendError)
    assert (error.group, error.number, error.difference) == (group, number, difference), error
    assert set(ranks) <= set(error.ranks), error
    return error
"""

MISMATCHES = (
    HEAD
    + """
def calls(one, other, rank):
    return one if rank == 1 else other

@three
def test_operation(process_group, rank):
    def call():
        dist.barrier() if rank == 1 else dist.all_reduce(ones(4))
    error = differs(call, "operation", [1])
    assert error.calls[1].startswith("barrier() at ")
    assert __file__ in error.calls[1]

@three
def test_root(process_group, rank):
    def call():
        dist.broadcast(ones(4), src=calls(1, 0, rank))
    if rank == 1:
        differs(call, "root", [1])
    else:  # They need nobody but each other, and may have met before rank 1 comes.
        with contextlib.suppress(CollectiveMismatch):
            call()

@three
def test_a_rank_that_is_not_there(process_group):
    for call in (
        lambda: dist.broadcast(ones(4), src=7), lambda: dist.broadcast(ones(4), src=-1),
        lambda: dist.reduce(ones(4), dst=3), lambda: dist.scatter(ones(4), src=3),
        lambda: dist.send(ones(4), 5), lambda: dist.recv(ones(4), -2),
    ):
        with pytest.raises((RuntimeError, ValueError), match="rank"):
            call()
    dist.barrier()

@three
def test_reduction(process_group, rank):
    dist.all_reduce(ones(4))
    op = calls(dist.ReduceOp.MAX, dist.ReduceOp.SUM, rank)
    differs(lambda: dist.all_reduce(ones(4), op=op), "reduction", [1], number=1)

@three
def test_dtype(process_group, rank):
    dtype = calls(torch.float64, torch.float32, rank)
    differs(lambda: dist.all_reduce(ones(4, dtype=dtype)), "dtype", [1])

@three
def test_size(process_group, rank):
    differs(lambda: dist.all_reduce(ones(calls(8, 4, rank))), "size", [1])

@three
def test_shapes_of_one_size_are_alike(process_group, rank):
    tensor = calls(ones(2, 3), ones(6), rank)
    dist.all_reduce(tensor)
    assert tensor.sum() == 18

@three
def test_lists_of_all_gather(process_group, rank):
    outs = [torch.zeros(calls(4, 5, rank)) for _ in range(3)]
    differs(lambda: dist.all_gather(outs, ones(calls(4, 5, rank))), "size", [1])

@three
def test_splits(process_group, rank):
    def call():
        outs, ins = torch.zeros(3), ones(4 if rank == 0 else 3)
        dist.all_to_all_single(outs, ins, [1, 1, 1], [1, 2, 1] if rank == 0 else [1, 1, 1])
    if rank == 2:
        with pytest.raises(CollectiveMismatch, match="rank 0: sends 2 elements to rank 1"):
            call()
    else:
        error = differs(call, "size", [0, 1])
        assert error.calls == {0: "sends 2 elements to rank 1", 1: "expects 1 from rank 0"}

@three
def test_gather_of_another_size(process_group, rank):
    outs = [torch.zeros(4) for _ in range(3)] if rank == 0 else None
    def call():
        dist.gather(ones(calls(8, 4, rank)), outs, dst=0)
    if rank == 2 and mode == "check":  # It needs the root only: before rank 1 has come it passes.
        with contextlib.suppress(CollectiveMismatch):
            call()
    else:
        differs(call, "size", [1])

@three
def test_asynchronous(process_group, rank):
    def call():
        tensors = [ones(4), ones(8)]
        works = [dist.all_reduce(one, async_op=True) for one in (tensors[::-1] if rank == 1 else tensors)]
        for work in works:
            work.wait()
    differs(call, "size", [1])

@three
def test_future(process_group, rank):
    op = calls(dist.ReduceOp.MAX, dist.ReduceOp.SUM, rank)
    differs(lambda: dist.all_reduce(ones(4), op=op, async_op=True).get_future(), "reduction", [1])

@three
def test_objects(process_group, rank):
    def call():
        found = [None] * 3
        dist.all_gather_object(found, rank) if rank == 1 else dist.broadcast_object_list(found, 0)
    if rank == 2:  # It needs the root only: in its second broadcast it may find that gone.
        with pytest.raises((CollectiveMismatch, CollectiveTimeout)):
            call()
    else:
        differs(call, "operation", [1])

@three
def test_groups_in_another_order(process_group, rank):
    orders = [[0, 1], [1, 2]]
    def call():
        for ranks in orders[::-1] if rank == 1 else orders:
            dist.new_group(ranks)
    with pytest.raises((CollectiveMismatch, CollectiveTimeout), match=r"new_group\\(ranks="):
        call()  # Rank 2 may have passed the first one, to which it does not belong.

@three
def test_message_of_another_size(process_group, rank):
    if rank == 0:
        differs(lambda: dist.send(ones(4), 1), "size", [0, 1], "world:0>1,0")
    elif rank == 1:
        differs(lambda: dist.recv(torch.zeros(8), 0), "size", [0, 1], "world:0>1,0")

@three
def test_message_of_another_dtype_from_any_source(process_group, rank):
    if rank == 0:
        differs(lambda: dist.send(ones(4), 1), "dtype", [0, 1], "world:0>1,0")
    elif rank == 1:
        differs(lambda: dist.recv(torch.zeros(4, dtype=torch.int32)), "dtype", [1], "world:*>1,0")

@three
def test_ddp_of_other_models(process_group, rank):
    net = torch.nn.Linear(4, 4 + (rank == 1))
    with pytest.raises(RuntimeError):
        torch.nn.parallel.DistributedDataParallel(net)
        assert rank != 1
        raise RuntimeError("others may pass")
"""
)

ABSENCES = (
    HEAD
    + """
def stays_away(function, ranks, group="world", number=0):
    began = time.monotonic()
    with pytest.raises(CollectiveTimeout) as caught:
        function()
    error = caught.value
    assert isinstance(error, dist.DistBackendError)
    assert (error.group, error.number, error.ranks) == (group, number, ranks), error
    assert time.monotonic() - began < 50  # And not gloo's half an hour.

@three
def test_one_call_less(process_group, rank):
    dist.all_reduce(ones(2))
    if rank != 1:
        stays_away(lambda: dist.all_reduce(ones(2)), [1], number=1)

@three
def test_asynchronous(process_group, rank):
    if rank != 1:
        work = dist.all_reduce(ones(2), async_op=True)
        assert not work.is_completed()
        stays_away(work.wait, [1])
        assert not work.is_success()

@three
def test_barrier_of_the_first_rank(process_group, rank):
    if rank == 0:
        stays_away(dist.barrier, [1, 2])

@three
def test_monitored_barrier(process_group, rank):
    if rank != 2:
        stays_away(dist.monitored_barrier, [2])

@three
def test_broadcast_without_its_root(process_group, rank):
    if rank:
        stays_away(lambda: dist.broadcast(ones(2), 0), [0])

@three
def test_send_that_nobody_receives(process_group, rank):
    if rank == 0:
        stays_away(lambda: dist.send(ones(2), 1), [1], "world:0>1,0")

@three
def test_two_sends_for_each_other(process_group, rank):
    if rank < 2:
        dist.send(ones(2), 1 - rank) if rank == 2 else None
        other = 1 - rank
        with pytest.raises((CollectiveTimeout, CollectiveMismatch)) as caught:
            dist.send(ones(2), other)
            dist.recv(ones(2), other)
            raise CollectiveTimeout("the other one", 0, {}, [], 0.0)  # Who is freed may find the other gone.
        assert caught.value.ranks in ([other], [])

@three
def test_group_that_others_do_not_make(process_group, rank):
    if rank == 0:
        stays_away(lambda: dist.new_group([0, 1]), [1], "world new_group")

@pytest.mark.elastic(nprocs=3, collectives=mode)
def test_init(rank):
    if rank != 1:
        with pytest.raises(CollectiveTimeout) as caught:
            dist.init_process_group("gloo")
        assert caught.value.ranks == [1]

@pytest.mark.elastic(nprocs=3, collectives=mode)
def test_init_of_another_size(rank):
    with pytest.raises((CollectiveMismatch, CollectiveTimeout)):
        dist.init_process_group("gloo", rank=rank, world_size=2 if rank == 0 else 3)

@pytest.mark.elastic(nprocs=2, collectives=mode, expect={1: 7})
def test_a_rank_dies_with_64_mib_in_its_hands(process_group, rank):
    from pytest_elastic.collectives import _exchange
    dist.barrier()
    if rank == 1 and mode == "carry":
        _exchange._sum_up_slices = lambda *arguments: os._exit(7)  # It has given, and has not read.
    if rank == 1 and mode == "check":
        os._exit(7)
    with pytest.raises((CollectiveTimeout, RuntimeError)):
        dist.all_reduce(ones(16 * 2**20))
        dist.barrier()
    assert not [name for name in os.listdir("/dev/shm") if "elastic" in name]  # Others' come and go.
"""
)


@pytest.mark.parametrize("mode", ["check", "carry"])
def test_calls_that_differ(run, monkeypatch, mode):
    """A mismatch is an error of torch's and of ours in all ranks that call, with the field that differs."""
    monkeypatch.setenv("MODE", mode)
    run(MISMATCHES, "--elastic-timeout=60", seconds=300).assert_outcomes(passed=MISMATCHES.count("def test_"))


@pytest.mark.parametrize("mode", ["check", "carry"])
def test_ranks_that_stay_away(run, monkeypatch, mode):
    """Those who wait are told whom they lack, as soon as nobody can come any more."""
    monkeypatch.setenv("MODE", mode)
    run(ABSENCES, "--elastic-timeout=60", seconds=300).assert_outcomes(passed=ABSENCES.count("def test_"))
