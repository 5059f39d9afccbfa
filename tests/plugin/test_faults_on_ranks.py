"""Faults on real ranks: the marker's argument, and the fixture `elastic_faults`."""

from __future__ import annotations

import pytest

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.testing import faults


def test_faults_of_the_marker_happen(run):
    """Ranks die as planned, the others see what follows, and that is a pass."""
    run(
        """
        import time
        import pytest
        from pytest_elastic.errors import DistNetworkError
        from pytest_elastic.faults import delay, drop, kill, late_join

        @pytest.mark.elastic(nprocs=3, faults=kill(rank=1, op=2) | kill(rank=2, op=1, of=0))
        def test_kill(world):
            world.store.set(f"x{world.rank}", "1")
            world.store.set("x", "1") if world.rank else world.store.get("x0")
            if world.rank == 2:
                time.sleep(60)

        @pytest.mark.elastic(nprocs=2, faults="X1@2=7")
        def test_exit(world):
            world.store.set(f"x{world.rank}", "1")
            if world.rank == 1:
                world.store.set("y", "1")
                assert False

        @pytest.mark.elastic(nprocs=2, faults="S1@bgo=300ms")
        def test_stop(world):
            began = time.monotonic()
            world.barrier("go")
            assert time.monotonic() - began > 0.25

        @pytest.mark.elastic(nprocs=2, faults=late_join(rank=1, by=0.3) | delay(rank=0, key="b", by=0.1))
        def test_late(world):
            began = time.monotonic()
            world.store.set("a", "1") if world.rank else world.store.get("a")
            world.store.set("b", "1") if world.rank == 0 else world.store.get("b")
            assert time.monotonic() - began > 0.35

        @pytest.mark.elastic(nprocs=2, faults=drop(rank=1, key="a"))
        def test_drop(world):
            if world.rank == 1:
                assert world.store.add("a", 4) == 4
            world.barrier()
            assert not world.store.check(["a"])

        @pytest.mark.elastic(nprocs=2, faults="G@bgo,2")
        def test_server_gone(world):
            with pytest.raises(DistNetworkError):
                world.barrier("go")

        @pytest.mark.elastic(nprocs=2, faults="K1@lhello")
        def test_line(world):
            if world.rank == 1:
                print("hello there", flush=True)
                time.sleep(60)

        @pytest.mark.elastic(nprocs=2, faults="S1@1+R1@0:ka")
        def test_resume(world):
            if world.rank == 1:
                world.store.set("a", "1")
            else:
                while not world.store.check(["a"]):
                    pass
        """,
        "--elastic-timeout=20",
    ).assert_outcomes(passed=8)


def test_what_never_happens_fails_the_test(run):
    """With the trigger and what was seen; in both styles."""
    result = run(
        """
        import pytest
        from pytest_elastic.faults import delay
        from pytest_elastic.launch import current_world

        @pytest.mark.elastic(nprocs=2, faults="K1@9")
        def test_marker(world):
            world.store.set("a", "1")

        @pytest.mark.elastic(nprocs=2, faults="K1@9")
        def test_that_fails_anyway(world):
            raise ValueError("this first")

        def test_fixture(elastic, elastic_faults):
            elastic_faults(delay(rank=0, barrier="epoch3", by=0.1))
            elastic.run(lambda rank, n: current_world().barrier("epoch2"), nprocs=2)
        """
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*test_marker*",
            "a planned fault did not happen",
            "kill(rank=1, op=9) never fired: rank 1 did 1 operations, the last one set('a')",
            "*ValueError: this first*",
            "*test_fixture*",
            "delay(rank=0, by=0.1, barrier='epoch3') never fired: rank 0 did [23] operations, 0 of 1 matches"
            " among the barriers 'world/barrier/epoch2/1'",
        ]
    )


def test_bad_plans_are_errors_of_collection(run):
    """What is wrong, where, and what is allowed."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2, faults="K2@1")
        def test_rank(world): pass
        """,
        test_other="""
import pytest

@pytest.mark.elastic(faults="K1@x")
def test_text(world): pass
""",
        test_third="""
import pytest

@pytest.mark.elastic(faults=["K1@1"])
def test_type(world): pass
""",
    )
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*.py:3: elastic(faults=...): fault plan: rank 2 in kill(rank=2, op=1) is not allowed; allowed: ranks 0 to 1 here",
            "*test_other.py:3: elastic(faults=...): fault plan, 'K1@x' at character 1 of 'K1@x': no fault is not allowed;*",
            "*test_third.py:3: elastic(faults=...): fault plan: [[]'K1@1'] is not allowed; allowed: a plan such as*",
        ]
    )


def test_a_plan_for_a_size_from_elsewhere(run):
    """The group's size is checked when it is known."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(faults="K3@1")
        def test_rank(world): pass

        def test_fixture(elastic, elastic_faults):
            elastic_faults("K2@1")
            elastic.run(lambda rank, n: None, nprocs=2)
        """
    )
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*FaultPlanError: fault plan: rank 3 in kill(rank=3, op=1) is not allowed*"])


def test_kill_points_are_all_or_a_sample(run):
    """Every kill point of a function, or a sample of them that the seed chooses."""
    code = """
        import pytest
        from pytest_elastic.launch import current_world
        from pytest_elastic.multiprocessing.errors import ChildFailedError

        def exchange(rank, world_size):
            current_world().store.set(f"x{rank}", "1")
            current_world().store.add("n", rank)

        def test_all(elastic, elastic_faults):
            points = elastic_faults.kill_points(exchange, nprocs=2)
            assert list(map(str, points)) == ["K0@1", "K0@2", "K1@1", "K1@2"]
            for plan in points:
                elastic_faults(plan)
                with pytest.raises(ChildFailedError) as caught:
                    elastic.run(exchange, nprocs=2)
                (rank,) = caught.value.failures
                assert (rank, caught.value.failures[rank].exitcode) == (plan.faults[0].rank, -9)

        @pytest.mark.parametrize("again", range(2))
        def test_sample(elastic, elastic_faults, again):
            print("sample:", *elastic_faults.kill_points(exchange, nprocs=3, sample=2))
            assert elastic_faults.plan.faults == ()
        """
    found = []
    for seed, tests in (("1", "all or sample"), ("2", "sample and 0")):
        result = run(code, "-k", tests, "-s", f"--elastic-seed={seed}")
        result.assert_outcomes(passed=3 if "all" in tests else 1)
        found += [line.rpartition("sample:")[2] for line in result.outlines if "sample:" in line]
    assert found[0] == found[1] != found[2]


def test_ranks_may_be_expected_to_die(run):
    """The others run on, and their values count; one that lives is a failure."""
    result = run(
        """
        import os, signal
        from pytest_elastic.launch import current_world

        def die(rank, world_size):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 2:
                os._exit(3)
            current_world().store.set("late", "1")
            return rank

        def test_ends(elastic):
            assert elastic.run(die, nprocs=4, expect={1: -9, 2: 3}) == [0, None, None, 3]

        def test_another_end(elastic):
            elastic.run(die, nprocs=4, expect={1: -9, 2: 4})

        def test_lives(elastic):
            elastic.run(lambda rank, n: rank, nprocs=2, expect={1: -9})
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_another_end*",
            "rank 2 exited with code 3 without a report (1 of 4 ranks failed)",
            "*test_lives*",
            "rank 1 returned, but was to be one that was killed by SIGKILL*",
        ]
    )


DECORATED = """
import os
from pathlib import Path
import pytest
from pytest_elastic.errors import DistStoreError
from pytest_elastic.simulator import RankFailed, replay
from pytest_elastic.store import barrier
from pytest_elastic.testing import faults

def exchange(rank, world_size, store):
    if "RANK" in os.environ:  # On a real one.
        Path(f"{os.getpid()}.run").touch()
    try:
        barrier(store, world_size, "a")
        store.set(f"x{rank}", "1")
    except DistStoreError:
        pass
"""


def test_every_single_kill(run, pytester):
    """In the simulator all, on real ranks a sample: with the run that counts them 5 times 3 ranks here.

    Who comes last to the barrier does an operation more; if another one did so when it was counted, a kill
    may not happen, and there is a run more.
    """
    result = run(
        DECORATED
        + """
@faults(single=True, sample=4)
def test_all(rank, world_size, store):
    exchange(rank, world_size, store)

@faults("X2@1=3")
def test_plan(rank, world_size, store):
    exchange(rank, world_size, store)

@faults(single=True, ranks=2, sample=0)
def test_in_the_simulator(rank, world_size, store):
    exchange(rank, world_size, store)
    assert "RANK" not in os.environ
"""
    )
    result.assert_outcomes(passed=3)
    runs, rest = divmod(len(list(pytester.path.glob("*.run"))), 3)
    assert rest == 0
    assert runs >= 5 + 1


def test_a_rank_that_does_not_bear_a_kill(run):
    """The simulator says it with a token, real ranks with the plan; the place is the test's own."""
    result = run(
        DECORATED
        + """
@faults(single=True, ranks=2)
def test_in_the_simulator(rank, world_size, store):
    barrier(store, world_size, "a")

def test_again():
    with pytest.raises(RankFailed):
        replay(test_in_the_simulator.function, "E1.2.l+K0@1", may_timeout=True)

@faults(single=True, ranks=2)
def test_on_ranks(rank, world_size, store):
    try:
        barrier(store, world_size, "a")
    except DistStoreError:
        if "RANK" in os.environ:
            raise
""",
        "-rf",
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_in_the_simulator*",
            "E *RankFailed: rank 1 failed at *.py:*: DistStoreError: Wait timeout after *",
            "E *replay(test_in_the_simulator.function, 'E1.2.l+K0@1.p*', may_timeout=True)",
            "*test_on_ranks*",
            "with the faults K?@?",
            "*DistStoreError: Wait timeout after 300000 ms, missing keys: 'a/last_member'*",
            "*cause: rank ? was killed by SIGKILL *",
            "replay: pytest *test_on_ranks --elastic-replay=*",
        ]
    )


def test_an_impossible_plan_is_an_error_of_the_decorator():
    """Said where it is decorated."""
    with pytest.raises(ValueError, match=r"faults\(\) takes a plan, such as 'K1@4', or single=True"):
        faults()
    with pytest.raises(FaultPlanError, match="rank 3 in"):
        faults("K3@1")


def test_a_stopped_rank_is_no_survivor(run):
    """A rank that is stopped for ever is a rank that hangs; the run ends within its limits."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2, faults="S1@1", timeout=1)
        def test_stop(world):
            world.store.set("a", "1")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["rank 1 did not finish within 1 s*"])
