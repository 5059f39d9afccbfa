"""Rank functions that use torch.distributed."""

from __future__ import annotations

import random
import sys
from datetime import timedelta

import pytest

from pytest_elastic.errors import CollectiveMismatch
from pytest_elastic.faults import delay, kill
from pytest_elastic.simulator import (
    HangUntilTimeout,
    RankFailed,
    Setting,
    Simulation,
    SparseScheduler,
    explore,
    prove,
    prove_kills,
    replay,
    simulate,
    torch_ranks,
)
from pytest_elastic.store import torch_store
from pytest_elastic.testing import faults

torch = pytest.importorskip("torch", reason="torch is not installed")
dist = pytest.importorskip("torch.distributed", reason="torch is not installed")
c10d = pytest.importorskip("torch.distributed.distributed_c10d", reason="torch is not installed")


@torch_ranks
def total(rank, world_size, store):
    dist.init_process_group("gloo")
    found = torch.tensor([rank])
    dist.all_reduce(found)
    return found.item()


@torch_ranks
def train(rank, world_size, store):
    """Two steps of DDP."""
    dist.init_process_group()  # No backend, no rank: as a launcher would allow it.
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.full((2, 4), float(rank))).sum().backward()
        optimizer.step()
    return model.module.weight.detach().flatten().tolist()


@torch_ranks
def train_shards(rank, world_size, store):
    """A step of FSDP2."""
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    model = fully_shard(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.full((2, 4), float(rank))).sum().backward()
    optimizer.step()
    return model[0].weight.full_tensor().flatten().tolist()


@torch_ranks
def elect(rank, world_size, store):
    """Look for a leader, then become it: two ranks may see none."""
    dist.init_process_group("gloo")
    leader = int(store.get("leader")) if store.check(["leader"]) else rank
    store.set("leader", str(leader))
    dist.broadcast(torch.ones(2), leader)


def test_a_collective_has_its_result():
    """In each rank."""
    assert simulate(total, ranks=3).check().results == [3, 3, 3]
    assert prove(total, ranks=4).traces == 1


@pytest.mark.parametrize("step", [train, train_shards])
def test_a_step_of_training_is_proved(step):
    """All ranks have the same parameters, in every schedule."""
    assert prove(step, ranks=4).exhausted
    first, *others = simulate(step, ranks=4).check().results
    assert others == [first] * 3


def test_a_race_for_the_leader_is_found_and_replayed():
    """Twenty times of twenty."""
    with pytest.raises(RankFailed, match="another root") as caught:
        explore(elect, ranks=3)
    assert isinstance(caught.value.__cause__, CollectiveMismatch)
    assert caught.value.diagnosis.verdict == "CollectiveMismatch"
    (token,) = [word.strip("')") for word in caught.value.__notes__[-1].split() if word.startswith("'E1.")]
    for _ in range(20):
        with pytest.raises(RankFailed) as again:
            replay(elect, token)
        assert str(again.value) == str(caught.value)


def test_who_is_missing_is_named_with_the_line():
    """And what the others wait in."""

    @torch_ranks
    def uneven(rank, world_size, store):
        dist.init_process_group("gloo")
        for _ in range(2 if rank == 1 else 3):
            dist.all_reduce(torch.ones(4))

    with pytest.raises(HangUntilTimeout) as caught:
        explore(uneven, ranks=3)
    text, diagnosis = str(caught.value), caught.value.diagnosis
    assert "rank 0: all_reduce(float32[4], SUM) as world#2; absent: rank 1\n    at " in text
    assert f"{__file__}:" in text
    assert (diagnosis.verdict, diagnosis.ranks, diagnosis.keys) == ("CountMismatch", (1,), ("world#2",))
    assert caught.value.__notes__[0].startswith("cause: rank 1 passed after 2 collectives; ranks 0, 2 are in")


def test_waits_for_asynchronous_calls_are_named():
    """By their meetings."""

    @torch_ranks
    def late(rank, world_size, store):
        dist.init_process_group("gloo")
        if rank == 0:
            dist.all_reduce(torch.ones(4), async_op=True).wait()

    assert "rank 0: waits in world#0; absent: rank 1" in str(simulate(late, ranks=2).verdict)


# What torch has once for a process.


def test_a_rank_has_a_world_of_its_own():
    """One that made no group has none, and the process has none afterwards."""

    @torch_ranks
    def alone(rank, world_size, store):
        if rank == 0:
            dist.init_process_group("gloo", init_method="tcp://nowhere:1", rank=0, world_size=1)
        store.barrier("made", world_size)
        return dist.is_initialized(), dist.is_initialized() and dist.get_world_size()

    own, hook = c10d._world, sys.excepthook
    assert simulate(alone, ranks=2).check().results == [(True, 1), (False, False)]
    assert not dist.is_initialized()
    assert (c10d._world, sys.excepthook) == (own, hook)


@pytest.mark.parametrize("schedule", [(), ((0, 1), (2, 1)), ((1, 1), (0, 1))])
def test_each_rank_draws_for_itself(schedule):
    """The same numbers under each schedule; the process's generator goes on where it was."""

    @torch_ranks
    def draw(rank, world_size, store):
        store.set("a", "1")
        drawn = [torch.rand(1).item()]
        store.set("b", "1")
        return [*drawn, torch.rand(1).item()]

    state = torch.get_rng_state()
    first, second = simulate(draw, schedule, ranks=2).check().results
    assert first == second
    assert first[0] != first[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("decorate", [torch_ranks, lambda function: function], ids=["torch_ranks", "plain"])
def test_one_ranks_grad_mode_is_not_the_others(decorate):
    """Whether or not the function is decorated: where torch is loaded, ranks are threads."""

    @decorate
    def peek(rank, world_size, store):
        if rank == 0:
            with torch.no_grad():
                store.set("inside", "1")
                store.wait(["seen"])
            return torch.is_grad_enabled()
        store.wait(["inside"])
        enabled = torch.is_grad_enabled()
        store.set("seen", "1")
        return enabled

    assert simulate(peek, ranks=2).check().results == [True, True]


def test_an_execution_leaves_nothing_to_the_next_one():
    """Neither its grad mode nor its groups."""

    @torch_ranks
    def leave(rank, world_size, store):
        before = torch.is_grad_enabled(), dist.is_initialized()
        torch.set_grad_enabled(False)
        dist.init_process_group("gloo")
        dist.new_group([0, 1])
        return before

    with Simulation(leave, Setting(2)) as simulation:
        for _ in range(3):
            assert simulation.run(SparseScheduler(())).check().results == [(True, False)] * 2


def test_rounds_make_worlds_of_their_own():
    """As a loop does that makes and destroys its group."""
    assert prove(total, ranks=3, rounds=3).exhausted


# How groups are made.


@pytest.mark.parametrize(
    ("arguments", "swapped"),
    [
        (lambda rank, store: {}, False),
        (lambda rank, store: {"init_method": "tcp://10.0.0.1:1", "rank": rank, "world_size": 2}, True),
        (lambda rank, store: {"init_method": f"file:///nowhere?rank={rank}&world_size=2"}, True),
        (lambda rank, store: {"store": torch_store(store), "rank": rank, "world_size": 2}, True),
        (lambda rank, store: {"store": prefixed(store), "rank": rank, "world_size": 2}, True),
        (lambda rank, store: {"store": SHARED, "rank": rank, "world_size": 2}, True),
    ],
    ids=["env", "tcp", "file", "store", "PrefixStore", "HashStore"],
)
def test_every_way_to_make_a_group_needs_no_network(arguments, swapped):
    """The world is numbered as the group says."""

    @torch_ranks
    def make(rank, world_size, store):
        dist.init_process_group("gloo", timeout=timedelta(seconds=9), **arguments(1 - rank, store))
        dist.barrier()
        return dist.get_rank(), dist.get_world_size()

    assert prove(make, ranks=2).exhausted
    assert simulate(make, ranks=2).check().results == ([(1, 2), (0, 2)] if swapped else [(0, 2), (1, 2)])


def prefixed(store):
    """A store of torch's over ours."""
    return dist.PrefixStore("a", torch_store(store))


SHARED = dist.HashStore()


# Rooted operations.


@pytest.mark.parametrize("strict", [True, False])
def test_a_root_that_goes_on_is_a_hang_only_if_all_wait(strict):
    """Nobody comes for what rank 0 broadcasts."""

    @torch_ranks(strict=strict)
    def send_off(rank, world_size, store):
        dist.init_process_group("gloo")
        if rank == 0:
            dist.broadcast(torch.ones(2), 0)

    verdict = simulate(send_off, ranks=2).verdict
    assert (verdict and verdict.diagnosis.verdict) == ("MissingRank" if strict else None)


# Faults.


def test_a_kill_at_a_collective():
    """The others wait for who was to come fourth."""

    @torch_ranks
    def work(rank, world_size, store):
        dist.init_process_group("gloo")
        for _ in range(5):
            dist.barrier()

    with pytest.raises(HangUntilTimeout) as caught:
        explore(work, ranks=3, faults=kill(rank=1, collective="world#3"))
    diagnosis = caught.value.diagnosis
    assert (diagnosis.verdict, diagnosis.ranks, diagnosis.keys) == ("Exited", (1,), ("world#3",))
    execution = simulate(work, faults=delay(rank=1, collective="world#*", nth=2, by=7), ranks=3).check()
    assert execution.now == 7


def test_a_rank_may_be_killed_in_a_backward_pass():
    """It unwinds through torch's C++; the others have the group's timeout."""

    @torch_ranks
    def step(rank, world_size, store):
        dist.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        try:
            model(torch.ones(1, 2)).sum().backward()
        except RuntimeError as error:
            return str(error).partition(":")[0]

    plan = kill(rank=1, collective="world#3")
    execution = simulate(step, faults=plan, ranks=3, may_timeout=True).check()
    assert execution.killed.keys() == {1}
    assert execution.results == ["call #3 of group world", None, "call #3 of group world"]


def test_all_single_kills_of_a_collective():
    """Before each of its operations: whoever waits for the victim has a timeout."""

    @torch_ranks
    def safe(rank, world_size, store):
        try:
            dist.init_process_group("gloo")
            dist.barrier()
        except RuntimeError:
            pass

    assert len(prove_kills(safe, ranks=3)) == 6


@faults("K1@2", ranks=2, sample=0)
@torch_ranks
def test_a_decorated_function_may_be_a_test_under_faults(rank, world_size, store):
    """In the simulator."""
    try:
        dist.init_process_group("gloo")
        dist.barrier()
    except RuntimeError:
        pass


# Bad input.


@pytest.mark.parametrize(
    "use",
    [
        lambda rank, store: dist.init_process_group("gloo"),
        lambda rank, store: dist.init_process_group(
            "gloo", store=torch_store(store), rank=rank, world_size=2
        ),
        lambda rank, store: dist.all_reduce(torch.ones(1)),
    ],
    ids=["init", "store", "all_reduce"],
)
def test_a_function_that_is_not_decorated_is_one_clear_error(use):
    """It says what to write."""
    with pytest.raises(RankFailed, match=r"pytest_elastic\.simulator\.torch_ranks") as caught:
        explore(lambda rank, world_size, store: use(rank, store), ranks=2)
    assert caught.value.type_name == "RuntimeError"


def test_a_decorated_function_inside_of_another_one_is_an_error():
    """The simulation could not prepare for it."""
    with pytest.raises(RankFailed, match="has to be given to the simulator as it is"):
        explore(lambda rank, world_size, store: total(rank, world_size, store), ranks=2)


def test_elsewhere_a_decorated_function_is_what_it_was():
    """Called with another store than a simulated one."""
    assert torch_ranks(lambda rank, world_size, store: (rank, store))(1, 2, "mine") == (1, "mine")
    assert total.__name__ == "total"


def test_python_draws_are_simulated_too():
    """As for other rank functions."""

    @torch_ranks
    def draw(rank, world_size, store):
        return random.random()

    assert simulate(draw, ranks=2).results == simulate(draw, ranks=2).results
