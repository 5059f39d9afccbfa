"""Fixtures where they do not belong: one sentence that says where they do, at collection if that can be known."""

from __future__ import annotations

BOTH = "and one that asks for the fixture `elastic` stays in pytest and runs functions on ranks; this one does both"


def test_a_test_on_ranks_does_not_start_ranks(run):
    """Marker or rank fixture together with `elastic`, in any way: a collection error with file and line."""
    files = {
        "test_marked": "pytestmark = pytest.mark.elastic(2)\ndef test_it(elastic): pass",
        "test_faults": "pytestmark = pytest.mark.elastic(2)\ndef test_it(elastic_faults): pass",
        "test_fixture": "@pytest.fixture\ndef mine(elastic): pass\ndef test_it(mine, world): pass",
        "test_expires": "\ndef test_it(elastic, expires): pass",
        "test_single": "from pytest_elastic.testing import faults\npytestmark = pytest.mark.elastic\n"
        "@faults(single=True)\ndef test_it(rank, world_size, store): pass",
    }
    result = run("", "-q", **{name: f"import pytest\n{code}\n" for name, code in files.items()})
    result.assert_outcomes(errors=len(files))
    result.stdout.fnmatch_lines_random(
        [
            f"*test_marked.py:3: a test that is marked `elastic` runs on ranks, {BOTH}",
            f"*test_faults.py:3: a test that is marked `elastic` runs on ranks, {BOTH}"
            "; the faults of a test on ranks are in its marker: elastic(faults=...)",
            f"*test_fixture.py:4: a test that asks for `world` runs on ranks, {BOTH}",
            f"*test_expires.py:3: a test that asks for `expires` runs on ranks, {BOTH}"
            "; those functions import it: from pytest_elastic.timer import expires",
            f"*test_single.py:*: a test that is marked `elastic` runs on ranks, {BOTH}; *",
        ]
    )
    assert "KeyError" not in result.stdout.str()


def test_fixtures_of_ones_own(run):
    """A user's `elastic` is his own, on ranks too; `expires` of his own makes no test elastic."""
    run(
        """
        import os, pytest

        @pytest.fixture
        def elastic(): return "mine"

        @pytest.fixture
        def expires(): return "mine"

        @pytest.mark.elastic(nprocs=2)
        def test_marked(elastic, rank): assert elastic == "mine"

        def test_plain(expires): assert "RANK" not in os.environ
        """
    ).assert_outcomes(passed=2)


def test_expires_is_for_tests_on_ranks(run):
    """It makes a test elastic as every rank fixture does."""
    result = run(
        """
        import os

        def test_it(expires):
            with expires(after=60):
                assert "RANK" in os.environ
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["elastic: 1 on ranks, *"])


def test_fixtures_that_are_asked_for_late(run):
    """`request.getfixturevalue` and marks of hooks are not known at collection: one line, without a traceback."""
    result = run(
        """
        import pytest

        RANKS = ["world", "rank", "world_size", "elastic_store", "shared_tmp_path", "expires", "process_group"]

        @pytest.mark.parametrize("name", RANKS)
        def test_plain(request, name): request.getfixturevalue(name)

        @pytest.mark.elastic(nprocs=2)
        @pytest.mark.parametrize("name", ["elastic", "elastic_faults"])
        def test_marked(request, name): request.getfixturevalue(name)

        def test_marked_late(elastic): pass
        """,
        conftest="""
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name == "test_marked_late":
                    item.add_marker(pytest.mark.elastic(nprocs=2))
        """,
    )
    result.assert_outcomes(failed=9, errors=1)
    lines = result.stdout.str().splitlines()
    plain = [line for line in lines if line.startswith("`") and "is for tests on ranks" in line]
    assert plain == [
        f"`{name}` is for tests on ranks, and this one runs in pytest: mark it `elastic`, or have `{name}` as an argument"
        for name in ("world", "rank", "world_size", "elastic_store", "shared_tmp_path", "expires", "world")
    ]
    late = "`elastic` is for tests that stay in pytest and run functions on ranks, and this test runs on ranks itself"
    assert lines.count(late) == 2
    assert any(
        "a test that is marked `elastic` runs on ranks, and one that asks for" in line for line in lines
    )
    assert "KeyError" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_elastic_that_no_test_is_known_to_need(run):
    """Where no test asks for ranks none are set aside: the late one is told how to ask, in one line."""
    result = run(
        """
        import pytest

        def test_late(request): request.getfixturevalue("elastic")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "`elastic` must be an argument of a test or of a fixture: ranks are prepared before the first test runs"
        ]
    )


def test_elastic_asked_for_late_beside_others(run):
    """Where ranks were prepared for another test it works."""
    run(
        """
        def test_late(request):
            assert request.getfixturevalue("elastic").run(lambda rank, size: rank, nprocs=2) == [0, 1]

        def test_other(rank): pass
        """
    ).assert_outcomes(passed=2)
