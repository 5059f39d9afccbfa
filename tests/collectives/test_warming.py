"""What is done before ranks are forked, so that none of them does it at its first group: it leaves nothing else."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

TEST = """
import os, sys
import psutil, pytest, torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._dynamo import trace_rules
from torch.nn.parallel import DistributedDataParallel
from pytest_elastic import collectives

dist.set_debug_level(getattr(dist.DebugLevel, os.environ["LEVEL"]))
trace_rules.get_torch_obj_rule_map()  # The first group of a process throws it away.
hook, drawn = sys.excepthook, torch.get_rng_state()

@pytest.mark.elastic(nprocs=2)
def test_before(rank):
    warmed = trace_rules.get_torch_obj_rule_map.cache_info().currsize == 0
    assert warmed == (os.environ["LEVEL"] == "OFF")

@pytest.mark.elastic(nprocs=2)
def test_nothing_else(rank):
    zygote = psutil.Process().parent().parent()
    assert zygote.num_threads() == 1
    assert not dist.is_initialized()
    assert sys.excepthook is hook
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (c10d._backend, c10d._default_pg_init_method, c10d._world.group_count) == (None, None, 0)
    assert (c10d._world.pg_map, c10d._world.pg_names, c10d._world.tags_to_pg) == ({}, {}, {})
    assert not collectives.current().groups

@pytest.mark.elastic(nprocs=2)
def test_group(process_group, rank):
    assert collectives.current().groups[dist.group.WORLD].name == "world"
    tensor = torch.tensor([rank + 1.0])
    dist.all_reduce(tensor)
    assert tensor.item() == 3
"""


@pytest.mark.parametrize("level", ["OFF", "DETAIL"])
def test_a_group_was_made_before_ranks_are_forked_and_nothing_is_left_of_it(run, monkeypatch, level):
    """At the debug level DETAIL, where a group would have threads, none was made."""
    monkeypatch.setenv("LEVEL", level)
    run(TEST).assert_outcomes(passed=3)


USED = """
import pytest, torch.distributed as dist

store = dist.HashStore()
dist.init_process_group("fake", store=store, rank=0, world_size=2)
mine = dist.group.WORLD

@pytest.mark.elastic(nprocs=2)
def test_group(rank):
    assert dist.group.WORLD is mine
"""


def test_a_group_that_the_user_made_stays(run):
    """Of a module that makes one when it is imported."""
    run(USED).assert_outcomes(passed=1)


COMPILED = """
import sys
import psutil, pytest, torch
import torch.distributed

@pytest.mark.elastic(nprocs=2)
def test_compiled(rank):
    assert "torch._dynamo.backends.common" in sys.modules
    assert psutil.Process().parent().parent().num_threads() == 1
    assert torch.compile(lambda number: number + 1, backend="eager")(torch.ones(1)).item() == 2
"""


def test_what_torch_imports_to_compile_is_imported_before_ranks_are_forked_where_a_test_names_it(run):
    """And nowhere else."""
    run(COMPILED).assert_outcomes(passed=1)
    lines = [
        line.replace(" in sys", " not in sys") for line in COMPILED.splitlines() if ".compile(" not in line
    ]
    run("\n".join(lines)).assert_outcomes(passed=1)
