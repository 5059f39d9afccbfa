"""Marks that tests and hooks make in the ranks count in the merged outcome where all ranks made them."""

from __future__ import annotations


def test_marks_of_all_ranks_count(run):
    """By `request` and `node`, in fixtures of any scope, in the test, in hooks; strict and `raises` are kept."""
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        class Mine(Exception): pass

        @pytest.fixture
        def marked(request): request.applymarker(pytest.mark.xfail(reason="of a fixture"))

        def test_fixture(marked, rank): assert rank == 7

        def test_in_the_test(request, rank):
            request.node.add_marker(pytest.mark.xfail(reason=f"of rank {rank}"))
            assert rank == 7

        def test_one_fails(request, rank):
            request.node.add_marker(pytest.mark.xfail)
            assert rank == 0

        def test_raises(request, rank):
            request.node.add_marker(pytest.mark.xfail(raises=Mine))
            raise Mine

        def test_raises_another(request, rank):
            request.node.add_marker(pytest.mark.xfail(raises=Mine))
            raise ValueError

        def test_strict(request, rank): request.node.add_marker(pytest.mark.xfail(strict=True))

        def test_it_passes(marked, rank): pass

        def test_by_a_hook(rank): assert rank == 7

        def test_array(request, rank):
            request.node.add_marker(pytest.mark.sizes([1, 2]))
            request.node.add_marker(pytest.mark.xfail(run=False))
            assert rank == 7
        """,
        "-rA",
        "-o",
        "markers=sizes: of arrays",
        conftest="""
        import os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(item):
            if item.name == "test_by_a_hook" and "RANK" in os.environ:
                item.add_marker(pytest.mark.xfail(reason="of a hook"))
            return (yield)

        def pytest_runtest_logreport(report):
            if report.when == "call" and "RANK" not in os.environ and "sizes" in report.keywords:
                print("sizes came home")
        """,
    )
    result.assert_outcomes(xfailed=6, failed=2, xpassed=1)
    text = result.stdout.str()
    for name in (
        "fixture - of a fixture",
        "in_the_test - of rank 0",
        "one_fails",
        "raises",
        "by_a_hook - of a hook",
    ):
        assert f"::test_{name}" in text.partition("short test summary")[2]
    result.stdout.fnmatch_lines(["FAILED *::test_raises_another*", "FAILED *::test_strict*XPASS(strict)*"])
    assert "sizes came home" in text


def test_marks_of_some_ranks_do_not_count(run):
    """The ranks without the mark decide: a failure is a failure, whoever failed."""
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)
        marker = pytest.mark.xfail(reason="some")

        def test_the_marked_fails(request, rank):
            if rank == 0: request.node.add_marker(marker)
            assert rank != 0

        def test_the_other_fails(request, rank):
            if rank == 0: request.node.add_marker(marker)
            assert rank != 1

        def test_other_arguments(request, rank):
            request.node.add_marker(pytest.mark.xfail(rank == 0, reason="only of rank 0"))
            assert False

        def test_dies(request, rank):
            import os
            request.node.add_marker(marker)
            if rank == 1: os._exit(3)

        def test_cannot_be_sent(request, rank):
            class Local(Exception): pass
            request.node.add_marker(pytest.mark.xfail(raises=Local))
            raise Local

        def test_passes(request, rank):
            if rank == 0: request.node.add_marker(pytest.mark.xfail(strict=True))
        """
    )
    result.assert_outcomes(failed=5, passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*mark 'xfail' of a rank cannot be sent*"])


def test_marks_on_what_tests_share(run):
    """A mark that a fixture of a module puts on its module is there for each test, once, in kept ranks too."""
    run(
        """
        import os
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module")

        @pytest.fixture(scope="module", autouse=True)
        def known(request): request.applymarker(pytest.mark.xfail(reason="known"))

        def test_one(rank): assert rank == 7

        def test_two(rank): assert rank == 7

        def test_again(rank): assert rank == 7
        """,
        conftest="""
        def pytest_sessionfinish(session):
            (module,) = {item.parent for item in session.items}
            assert [mark.name for mark in module.own_markers].count("xfail") == 1
        """,
    ).assert_outcomes(xfailed=3)


def test_an_expected_death_has_no_say(run):
    """A rank that died as it was to is not asked for its marks."""
    run(
        """
        import os
        import pytest

        @pytest.mark.elastic(nprocs=3, expect={1: 3})
        def test_it(request, rank):
            if rank == 1: os._exit(3)
            request.node.add_marker(pytest.mark.xfail)
            assert False
        """
    ).assert_outcomes(xfailed=1)
