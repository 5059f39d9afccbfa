"""Processes that a test forks itself, and that come back from its code: the rank's report is not theirs to send."""

from __future__ import annotations

FORKS = """
import os, sys
import pytest

def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@pytest.mark.elastic(nprocs=2)
def test_returns(world):
    if world.rank == 1:
        child = os.fork()
        if child == 0:
            return
        assert code_of(child) == 1
    world.barrier()

@pytest.mark.elastic(nprocs=2)
def test_returns_before_its_parent_fails(rank):
    if rank == 1:
        child = os.fork()
        if child == 0:
            return
        assert code_of(child) == 0, "no clean end"

@pytest.mark.elastic(nprocs=2)
def test_fails(rank):
    if rank == 1:
        child = os.fork()
        assert child, "in the child"
        assert code_of(child) == 1

@pytest.mark.elastic(nprocs=2)
def test_exits(rank):
    if rank == 1:
        child = os.fork()
        if child == 0:
            sys.exit(3)
        assert code_of(child) == 3

def test_functions(elastic):
    def forks(rank, world_size, end):
        child = os.fork()
        return end() if child == 0 else code_of(child)

    def fail():
        raise ValueError("in the child")

    assert elastic.run(forks, args=(lambda: "mine",), nprocs=2) == [1, 1]
    assert elastic.run(forks, args=(fail,), nprocs=2) == [1, 1]
    assert elastic.run(forks, args=(sys.exit,), nprocs=2) == [0, 0]
"""


def test_a_forked_process_reports_nothing_in_its_ranks_name(run):
    result = run(FORKS, "-rA")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 of 2 ranks failed: rank 1 alone",
            "E*AssertionError: no clean end",
            "process *, which rank 1 has forked, came back from the test's code: it ends here, with code 1, *",
            "_* test_fails _*",
            "AssertionError: in the child",
        ]
    )
