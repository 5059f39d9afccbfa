"""Hypothesis' tests on ranks: all draw the same, and what fails is shown."""

from __future__ import annotations


def test_ranks_draw_the_same(run_with_libraries):
    """In functions, methods and machines, with parameters and interactive draws; barriers meet no deadline."""
    result = run_with_libraries(
        """
        import pytest
        from hypothesis import assume, given, settings, strategies as st
        from hypothesis.stateful import RuleBasedStateMachine, rule
        from pytest_elastic.launch._rank import current_world

        pytestmark = pytest.mark.elastic(nprocs=2)

        @settings(deadline=0.001, max_examples=20)
        @given(x=st.integers(), data=st.data())
        def test_function(world, x, data):
            assume(x % 3)
            drawn = (x, data.draw(st.binary(max_size=3)))
            assert world.gather(drawn) == [drawn, drawn]

        class TestMethods:
            @pytest.mark.parametrize("k", [1, 2])
            @settings(max_examples=20)
            @given(x=st.integers())
            def test_method(self, world, x, k): assert world.gather(x) == [x, x]

        class Machine(RuleBasedStateMachine):
            @rule(x=st.integers())
            def put(self, x): assert current_world().gather(x) == [x, x]

        TestMachine = Machine.TestCase
        TestMachine.settings = settings(max_examples=5, stateful_step_count=5)
        """,
        "-p",
        "hypothesispytest",
    )
    result.assert_outcomes(passed=4)


def test_the_example_that_fails_is_shown(run_with_libraries):
    """Whichever rank fails is the cause, with its own error and its example; no rank runs one twice."""
    result = run_with_libraries(
        """
        import pytest
        from hypothesis import given, strategies as st

        @pytest.mark.elastic(nprocs=2)
        @given(x=st.integers(), data=st.data())
        def test_one(world, x, data):
            assert data.draw(st.just(7)) == 7
            open(f"ran{world.rank}", "a").write(f"{x}\\n")
            world.barrier("example")
            if world.rank == 1:
                assert x < 100, "too big"

        @pytest.mark.elastic(nprocs=2)
        @given(chance=st.randoms(use_true_random=False))
        def test_unrepeatable(world, chance): assert chance.randrange(100) > 1000, "the cause"

        def test_counts():
            ran = [open(f"ran{rank}").read().split() for rank in range(2)]
            assert ran[0][: len(ran[1])] == ran[1]
            assert len(ran[0]) == len(ran[1]) + 1
            assert [int(x) >= 100 for x in ran[1]] == [False] * (len(ran[1]) - 1) + [True]
        """,
        "-p",
        "hypothesispytest",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "2 of 2 ranks failed: rank 1 first",
            "E * AssertionError: too big",
            "E * test_one(",
            "E *x=*",
            "E *Draw 1: 7",
            "*cause: rank 1 failed before joining*",
            "FAILED *::test_one - rank*: AssertionError: too big*",
            "FAILED *::test_unrepeatable - rank*: AssertionError: the cause*",
        ]
    )


def test_health_checks_are_those_of_a_plain_test(run_with_libraries):
    """A fixture of a function's scope is refused on ranks as in pytest; so is a rank's own of that scope."""
    result = run_with_libraries(
        """
        import pytest
        from hypothesis import HealthCheck, given, settings, strategies as st

        @given(x=st.none())
        def test_plain(tmp_path, x): pass

        @pytest.mark.elastic(nprocs=2)
        @given(x=st.none())
        def test_ranks(tmp_path, x): pass

        @pytest.mark.elastic(nprocs=2)
        @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(x=st.none())
        def test_allowed(tmp_path, x): pass
        """,
        "-p",
        "hypothesispytest",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["FAILED *::test_plain - *FailedHealthCheck*", "FAILED *::test_ranks - *FailedHealthCheck*"]
    )
