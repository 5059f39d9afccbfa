"""Programs of torch's distributed API: each is `program(rank, size)` and returns what it computed.

`test_api.py` runs them on ranks under plain gloo, checked and carried, and compares what they return.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import torch
import torch.distributed as dist

PROGRAMS: dict[str, dict] = {"operations": {}, "trainers": {}, "tensors": {}}


def program(family):
    def add(function):
        PROGRAMS[family][function.__name__] = function
        return function

    return add


def mine(rank, *shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=dtype) + 10 * (rank + 1)).reshape(shape)


def plain(value):
    """Lists and numbers of tensors, whatever they are in."""
    if isinstance(value, torch.Tensor):
        value = value.to_local() if hasattr(value, "to_local") else value
        return value.detach().to_dense().double().reshape(-1).tolist()
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


# Operations.


@program("operations")
def reductions(rank, size):
    found = []
    for op in ("SUM", "PRODUCT", "MIN", "MAX"):
        tensor = mine(rank, 2, 3)
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op))
        found.append(tensor)
    for op in ("BAND", "BOR", "BXOR"):
        tensor = mine(rank, 4, dtype=torch.int32)
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op))
        found.append(tensor)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64):
        tensor = torch.full((3,), rank + 1, dtype=dtype)
        dist.all_reduce(tensor)
        found.append(tensor)
    return found


@program("operations")
def shapes_of_every_kind(rank, size):
    """Empty, without dimensions, not contiguous, big, and big but not contiguous."""
    tensors = [torch.ones(0), torch.tensor(rank + 1.0), mine(rank, 3, 4).t(), mine(rank, 300, 400)]
    for tensor in tensors[1:]:
        dist.all_reduce(tensor)
    big = mine(rank, 300, 400).t()
    dist.broadcast(big.contiguous(), 1)
    flags = torch.zeros(size, 2)
    dist.all_gather_into_tensor(flags, torch.full((1, 2), float(rank)))
    return [*tensors[:3], tensors[3].sum(), flags]


@program("operations")
def gathers_and_scatters(rank, size):
    outs = [torch.zeros(3) for _ in range(size)]
    dist.all_gather(outs, mine(rank, 3))
    base = torch.zeros(size * 3)
    dist.all_gather_into_tensor(base, mine(rank, 3))
    gathered = [torch.zeros(2) for _ in range(size)] if rank == 1 else None
    dist.gather(mine(rank, 2), gathered, dst=1)
    scattered = torch.zeros(2)
    dist.scatter(scattered, [mine(7 + each, 2) for each in range(size)] if rank == 0 else None, src=0)
    rooted = mine(rank, 4)
    dist.reduce(rooted, dst=1)
    sent = mine(rank, 4)
    dist.broadcast(sent, src=1)
    return [outs, base, gathered, scattered, rooted if rank == 1 else None, sent]


@program("operations")
def reduce_scatters_and_exchanges(rank, size):
    out = torch.zeros(2)
    dist.reduce_scatter(out, [mine(rank, 2) * each for each in range(size)])
    base = torch.zeros(3)
    dist.reduce_scatter_tensor(base, mine(rank, size * 3))
    single = torch.zeros(size)
    dist.all_to_all_single(single, mine(rank, size))
    splits_out = [rank + 1] * size
    uneven = torch.zeros(sum(splits_out))
    splits_in = [each + 1 for each in range(size)]
    dist.all_to_all_single(uneven, mine(rank, sum(splits_in)), splits_out, splits_in)
    outs = [torch.zeros(2) for _ in range(size)]
    dist.all_to_all(outs, [mine(rank, 2) * each for each in range(size)])
    return [out, base, single, uneven, outs]


@program("operations")
def asynchronous(rank, size):
    """Works are waited for in another order, asked for their state, and give futures."""
    tensors = [mine(rank, 3) * (each + 1) for each in range(4)]
    works = [dist.all_reduce(one, async_op=True) for one in tensors]
    works[2].wait()
    while not works[0].is_completed():
        pass
    works[0].wait()
    works[1].wait()
    added = works[3].get_future().then(lambda future: future.value()[0] + 1).wait()
    barrier = dist.barrier(async_op=True)
    barrier.wait()
    sent = mine(rank, 2)
    dist.broadcast(sent, 0, async_op=True).wait()
    return [tensors, added, sent]


@program("operations")
def coalesced(rank, size):
    tensors = [mine(rank, 2), mine(rank, 3)]
    dist.all_reduce_coalesced(tensors)
    outs = [[torch.zeros(2), torch.zeros(1)] for _ in range(size)]
    dist.all_gather_coalesced(outs, [mine(rank, 2), mine(rank, 1)])
    return [tensors, outs]


@program("operations")
def objects(rank, size):
    gathered = [None] * size
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * 10 * rank})
    at_one = [None] * size if rank == 1 else None
    dist.gather_object([rank], at_one, dst=1)
    several = [rank, "a"] if rank == 0 else [None, None]
    dist.broadcast_object_list(several, src=0)
    got = [None]
    dist.scatter_object_list(got, [f"for {each}" for each in range(size)] if rank == 0 else None, src=0)
    if rank == 0:
        dist.send_object_list([{"from": 0}], dst=1)
    received = [None]
    if rank == 1:
        dist.recv_object_list(received, src=0)
    return [gathered, at_one, several, got, received]


@program("operations")
def messages(rank, size):
    """A ring, tags out of order, batches, any source, big ones."""
    after, before = (rank + 1) % size, (rank - 1) % size
    got = torch.zeros(3)
    works = [dist.isend(mine(rank, 3), after), dist.irecv(got, before)]
    for work in works:
        work.wait()
    first, second = torch.zeros(1), torch.zeros(1)
    if rank == 0:
        works = [dist.isend(torch.tensor([1.0]), 1, tag=1), dist.isend(torch.tensor([2.0]), 1, tag=2)]
        for work in works:
            work.wait()
    elif rank == 1:
        dist.recv(second, 0, tag=2)
        dist.recv(first, 0, tag=1)
    batch = torch.zeros(40_000)
    ops = [dist.P2POp(dist.isend, mine(rank, 40_000), after), dist.P2POp(dist.irecv, batch, before)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    seen = []
    for number in range(2):
        if rank == 0:
            for _ in range(size - 1):
                anything = torch.zeros(2)
                source = dist.recv(anything)
                seen.append([source, *anything.tolist()])
        else:
            dist.send(torch.tensor([rank * 1.0, number]), 0)
        dist.barrier()
    return [got, first, second, batch.sum(), sorted(seen)]


@program("operations")
def an_open_receive_before_a_send(rank, size):
    """It is matched as soon as it is there, so that the sender goes on."""
    got = torch.zeros(1)
    if rank == 0:
        work = dist.irecv(got)
        dist.send(torch.tensor([5.0]), 1)
        work.wait()
    elif rank == 1:
        dist.send(torch.tensor([6.0]), 0)
        dist.recv(got, 0)
    return got


@program("operations")
def groups(rank, size):
    """Of some, of all, of one; in another order of ranks; made by members only; destroyed."""
    some, everybody, alone = (
        dist.new_group([0, 1]),
        dist.new_group(),
        dist.new_group([rank_of_one := size - 1]),
    )
    found = []
    if rank < 2:
        tensor = mine(rank, 2)
        dist.all_reduce(tensor, group=some)
        found.append(tensor)
        dist.broadcast(tensor, src=1, group=some)
        objects_ = [None, None]
        dist.all_gather_object(objects_, rank, group=some)
        found += [tensor, objects_]
        local = dist.new_group([0, 1], use_local_synchronization=True)
        dist.barrier(group=local)
    if rank == rank_of_one:
        tensor = mine(rank, 2)
        dist.all_reduce(tensor, group=alone)
        found.append(tensor)
    tensor = mine(rank, 2)
    dist.all_reduce(tensor, group=everybody)
    dist.destroy_process_group(everybody)
    pairs, _ = dist.new_subgroups_by_enumeration([[0], list(range(1, size))])
    dist.barrier(group=pairs)
    return [*found, tensor]


@program("operations")
def threads(rank, size):
    """Each thread has a group of its own."""
    made, found = [dist.new_group() for _ in range(2)], {}

    def work(number):
        tensor = mine(rank, 3) * (number + 1)
        for _ in range(3):
            dist.all_reduce(tensor, group=made[number])
        found[number] = tensor

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [found[0], found[1]]


@program("operations")
def sparse(rank, size):
    tensor = torch.sparse_coo_tensor([[rank, 3]], [1.0 + rank, 2.0], (5,))
    dist.all_reduce(tensor)
    return tensor


@program("operations")
def inference(rank, size):
    with torch.inference_mode():
        tensor = mine(rank, 3)
        dist.all_reduce(tensor)
        return tensor.tolist()


@program("operations")
def functional(rank, size):
    import torch.distributed._functional_collectives as fc

    world = dist.group.WORLD
    summed = fc.all_reduce(mine(rank, 2), "sum", world) + 1
    gathered = fc.all_gather_tensor(mine(rank, 2), 0, world) + 1
    scattered = fc.reduce_scatter_tensor(mine(rank, size * 2), "sum", 0, world) + 1
    exchanged = fc.all_to_all_single(mine(rank, size), None, None, world) + 1
    coalesced = [one + 1 for one in fc.all_reduce_coalesced([mine(rank, 2), mine(rank, 1)], "sum", world)]
    return [summed, gathered, scattered, exchanged, coalesced, fc.broadcast(mine(rank, 2), 1, world) + 1]


@program("operations")
def barriers(rank, size):
    dist.monitored_barrier()
    dist.barrier()
    return dist.get_backend() in ("gloo", "elastic")


# Trainers.


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def batch(rank, step=0):
    return torch.sin(torch.arange(12.0) + rank * 5 + step).reshape(3, 4)


def train(net, optimizer, rank, steps=2):
    for step in range(steps):
        optimizer.zero_grad()
        net(batch(rank, step)).square().mean().backward()
        optimizer.step()
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]


def ddp(net, **options):
    return torch.nn.parallel.DistributedDataParallel(net, **options)


@program("trainers")
def ddp_plain(rank, size):
    net = ddp(model(), bucket_cap_mb=0.0001)
    return train(net, torch.optim.SGD(net.parameters(), 0.1), rank)


@program("trainers")
def ddp_static_graph(rank, size):
    net = ddp(model(), static_graph=True, find_unused_parameters=True)
    return train(net, torch.optim.SGD(net.parameters(), 0.1), rank)


@program("trainers")
def ddp_no_sync(rank, size):
    net = ddp(model())
    with net.no_sync():
        net(batch(rank)).sum().backward()
    net(batch(rank, 1)).sum().backward()
    return [one.grad for one in net.parameters()]


@program("trainers")
def ddp_join(rank, size):
    """Ranks have different numbers of batches."""
    net = ddp(model())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with net.join():
        for step in range(2 + rank):
            optimizer.zero_grad()
            net(batch(rank, step)).square().mean().backward()
            optimizer.step()
    return list(net.parameters())


@program("trainers")
def ddp_comm_hooks(rank, size):
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    found = []
    for hook in (default_hooks.allreduce_hook, default_hooks.fp16_compress_hook):
        net = ddp(model())
        net.register_comm_hook(None, hook)
        found.append(train(net, torch.optim.SGD(net.parameters(), 0.1), rank))
    net = ddp(model())
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    net.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return [*found, train(net, torch.optim.SGD(net.parameters(), 0.1), rank, 3)]


@program("trainers")
def ddp_sync_batch_norm_buffers(rank, size):
    torch.manual_seed(rank)
    net = ddp(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)))
    train(net, torch.optim.SGD(net.parameters(), 0.1), rank)
    return list(net.parameters())


@program("trainers")
def fsdp1(rank, size):
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    net = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    train(net, torch.optim.SGD(net.parameters(), 0.1), rank)
    with FullyShardedDataParallel.state_dict_type(net, StateDictType.FULL_STATE_DICT):
        return list(net.state_dict().values())


@program("trainers")
def fsdp2(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, mesh = model(), init_device_mesh("cpu", (size,))
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh)
    return train(net, torch.optim.SGD(net.parameters(), 0.1), rank)


@program("trainers")
def zero(rank, size):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = ddp(model())
    optimizer = ZeroRedundancyOptimizer(net.parameters(), torch.optim.Adam, lr=0.1)
    found = train(net, optimizer, rank)
    optimizer.consolidate_state_dict(0)
    return found


@program("trainers")
def model_averaging(rank, size):
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    net, averager = model(), PeriodicModelAverager(period=1, warmup_steps=0)
    train(net, torch.optim.SGD(net.parameters(), 0.1), rank)
    averager.average_parameters(net.parameters())
    return list(net.parameters())


# Tensors, pipelines, checkpoints, the compiler.


@program("tensors")
def dtensor(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (size,))
    one = distribute_tensor(torch.arange(24.0).reshape(6, 4), mesh, [Shard(0)])
    two = one.redistribute(mesh, [Shard(1)])
    three = (one @ distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])).redistribute(mesh, [Replicate()])
    return [one, two, three, one.sum().full_tensor()]


@program("tensors")
def tensor_parallelism(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (size,))
    net = parallelize_module(model(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    loss = net(batch(0)).square().mean()
    loss.backward()
    return [loss, [one.grad.full_tensor() for one in net.parameters()]]


@program("tensors")
def a_mesh_of_two_dimensions(rank, size):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (1, size), mesh_dim_names=("replicate", "shard"))
    tensor = mine(rank, 2)
    dist.all_reduce(tensor, group=mesh.get_group("shard"))
    dist.all_reduce(tensor, group=mesh.get_group("replicate"))
    return tensor


@program("tensors")
def pipelining(rank, size):
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    torch.manual_seed(rank)
    net = torch.nn.Linear(4, 4)
    stage = PipelineStage(net, rank, size, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 2, loss_fn=lambda out, target: (out - target).square().mean())
    losses = []
    if rank == 0:
        schedule.step(batch(0)[:2].repeat(2, 1))
    elif rank == size - 1:
        schedule.step(target=torch.ones(4, 4), losses=losses)
    else:
        schedule.step()
    return [losses, [one.grad for one in net.parameters()]]


@program("tensors")
def checkpoints(rank, size):
    """Saved by all, and loaded into a net that has other values."""
    import torch.distributed.checkpoint as dcp

    directory = os.path.join(os.environ["PROGRAMS"], "checkpoint")
    state = {"shared": mine(0, 3), f"of rank {rank}": mine(rank, 2), "number": 5}
    dcp.save(state, checkpoint_id=directory)
    loaded = {"shared": torch.zeros(3), f"of rank {rank}": torch.zeros(2), "number": 0}
    dcp.load(loaded, checkpoint_id=directory)
    return loaded


@program("tensors")
def compiled(rank, size):
    import torch.distributed._functional_collectives as fc

    def function(tensor):
        return fc.all_reduce(tensor * 2, "sum", dist.group.WORLD) + 1

    found = torch.compile(function, backend="aot_eager")(mine(rank, 3))

    def plain_call(tensor):
        tensor = tensor * 2
        dist.all_reduce(tensor)
        return tensor + 1

    return [found, torch.compile(plain_call, backend="aot_eager")(mine(rank, 3))]


@contextmanager
def directory_of(mode):
    os.environ["PROGRAMS"] = os.path.join(os.environ["RESULTS"], mode)
    os.makedirs(os.environ["PROGRAMS"], exist_ok=True)
    yield os.environ["PROGRAMS"]
