"""What takes long tells how far it is, past the capture of output."""

from __future__ import annotations

import pytest

FASTER = """
from pytest_elastic import progress
progress.IN_FILE = 0.0
"""
CODE = """
    import os
    import pytest
    from pytest_elastic.simulator import explore, prove

    def exchange(rank, world_size, store):
        store.set(f"x{rank}", "1")
        store.wait([f"x{r}" for r in range(world_size)])

    def test_explore():
        print("said in the test")
        explore(exchange, ranks=3)

    def test_prove():
        prove(exchange, ranks=3)

    def of_ranks(rank, world_size):
        from pytest_elastic.launch import current_world
        current_world().store.add("n", 1)

    def test_kills(elastic, elastic_faults):
        elastic_faults.survive(of_ranks, nprocs=2)

    def test_points(elastic_faults):
        elastic_faults.kill_points(of_ranks, nprocs=2)
    """
STRESSED = """
    import pytest

    @pytest.mark.elastic(nprocs=2)
    def test_marked(world):
        world.barrier()

    def test_run(elastic):
        elastic.run(lambda rank, size: None, nprocs=2)
    """


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
def test_searches_proofs_and_kills(run, capture):
    """A sentence ends each; the output of the test stays captured."""
    result = run(CODE, f"--capture={capture}", conftest=FASTER)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "exchange: 1 schedule, */s, no failure yet, *",
            "exchange: 1 schedule, no failure (* s)",
            "exchange: 1 schedule, no failure (* s)",
            "of_ranks without faults: 1 run, no failure (* s)",
            "of_ranks: 2 kills, no failure (* s)",
            "of_ranks without faults: 1 run, no failure (* s)",
        ]
    )
    assert ("said in the test" in result.stdout.str()) is (capture == "no")


def test_the_search_for_a_simpler_failure(run):
    """After the search that has found one."""
    code = """
        from pytest_elastic.simulator import explore

        def lose(rank, world_size, store):
            store.add("n", 1)
            assert rank == 0 or store.add("n", 1) > 2

        def test_explore():
            explore(lose, ranks=3)
        """
    result = run(code, conftest=FASTER)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "lose: * schedule*, stopped by a failure (* s)",
            "a simpler failure of lose: 1 run, */s, the search goes on, *% of all",
            "a simpler failure of lose: * runs, the simplest one follows (* s)",
        ]
    )


def test_what_a_test_has_redirected_stays_so(run):
    """A search shows its progress past the capture of output, and does not touch that."""
    code = """
    import contextlib, io, time
    from pytest_elastic.simulator import explore

    def slow(rank, world_size, store):
        store.add("count", 1)

    def test_redirected(monkeypatch):
        monkeypatch.setattr("pytest_elastic.progress.PATIENCE", 0.0)
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            explore(slow, ranks=2, strategy="dpor")
            print("mine")
        assert told.getvalue() == "mine\\n"
    """
    run(code).assert_outcomes(passed=1)


def test_rounds_of_stress(run):
    """Of tests on ranks, and of those that run functions on them; workers of xdist have no terminal."""
    result = run(STRESSED, "--elastic-stress=5", conftest=FASTER)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["test_marked: 5 rounds, no failure (* s)", "test_run: 5 rounds, no failure (* s)"]
    )
    pytest.importorskip("xdist")
    result = run(STRESSED, "--elastic-stress=5", "-p", "xdist", "-n", "1", conftest=FASTER)
    result.assert_outcomes(passed=2)
    assert " rounds," not in result.stdout.str() + result.stderr.str()
