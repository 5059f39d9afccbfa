"""The distributed API of torch computes the same under plain gloo, checked and carried."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

TEST = """
import json, os, traceback
import pytest, torch
import torch.distributed as dist
# What programs import is imported once, and not in each rank.
import torch.distributed.checkpoint, torch.distributed.optim, torch.distributed.pipelining
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from programs import PROGRAMS, directory_of, plain

def run_all(mode, rank, size):
    with directory_of(mode) as directory:
        found = {}
        for name, program in PROGRAMS[FAMILY].items():
            try:
                found[name] = plain(program(rank, size))
            except Exception as error:
                traceback.print_exc()
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        with open(f"{directory}/{FAMILY}.{rank}.json", "w") as file:
            json.dump(found, file)

FAMILY = os.environ["FAMILY"]
SIZE = int(os.environ["SIZE"])

@pytest.mark.elastic(nprocs=SIZE, collectives="off")
def test_gloo(process_group, rank): run_all("gloo", rank, SIZE)

@pytest.mark.elastic(nprocs=SIZE)
def test_checked(process_group, rank): run_all("checked", rank, SIZE)

@pytest.mark.elastic(nprocs=SIZE, collectives="carry")
def test_carried(process_group, rank): run_all("carried", rank, SIZE)
"""


def alike(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize(("family", "size"), [("operations", 3), ("trainers", 2), ("tensors", 2)])
def test_results_are_alike(run, tmp_path, monkeypatch, family, size):
    """Every program of a family, on every rank."""
    monkeypatch.setenv("RESULTS", str(tmp_path))
    monkeypatch.setenv("FAMILY", family)
    monkeypatch.setenv("SIZE", str(size))
    programs = Path(__file__).with_name("programs.py").read_text("utf-8")
    result = run(TEST, "--elastic-timeout=200", seconds=600, programs=programs)
    result.assert_outcomes(passed=3)
    for rank in range(size):
        plain, checked, carried = (
            json.loads((tmp_path / mode / f"{family}.{rank}.json").read_text("utf-8"))
            for mode in ("gloo", "checked", "carried")
        )
        assert plain.keys() == checked.keys() == carried.keys()
        assert [name for name in plain if not alike(plain[name], checked[name])] == []
        assert [name for name in plain if not alike(plain[name], carried[name])] == []
