"""The `elastic` marker: which tests run on ranks, on how many, and what a bad one is told."""

from __future__ import annotations

import textwrap

import pytest


def test_sizes_and_ids(run):
    """A list makes an item per size, with the size last in its id; one number leaves the id alone."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=[2, 3])
        @pytest.mark.parametrize("dtype", ["f32", "bf16"])
        def test_list(world_size, dtype): assert world_size in (2, 3)

        @pytest.mark.elastic(nprocs=[1, 2])
        def test_plain(world_size): pass

        @pytest.mark.elastic(3)
        def test_one(world_size): assert world_size == 3

        @pytest.mark.elastic
        def test_default(world_size): assert world_size == 2
        """,
        "-v",
    )
    result.assert_outcomes(passed=8)
    text = result.stdout.str()
    for name in (
        "test_list[f32-nprocs2]",
        "test_list[bf16-nprocs3]",
        "test_plain[nprocs1]",
        "test_one PASSED",
    ):
        assert f"::{name}" in text


def test_ids_of_sizes_are_words_of_k(run):
    """Also where a list is on a parameter."""
    code = """
        import pytest

        @pytest.mark.elastic(nprocs=[2, 3])
        def test_list(world_size): assert world_size == 3

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.elastic(nprocs=[2, 3]))])
        def test_param(world_size, x): assert world_size == 3
        """
    run(code, "-k", "nprocs3 and not nprocs2").assert_outcomes(passed=2, deselected=2)


@pytest.mark.parametrize("how", ["option", "ini"])
def test_default_size(run, how):
    """`--elastic-nprocs`, or its ini twin, is the size of tests that do not say."""
    arguments = ["--elastic-nprocs=3"] if how == "option" else ["-o", "elastic_nprocs=3"]
    run("def test_it(world_size): assert world_size == 3", *arguments).assert_outcomes(passed=1)


def test_a_rank_fixture_is_enough(run):
    """A test that asks for a rank fixture is elastic; others run once, in pytest itself."""
    result = run(
        """
        import os

        def test_elastic(rank): assert os.environ["RANK"] == str(rank)

        def test_ordinary(): assert "RANK" not in os.environ
        """
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["elastic: 1 on ranks, start method fork (*"])


def test_a_users_fixture_wins(run):
    """A fixture of the user's own with one of our names is theirs, and makes no test elastic."""
    result = run(
        """
        import os, pytest

        @pytest.fixture
        def rank(): return "mine"

        def test_theirs(rank): assert rank == "mine" and "RANK" not in os.environ
        """
    )
    result.assert_outcomes(passed=1)
    assert "elastic:" not in result.stdout.str()


def test_a_users_fixture_over_ours(run):
    """One that asks for ours in turn keeps the test on ranks."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def rank(rank): return rank + 100

        def test_both(rank, world): assert rank == world.rank + 100
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["elastic: 1 on ranks*"])


def test_the_closest_mark_decides_key_by_key(run):
    """Marks of module, class and function add up."""
    result = run(
        """
        import os, pytest
        pytestmark = pytest.mark.elastic(nprocs=3, env={"WHERE": "module"})

        class TestIt:
            def test_module(self, world_size): assert (world_size, os.environ["WHERE"]) == (3, "module")

            @pytest.mark.elastic(nprocs=2)
            def test_function(self, world_size): assert (world_size, os.environ["WHERE"]) == (2, "module")
        """
    )
    result.assert_outcomes(passed=2)


BAD = {
    "nprocs=0": "elastic(nprocs=0): allowed are None, a whole number from 1, or a list*",
    "nprocs='4'": "elastic(nprocs='4'): allowed are None, a whole number from 1*",
    "nprocs=True": "elastic(nprocs=True): allowed are*",
    "nprocs=[2, 2]": "elastic(nprocs=[[]2, 2[]]) names a size twice*",
    "nprocs=[]": "elastic(nprocs=[[][]]): allowed are*",
    "nproc=2": "elastic() has no argument 'nproc'; allowed are nprocs, timeout, *",
    "2, 3": "elastic() takes one positional argument, nprocs, not 2",
    "timeout=-1": "elastic(timeout=-1): allowed are None and seconds*",
    "timeout=float('nan')": "elastic(timeout=nan): allowed are None and seconds*",
    "timeout='5'": "elastic(timeout='5'): allowed are*",
    "start_method='forkserver'": "elastic(start_method='forkserver'): allowed are None, 'auto', 'fork', 'spawn'",
    "lifetime='package'": "elastic(lifetime='package'): allowed are 'test', 'class', 'module', 'session'",
    "env={'A': 1}": "elastic(env={'A': 1}): allowed is a dict of str to str",
    "expect={7: 'SIGKILL'}, nprocs=2": "*7 is no rank of the test*",
    "expect={2: 'SIGKILL'}": "elastic(): rank 2 is not in the test, which has 2 (--elastic-nprocs)",
    "expect={1: 'SIGNOT'}": "*'SIGNOT' is no end*",
    "expect=['SIGKILL']": "*allowed is a dict of rank to*",
}


def test_a_bad_marker_is_a_collection_error(run):
    """It points at the test's file and line and says what is allowed; no test of the file runs."""
    code = """
        import pytest

        def test_other(): pass

        @pytest.mark.elastic({})
        def test_it(rank): pass
    """
    files = {f"test_{i:02}": textwrap.dedent(code.format(arguments)) for i, arguments in enumerate(BAD)}
    result = run("", **files)
    result.assert_outcomes(errors=len(BAD))
    result.stdout.fnmatch_lines([f"*test_{i:02}.py:5: {text}" for i, text in enumerate(BAD.values())])


def test_a_list_of_sizes_on_a_testcase(run):
    """Methods of unittest.TestCase cannot be parametrized: an error, not one silent size."""
    result = run(
        """
        import unittest, pytest

        class TestIt(unittest.TestCase):
            @pytest.mark.elastic(nprocs=[2, 3])
            def test_it(self): pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*:4: elastic(nprocs=[[]...[]]) is not for methods of unittest.TestCase"])


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--elastic-nprocs=0", "--elastic-nprocs: '0' is not allowed; it must be a whole number, at least 1"),
        ("--elastic-nprocs=two", "--elastic-nprocs: 'two' is not allowed*"),
        ("--elastic-timeout=nan", "--elastic-timeout: 'nan' is not allowed; it must be a number of seconds*"),
        (
            "--override-ini=elastic_ray_resources=CPU",
            "elastic_ray_resources: 'CPU' is not allowed; *CPU=2 GPU=1",
        ),
        ("--override-ini=elastic_leaks=ignore", "elastic_leaks: 'ignore' is not allowed; *warn, fail"),
    ],
)
def test_a_bad_option_is_a_usage_error(run, option, text):
    """One line that says what was wrong and what is allowed; nothing runs."""
    result = run("def test_it(rank): pass", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{text}"])


def test_markers_lists_it(run):
    """`--markers` shows the signature; `--strict-markers` knows it."""
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.elastic(nprocs=None, timeout=None, *"])
    code = "import pytest\n@pytest.mark.elastic\ndef test_it(): pass"
    run(code, "--strict-markers").assert_outcomes(passed=1)
