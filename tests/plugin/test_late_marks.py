"""Marks that reach a test after its items were made, and items that share an id: nothing runs on fewer ranks."""

from __future__ import annotations

from pathlib import Path


def test_a_list_makes_an_item_per_size_wherever_it_comes_from(run):
    """On a `pytest.param`, from hooks, on a class: each size has its item, its instance and its verdict."""
    result = run(
        """
        import os, pytest

        def test_hook(): assert os.environ["WORLD_SIZE"] == "2"

        SIZES = pytest.mark.elastic(nprocs=[1, 2])

        @pytest.mark.parametrize("x", [pytest.param("two", marks=SIZES), pytest.param("plain")])
        def test_param(x): assert ("WORLD_SIZE" in os.environ) == (x == "two")

        class TestMethods:
            def test_hook(self):
                self.mine = getattr(self, "mine", 0) + 1
                assert self.mine == 1

        def test_number(): assert os.environ["WORLD_SIZE"] == "3"
        """,
        "-v",
        conftest="""
            import pytest

            def pytest_itemcollected(item):
                if item.name == "test_number":
                    item.add_marker(pytest.mark.elastic(nprocs=3))

            @pytest.hookimpl(trylast=True)
            def pytest_collection_modifyitems(items):
                for item in items:
                    if item.name == "test_hook":
                        item.add_marker(pytest.mark.elastic(nprocs=[1, 2], lifetime="session"))
            """,
    )
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(
        [
            "elastic: 7 on ranks*",
            "*::test_hook[[]nprocs1] FAILED*",
            "*::test_hook[[]nprocs2] PASSED*",
            "*::test_param[[]two-nprocs1] PASSED*",
            "*::test_param[[]two-nprocs2] PASSED*",
            "*::test_param[[]plain] PASSED*",
            "*::TestMethods::test_hook[[]nprocs1] PASSED*",
            "*::TestMethods::test_hook[[]nprocs2] PASSED*",
            "*::test_number PASSED*",
        ]
    )


def test_an_item_of_a_param_is_found_by_its_id(run):
    """As on any parametrized test."""
    code = """
        import pytest

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.elastic(nprocs=[1, 2]))])
        def test_param(x, world_size): assert world_size == 2
        """
    result = run(code, "test_an_item_of_a_param_is_found_by_its_id.py::test_param[1-nprocs2]")
    result.assert_outcomes(passed=1)


def test_a_bad_late_mark_fails_its_item_in_words(run):
    """With the test's file and line; the other tests run."""
    result = run(
        """
        import unittest, pytest

        def test_four(): pass
        def test_both(elastic): pass
        def test_other(rank): pass
        @pytest.mark.elastic(nprocs=[1, 2])
        def test_list(rank): pass
        class TestCase(unittest.TestCase):
            def test_case(self): pass
        @pytest.fixture
        def late(request): request.applymarker(pytest.mark.elastic(nprocs=2))
        def test_while_it_runs(late): pass
        """,
        "-rfE",
        conftest="""
            import pytest

            LATE = {
                "test_four": pytest.mark.elastic(nprocs="four"),
                "test_both": pytest.mark.elastic(nprocs=2),
                "test_list[nprocs1]": pytest.mark.elastic(nprocs=[4, 5]),
                "test_list[nprocs2]": pytest.mark.elastic(nprocs=4),
                "test_case": pytest.mark.elastic(nprocs=[1, 2]),
            }

            def pytest_collection_modifyitems(items):
                for item in items:
                    if item.name in LATE:
                        item.add_marker(LATE[item.name], append=False)
            """,
    )
    result.assert_outcomes(passed=1, errors=5, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*words.py:3: elastic(nprocs='four'): allowed are None, a whole number from 1,*",
            "*words.py:4: a test that is marked `elastic` runs on ranks, and*",
            "*words.py:6: elastic(nprocs=[[]4, 5]) came too late: the items of the test were made for nprocs=[[]1, 2]",
            "*words.py:6: elastic(nprocs=[[]4]) came too late: the items of the test were made for nprocs=[[]1, 2]",
            "*words.py:9: elastic(nprocs=[[]...[]]) is not for methods of unittest.TestCase",
            "elastic() came while the test ran in pytest itself, too late to have it run on ranks",
        ]
    )
    assert "INTERNALERROR" not in result.stdout.str()


def test_doctests_of_a_marked_module_run_in_pytest(run):
    """They are no tests on ranks; what a hook marks of them fails in words."""
    code = """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        def three():
            '''
            >>> import os; three(), "RANK" in os.environ
            (3, False)
            '''
            return 3

        def test_three(rank): assert three() == 3
        """
    run(code, "--doctest-modules").assert_outcomes(passed=2)
    conftest = """
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.elastic(nprocs=2))
        """
    result = run(code, "--doctest-modules", conftest=conftest)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*elastic() is for test functions and methods, not for a DoctestItem"])


def test_items_with_one_id_are_told_apart(run):
    """Each runs its own function, by fork and by spawn; a file that is named twice runs twice."""
    result = run(
        """
        import pytest

        def first(rank): open(f"first{rank}", "a").write("x")
        def second(rank): assert 0, "the second"

        @pytest.mark.elastic(start_method="spawn")
        def third(rank): assert 0, "the third"

        def test_same(rank): open(f"same{rank}", "a").write("x")
        """,
        "--keep-duplicates",
        "--elastic-nprocs=1",
        *["test_items_with_one_id_are_told_apart.py"] * 2,
        conftest="""
            import pytest

            def pytest_collection_modifyitems(items):
                for name in ("first", "second", "third"):
                    parent = items[0].parent
                    made = pytest.Function.from_parent(parent, name="test_same", callobj=getattr(parent.obj, name))
                    items.append(made)
            """,
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["E *AssertionError: the second", "E *AssertionError: the third"])
    assert [Path(name).read_text() for name in ("first0", "same0")] == ["x", "xx"]
