"""The carried operations without processes: threads are ranks, over a store for threads."""

from __future__ import annotations

import threading
from importlib.util import find_spec

import pytest

if find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)

import torch
import torch.distributed as dist

from pytest_elastic.collectives import RankContext
from pytest_elastic.collectives._exchange import run
from pytest_elastic.collectives._message import receive, receive_any, send
from pytest_elastic.collectives._payload import Arena, Parcel, Piece, arena
from pytest_elastic.collectives._torch_group import Group
from pytest_elastic.errors import CollectiveMismatch, CollectiveTimeout
from pytest_elastic.store import HashStore


def on_threads(function, size=3, strict=True):
    """What `function(group)` returned, or raised, for each rank."""
    store, found = HashStore(), {}

    def rank(number):
        context = RankContext(store.clone(), number, size, "carry", strict)
        group = Group(context, "world", range(size), number, True, 10.0)
        try:
            found[number] = function(group)
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(size)]


def call(group, name, *arguments):
    """A call, whose real operation is not there."""
    return run(group, name, arguments, lambda: None)


@pytest.mark.parametrize("elements", [4, 8192, 100_000])
def test_sums_have_equal_bits_on_all_ranks(elements):
    """Inline, in shared memory, and by slices: in the members' order."""

    def program(group):
        torch.manual_seed(group.index)
        tensor = torch.randn(elements)
        mine = tensor.clone()
        call(group, "allreduce_", [tensor], "SUM", None, False, -1)
        return mine, tensor

    found = on_threads(program)
    expected = (found[0][0] + found[1][0]) + found[2][0]
    assert all(torch.equal(tensor, expected) for _, tensor in found)


@pytest.mark.parametrize("kind", ["AVG", "PRODUCT", "MIN", "MAX"])
def test_reductions(kind):
    def program(group):
        tensor = torch.tensor([1.0, 2.0]) * (group.index + 1)
        call(group, "allreduce_", [tensor], kind, None, False, -1)
        return tensor.tolist()

    wanted = {"AVG": [2.0, 4.0], "PRODUCT": [6.0, 48.0], "MIN": [1.0, 2.0], "MAX": [3.0, 6.0]}
    assert on_threads(program) == [wanted[kind]] * 3


def test_a_reduction_that_only_nccl_has():
    def program(group):
        call(group, "allreduce_", [torch.ones(1)], "PREMUL_SUM", None, False, -1)

    assert all(type(one) is RuntimeError for one in on_threads(program))


def test_memory_is_used_again():
    """After twenty rounds an arena has the size of a few."""

    def program(group):
        tensor = torch.ones(300_000)
        for _ in range(20):
            call(group, "allreduce_", [tensor], "SUM", None, False, -1)
            tensor.fill_(1.0)
        return arena()._end

    before = arena()._end
    assert max(on_threads(program)) - before <= 16 * 2**20


def test_a_broadcast_that_is_not_strict_lets_its_root_go():
    """The root is back before the leaves come; its data waits for them."""
    passed = threading.Event()

    def program(group):
        tensor = torch.full((20_000,), float(group.index))
        if group.index:
            assert passed.wait(10)
        call(group, "broadcast_", [tensor], 0, 0, False, -1)
        passed.set()
        return tensor.sum().item()

    assert on_threads(program, strict=False) == [0.0] * 3


def test_a_strict_root_waits_for_all():
    def program(group):
        if group.index == 0:
            group.seconds = 0.05
            call(group, "broadcast_", [torch.ones(1)], 0, 0, False, -1)

    error = on_threads(program)[0]
    assert isinstance(error, CollectiveTimeout)
    assert isinstance(error, dist.DistBackendError)
    assert (error.group, error.number, error.ranks) == ("world", 0, [1, 2])
    assert error.calls[0].startswith("broadcast(float32[1], from 0) at ")


def test_asynchronous_calls_are_finished_in_any_order():
    def program(group):
        tensors = [torch.full((20_000,), float(group.index + number)) for number in range(3)]
        works = [call(group, "allreduce_", [one], "SUM", None, True, -1) for one in tensors]
        for work in works[:: 1 if group.index else -1]:
            work.wait()
        assert all(work.is_success() and work.result()[0] is not None for work in works)
        return [one[0].item() for one in tensors]

    assert on_threads(program) == [[3.0, 6.0, 9.0]] * 3


def test_a_mismatch_raises_in_all_who_call():
    def program(group):
        dtype = torch.float64 if group.index == 1 else torch.float32
        call(group, "allreduce_", [torch.ones(2, dtype=dtype)], "SUM", None, False, -1)

    found = on_threads(program)
    assert all(isinstance(one, CollectiveMismatch) and one.difference == "dtype" for one in found)
    assert all(1 in one.ranks for one in found)


def test_messages():
    """Small and big, by tag, from any source; a later receive comes after an open one."""

    def program(group):
        if group.index:
            for tag, size in ((0, 2), (7, 20_000)):
                send(group, [torch.full((size,), float(group.index))], 0, tag, lambda: None).wait()
            return None
        big = [torch.zeros(20_000) for _ in range(2)]
        works = [receive(group, [one], 1 + number, 7, lambda: None) for number, one in enumerate(big)]
        small = torch.zeros(2)
        first = receive_any(group, [small], 0, lambda: None)
        first.wait()
        other = 2 if first.source_rank() == 1 else 1
        assert small.tolist() == [float(first.source_rank())] * 2
        receive(group, [small], other, 0, lambda: None).wait()
        for work in works:
            work.wait()
        return [small[0].item() == other, *(one.sum().item() for one in big)]

    assert on_threads(program)[0] == [True, 20_000.0, 40_000.0]


def test_what_an_arena_gives_is_read_where_it_lies():
    """A place is free once its readers have set their flags."""
    arena, data = Arena(), torch.arange(100, dtype=torch.uint8)
    first = arena.put(data, 3, (1, 2))
    second = arena.put(data, 3, (1,))
    assert second.at > first.at
    memory = arena.memory(first)
    memory[first.at + 1] = memory[first.at + 2] = 1
    assert arena.put(data, 3, ()).at == first.at
    assert isinstance(first, Piece)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_store_may_carry_all(asynchronous):
    """As in a simulation, whose ranks may never come to read; a big tensor is not summed up in others' memory."""

    def program(group):
        group.context.inline = float("inf")
        tensor = torch.ones(100_000)
        call(group, "allreduce_", [tensor], "SUM", None, asynchronous, -1).wait()
        return tensor.sum().item(), arena()._end

    before = arena()._end
    assert on_threads(program) == [(300_000.0, before)] * 3


def test_an_empty_parcel():
    assert len(Parcel(b"", 0)) == 0
