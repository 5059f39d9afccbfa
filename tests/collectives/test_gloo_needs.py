"""Whom gloo waits for: as our rules say, and a checked call waits for nobody else."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from pytest_elastic.collectives._call import Call, Tensor
from pytest_elastic.collectives._gloo_needs import may_wait_first, needs_in_gloo


def needs(operation: str, elements: int, size: int, root: int | None = None) -> list[tuple[int, ...]]:
    """Whom each member waits for."""
    call = Call(operation, (Tensor("float32", (elements,), elements, 4, "cpu"),), root=root)
    return [needs_in_gloo(call, size, place, root) for place in range(size)]


@pytest.mark.parametrize(
    ("operation", "elements", "size", "root", "expected"),
    [
        ("broadcast", 4, 4, 0, [(1, 2), (0, 3), (0,), (0, 1)]),
        ("broadcast", 0, 5, 1, [(1,), (0, 2, 3), (1, 4), (1,), (1, 2)]),
        ("gather", 4, 3, 1, [(1,), (0, 2), (1,)]),
        ("scatter", 4, 3, 1, [(1,), (0, 2), (1,)]),
        ("reduce", 1, 5, 0, [(1, 2, 3, 4), (0, 2, 3, 4), (1, 3, 4), (2, 4), (3,)]),
        ("reduce", 0, 3, 0, [()] * 3),
        ("reduce", 100_000, 3, 0, [(1, 2), (0, 2), (0, 1)]),
        ("all_reduce", 1, 3, None, [(1, 2), (0, 2), (0, 1)]),
        ("all_reduce", 0, 3, None, [()] * 3),
        ("all_gather_into_tensor", 0, 3, None, [()] * 3),
        ("all_to_all_single", 0, 3, None, [(1, 2), (0, 2), (0, 1)]),
    ],
)
def test_needs(operation, elements, size, root, expected):
    assert needs(operation, elements, size, root) == expected


def test_who_keeps_others_that_need_less_starts_first():
    """The root of a `gather` keeps leaves; one inside the tree of a `broadcast` keeps the root."""
    call = Call("broadcast", (Tensor("float32", (4,), 4, 4, "cpu"),), root=0)
    starts_first = [place for place in range(4) if not may_wait_first(call, 4, place, 0)]
    assert starts_first == [0, 1]
    gather = call._replace(operation="gather")
    assert [may_wait_first(gather, 3, place, 0) for place in range(3)] == [False, True, True]
    assert all(
        may_wait_first(call._replace(operation="all_reduce", root=None), 3, one, None) for one in range(3)
    )


PROGRAM = """
import time
import pytest, torch
import torch.distributed as dist
from pytest_elastic.collectives._call import Call, Tensor
from pytest_elastic.collectives._gloo_needs import needs_in_gloo

SIZE = 4
CASES = [
    ("broadcast", 4, 1, 0), ("broadcast", 4, 1, 2), ("broadcast", 100_000, 1, 3), ("gather", 4, 1, 0),
    ("gather", 100_000, 0, 0), ("scatter", 4, 1, 2), ("reduce", 4, 0, 1), ("reduce", 2, 1, 0),
    ("reduce", 4, 1, 2), ("reduce", 64, 1, 2), ("all_reduce", 0, None, 1), ("all_reduce", 1, None, 1),
    ("all_gather_into_tensor", 0, None, 3), ("reduce_scatter_tensor", 0, None, 0),
    ("all_to_all_single", 0, None, 2),
]

def start(operation, elements, root, rank, wait):
    tensor = torch.ones(elements)
    every = [torch.ones(elements) for _ in range(SIZE)] if rank == root else None
    arguments = {
        "gather": (tensor, every, root), "scatter": (tensor, every, root), "all_reduce": (tensor,),
        "all_gather_into_tensor": (torch.ones(SIZE * elements), tensor),
        "reduce_scatter_tensor": (tensor, torch.ones(SIZE * elements)),
        "all_to_all_single": (torch.ones(elements), tensor),
    }.get(operation, (tensor, root))
    return getattr(dist, operation)(*arguments, async_op=not wait)

def go(store, rank, blocking):
    for number, (operation, elements, root, absent) in enumerate(CASES):
        call = Call(operation, (Tensor("float32", (elements,), elements, 4, "cpu"),), root=root)
        early = absent not in needs_in_gloo(call, SIZE, rank, root)
        arrived = f"{blocking} {number}"
        if rank == absent:
            while int(store.add(arrived, 0)) < SIZE - 1:
                time.sleep(0.002)
            start(operation, elements, root, rank, True)
            continue
        if not early:
            work = None if blocking else start(operation, elements, root, rank, False)
            while int(store.add(arrived + " early", 0)) < sum(
                absent not in needs_in_gloo(call, SIZE, other, root) for other in range(SIZE) if other != absent
            ) and not blocking:
                time.sleep(0.002)
            time.sleep(0.02)
            assert work is None or not work.is_completed(), (operation, elements, root, absent)
            store.add(arrived, 1)
            work.wait() if work else start(operation, elements, root, rank, True)
            continue
        work = start(operation, elements, root, rank, blocking)
        work.wait() if work else None
        store.add(arrived + " early", 1)
        store.add(arrived, 1)

@pytest.mark.elastic(nprocs=SIZE, collectives="off")
def test_gloo(process_group, elastic_store, rank): go(elastic_store, rank, False)

@pytest.mark.elastic(nprocs=SIZE)
def test_checked(process_group, elastic_store, rank): go(elastic_store, rank, False)

@pytest.mark.elastic(nprocs=SIZE)
def test_checked_and_blocking(process_group, elastic_store, rank): go(elastic_store, rank, True)
"""


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_who_goes_early_on_gloo_goes_early_when_checked(run):
    """One member comes last: who does not need it is back before, the others are not."""
    run(PROGRAM, "--elastic-timeout=60", seconds=200).assert_outcomes(passed=3)
