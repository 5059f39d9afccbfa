"""Worlds that the user makes, in every way that torch has; and what goes wrong in them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

HEAD = """
import json, os, threading
from datetime import timedelta
import pytest, torch
import torch.distributed as dist
from pytest_elastic import collectives
from pytest_elastic.errors import CollectiveMismatch, CollectiveTimeout

mode = os.environ["MODE"]
three = pytest.mark.elastic(nprocs=3, collectives=mode)
ones = torch.ones

def group_of(process_group=None):
    return collectives.current().groups[process_group or dist.group.WORLD]

def is_seen(rank, members=(0, 1, 2)):
    assert group_of().members == members
    assert group_of().carried == (mode == "carry")
    tensor = torch.tensor([2.0 ** rank])
    dist.all_reduce(tensor)
    assert tensor.item() == sum(2.0 ** member for member in members)
"""

WORLDS = (
    HEAD
    + """
@three
def test_environment(rank):
    dist.init_process_group("gloo")
    is_seen(rank)
    dist.destroy_process_group()

@three
def test_tcp(rank, elastic_store):
    if rank == 0:
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        elastic_store.set("port", str(server.port))
    port = int(elastic_store.get("port"))
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)
    is_seen(rank)

@three
def test_tcp_address(rank):
    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=3)
    is_seen(rank)

@three
def test_file(rank, shared_tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{shared_tmp_path}/f", rank=rank, world_size=3)
    is_seen(rank)

@three
def test_a_store_of_the_users_with_a_prefix(rank, shared_tmp_path):
    store = dist.PrefixStore("mine", dist.FileStore(f"{shared_tmp_path}/f", 3))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)
    is_seen(rank)

@three
def test_some_of_the_ranks_in_another_order(rank, shared_tmp_path):
    if rank == 1:
        return
    dist.init_process_group(
        "gloo", init_method=f"file://{shared_tmp_path}/f", rank=0 if rank == 2 else 1, world_size=2
    )
    assert group_of().name == "world[2,0]"
    is_seen(rank, (2, 0))
    if rank == 2:
        with pytest.raises(CollectiveTimeout) as caught:
            dist.all_reduce(ones(2))
        assert caught.value.ranks == [0]

@three
def test_two_worlds_at_a_time(rank, shared_tmp_path):
    if rank == 2:
        return
    dist.init_process_group("gloo", init_method=f"file://{shared_tmp_path}/{rank}", rank=0, world_size=1)
    assert group_of().members == (rank,)
    dist.barrier()

@three
def test_two_worlds_one_after_the_other(rank):
    for name in ("world", "world.2"):
        dist.init_process_group("gloo")
        assert group_of().name == name
        is_seen(rank)
        dist.destroy_process_group()

@three
def test_destroyed_twice(process_group, rank):
    dist.barrier()
    dist.destroy_process_group()
    with pytest.raises((AssertionError, ValueError)):
        dist.destroy_process_group()
    with pytest.raises(ValueError, match="has not been initialized"):
        dist.barrier()

@three
def test_the_function_that_the_user_called_is_told(process_group, rank, monkeypatch):
    context, told = collectives.current(), []

    class Store:
        def meet(self, *arguments):
            told.append(json.loads(arguments[4][0].partition(b"\\n")[2]))
            return store.meet(*arguments)

    store = context.store
    monkeypatch.setattr(context, "store", Store())
    dist.all_reduce(ones(1))
    dist.all_gather_object([None] * 3, rank)
    assert {(one["operation"], one["via"]) for one in told} == {
        ("all_reduce", "all_reduce"), ("all_gather", "all_gather_object"),
    }

@three
def test_a_process_that_a_rank_forks_is_not_seen(process_group, rank):
    dist.barrier()
    if (pid := os.fork()) == 0:
        os._exit(collectives.current() is not None)
    assert os.waitpid(pid, 0)[1] == 0
    is_seen(rank)

@three
def test_threads_with_groups_of_their_own(process_group, rank):
    made, found = [dist.new_group() for _ in range(3)], {}
    def work(number):
        for _ in range(20):
            tensor = torch.tensor([rank + number])
            dist.all_reduce(tensor, group=made[number])
            found.setdefault(number, set()).add(tensor.item())
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found == {0: {3}, 1: {6}, 2: {9}}
"""
)

MISTAKES = (
    HEAD
    + """
@three
def test_a_backend_that_is_not_there(rank):
    with pytest.raises((AssertionError, RuntimeError, ValueError), match="(?i)nosuch"):
        dist.init_process_group("nosuch")

@three
def test_a_store_that_is_closed(rank, elastic_store):
    from pytest_elastic.store import StoreServer, torch_store
    with StoreServer() as server:
        store = server.store()
        store.close()
    arguments = {"store": torch_store(store), "rank": rank, "world_size": 3}
    if mode == "carry":  # Which has no use for it.
        dist.init_process_group("gloo", **arguments)
        return is_seen(rank)
    with pytest.raises(RuntimeError, match="closed"):
        dist.init_process_group("gloo", **arguments)

@three
def test_a_group_of_ranks_that_are_not_ours(process_group, rank):
    with pytest.raises((RuntimeError, ValueError)):
        dist.new_group([0, 7])
    dist.barrier()

@three
def test_a_root_that_is_not_there(process_group, rank):
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        dist.broadcast(ones(2), src=7)
    dist.barrier()

@three
def test_a_device_that_the_backend_does_not_take(process_group, rank):
    if mode == "check":  # Of meta tensors torch takes no notice.
        dist.all_reduce(torch.ones(2, device="meta"))
    else:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            dist.all_reduce(torch.ones(2, device="meta"))
    is_seen(rank)

@three
def test_a_tensor_where_a_list_belongs(process_group, rank):
    with pytest.raises(TypeError):
        dist.all_gather(ones(6), ones(2))
    is_seen(rank)

@three
def test_a_list_that_is_too_short(process_group, rank):
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        dist.all_gather([ones(2)], ones(2))
    is_seen(rank)

@three
def test_a_reduction_that_the_backend_has_not(process_group, rank):
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        dist.all_reduce(ones(2), op=dist.ReduceOp.BAND)
    is_seen(rank)
"""
)


@pytest.mark.parametrize("mode", ["check", "carry"])
def test_worlds(run, monkeypatch, mode):
    """By environment, address, file and store; of some ranks, in another order, several, in threads."""
    monkeypatch.setenv("MODE", mode)
    result = run(WORLDS, "--elastic-timeout=60", seconds=300)
    result.assert_outcomes(passed=WORLDS.count("def test_"))


@pytest.mark.parametrize("mode", ["check", "carry"])
def test_mistakes(run, monkeypatch, mode):
    """Each is torch's error or a clear one, and where a group is left it goes on."""
    monkeypatch.setenv("MODE", mode)
    result = run(MISTAKES, "--elastic-timeout=60", seconds=300)
    result.assert_outcomes(passed=MISTAKES.count("def test_"))
