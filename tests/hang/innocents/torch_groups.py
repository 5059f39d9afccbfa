"""Programs of torch: groups, collectives with late ranks, work that is waited for later, loaders of data."""

import time
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)


def numbers(size=8):
    return [torch.tensor([float(number)]) for number in range(size)]


def slow(batch):
    time.sleep(0.05)
    return torch.stack(batch)


def test_a_late_rank_in_a_collective(process_group, rank):
    total = torch.ones(1)
    if rank == 1:
        time.sleep(0.4)
    dist.all_reduce(total)
    assert total.item() == 2


def test_a_late_rank_at_a_barrier(process_group, rank):
    if rank == 0:
        time.sleep(0.4)
    dist.barrier()


def test_a_barrier_that_is_watched(process_group, rank):
    if rank == 1:
        time.sleep(0.4)
    dist.monitored_barrier(timeout=timedelta(seconds=20))


def test_work_that_is_waited_for_later(process_group, rank):
    total = torch.ones(1)
    work = dist.all_reduce(total, async_op=True)
    if rank == 1:
        time.sleep(0.3)
    work.wait()
    assert total.item() == 2


def test_the_store_while_work_is_under_way(process_group, rank, world):
    """One rank waits in the store, the other begins its part of the collective late and then sets the key."""
    total = torch.ones(1)
    if rank == 0:
        work = dist.all_reduce(total, async_op=True)
        world.store.wait(["go"], 20)
        work.wait()
    else:
        time.sleep(1.3)
        dist.all_reduce(total)
        world.store.set("go", "1")
    assert total.item() == 2


def test_messages(process_group, rank):
    tensor = torch.zeros(4)
    if rank == 0:
        time.sleep(0.3)
        dist.send(torch.ones(4), 1)
    else:
        dist.recv(tensor, 0)
        assert tensor.sum() == 4


def test_objects(process_group, rank):
    found = [None, None]
    if rank == 1:
        time.sleep(0.2)
    dist.all_gather_object(found, {"rank": rank})
    assert [one["rank"] for one in found] == [0, 1]


def test_groups_within_the_group(process_group, rank):
    groups = [dist.new_group([number]) for number in range(2)]
    dist.barrier(groups[rank])
    if rank == 1:
        time.sleep(0.2)
    dist.barrier()


def test_a_group_that_comes_late(world):
    """Rank 1 takes its time before it joins."""
    if world.rank == 1:
        time.sleep(0.5)
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()


def test_a_group_and_another_one(world):
    for _ in range(2):
        dist.init_process_group("gloo")
        dist.barrier()
        dist.destroy_process_group()
        world.barrier(timeout=20)


def test_a_late_rank_in_the_store_beside_a_group(process_group, world):
    """The threads of gloo are there, and wait."""
    if world.rank == 1:
        time.sleep(1.3)
    world.barrier(timeout=20)


def test_gradients_that_are_averaged(process_group, rank):
    model = torch.nn.Linear(2, 1)
    for step in range(3):
        if rank == step % 2:
            time.sleep(0.1)
        model(torch.ones(4, 2)).sum().backward()
        for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in model.parameters()]:
            work.wait()


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loader_with_workers(world, persistent):
    loader = DataLoader(
        numbers(), 2, num_workers=2, persistent_workers=persistent, collate_fn=slow, timeout=30
    )
    for _ in range(2):
        for number, batch in enumerate(loader):
            assert len(batch) == 2
            if world.rank == number % 2:
                time.sleep(0.05)
            world.barrier("step", timeout=30)


def test_a_late_rank_while_workers_idle(world):
    """They are alive, as is the thread that feeds them, and nobody of them will write."""
    loader = iter(DataLoader(numbers(), 2, num_workers=1, persistent_workers=True))
    next(loader)
    if world.rank == 1:
        time.sleep(1.4)
    world.barrier(timeout=30)
    assert len(list(loader)) == 3


def test_threads_of_torch(world):
    torch.set_num_threads(2)
    torch.mm(torch.ones(256, 256), torch.ones(256, 256))
    if world.rank == 1:
        time.sleep(0.3)
    world.barrier(timeout=20)


def test_torchs_store_beside_ours(world, shared_tmp_path):
    """A file that both ranks use as a store."""
    store = dist.FileStore(str(shared_tmp_path / "store"), 2)
    if world.rank == 1:
        time.sleep(0.3)
        store.set("late", "1")
    store.wait(["late"], timedelta(seconds=20))
    world.barrier(timeout=20)


def test_torchs_own_server(world):
    """Rank 0 serves it, on a port that the ranks agree on."""
    if world.rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=30), wait_for_workers=False)
        world.store.set("port", str(store.port))
        time.sleep(0.3)
        store.set("late", "1")
    else:
        port = int(world.store.get("port"))
        store = dist.TCPStore("127.0.0.1", port, 2, False, timedelta(seconds=30), wait_for_workers=False)
        store.wait(["late"], timedelta(seconds=20))
    world.barrier(timeout=20)
