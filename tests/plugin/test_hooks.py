"""Hooks run on both sides: what they make of reports counts, and what they see breaks nothing."""

from __future__ import annotations

import textwrap


def test_what_hooks_in_ranks_make_of_a_report_counts(run):
    """Whichever way they change it, and whatever the same hooks make of the launcher's report."""
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        def test_soft(rank, note): note("failed", f"on {rank}")
        def test_soft_on_one(rank, note): rank and note("failed", "on one")
        def test_without_words(rank, note): note("failed", None)
        @pytest.mark.xfail
        def test_soft_and_marked(rank, note): note("failed", "in spite of the mark")
        def test_skipped_too_late(rank, note): note("skipped", (__file__, 1, "Skipped: by a hook"))
        def test_skipped_by_one(rank, note): rank and note("skipped", (__file__, 1, "Skipped: by one"))
        def test_forgiven(rank, note):
            note("passed", None)
            assert rank == 7
        def test_forgiven_on_one(rank, note):
            rank and note("passed", None)
            assert rank == 7
        def test_no_skip(rank, note):
            note("failed", "must not skip")
            pytest.skip("skips itself")
        def test_known(rank, note):
            note("xfailed", "a known issue")
            assert rank == 7
        def test_error_in_setup(rank, noted_in_setup): pass
        def test_in_teardown(rank, noted_in_teardown): pass
        def test_left_alone(rank): pass
        def test_hook_fails(rank): pass
        """,
        "-rA",
        conftest="""
        import os
        import pytest
        notes = pytest.StashKey()

        def taking(request, when): return lambda *noted: request.node.stash.__setitem__(notes, (when, *noted))
        @pytest.fixture
        def note(request): return taking(request, "call")
        @pytest.fixture
        def noted_in_setup(request): taking(request, "setup")("failed", "in the setup")
        @pytest.fixture
        def noted_in_teardown(request): taking(request, "teardown")("failed", "in the teardown")

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if "RANK" in os.environ and item.name == "test_hook_fails" and call.when == "call":
                raise ValueError("in the hook")
            when, outcome, text = item.stash.get(notes, ("", "", ""))
            if outcome == "xfailed" and call.when == when:
                report.outcome, report.wasxfail = "skipped", text
            elif call.when == when:
                report.outcome, report.longrepr = outcome, text
            elif item.name == "test_soft" and "RANK" not in os.environ:
                report.outcome, report.longrepr = "passed", None
            return report
        """,
    )
    result.assert_outcomes(failed=8, passed=3, skipped=1, xfailed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_soft *",
            "FAILED *::test_soft_on_one - rank*: on one",
            "FAILED *::test_without_words - rank*: a hook in the rank made it failed",
            "FAILED *::test_soft_and_marked - rank*: in spite of the mark",
            "SKIPPED * by a hook",
            "FAILED *::test_skipped_by_one - rank 1 skipped the test and rank 0 did not",
            "PASSED *::test_forgiven",
            "FAILED *::test_forgiven_on_one - rank 0: assert 0 == 7",
            "FAILED *::test_no_skip - rank*: must not skip",
            "XFAIL *::test_known - a known issue",
            "ERROR *::test_error_in_setup - rank*: in the setup",
            "ERROR *::test_in_teardown - rank*: in the teardown",
            "FAILED *::test_hook_fails - rank*: ValueError: in the hook",
            "2 of 2 ranks failed: ranks 0-1 alike",
            "1 of 2 ranks failed: rank 1 alone",
        ]
    )


def test_a_hook_in_the_launcher_sees_plain_values_of_fixtures(run):
    """Paths, numbers and parameters, of the rank that failed; another value is a warning, in any phase."""
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        class Thing: pass
        @pytest.fixture
        def thing(): return Thing()

        @pytest.mark.parametrize("size", [Thing])
        def test_fails(rank, tmp_path, size, thing): assert rank == 0
        def test_passes(rank, tmp_path, thing): pass
        @pytest.mark.xfail
        def test_xfails(rank, thing): assert rank == 7
        def test_after(rank): pass
        def test_broken(rank): pass
        """,
        conftest="""
        import os
        import pytest

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.failed and "RANK" not in os.environ and "size" in item.fixturenames:
                rank, path, size = (item.funcargs[name] for name in ("rank", "tmp_path", "size"))
                print("SEEN", rank, path.name, path.parent.name, size.__name__, "thing" in item.funcargs)
                print("TEXT", report.longreprtext.count("1 of 2 ranks failed: rank 1 alone"))
            if "thing" in item.fixturenames:
                item.funcargs["thing"].used = True
            if item.name == "test_broken" and report.when == "call" and "RANK" not in os.environ:
                item.stash[pytest.StashKey()]
            return report

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_setup(item):
            yield
            if "thing" in item.fixturenames:
                item.funcargs["thing"].used = True

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(item):
            if "thing" in item.fixturenames:
                item.funcargs["thing"].used = True
            return (yield)

        def pytest_runtest_teardown(item):
            if "thing" in item.fixturenames:
                item.funcargs["thing"].used = True
        """,
    )
    result.assert_outcomes(failed=2, passed=2, xfailed=1, warnings=4)
    result.stdout.fnmatch_lines(["*SEEN 1 test_fails_Thing_0 1 Thing False", "TEXT 1"])
    result.stdout.fnmatch_lines(
        [
            "*KeyError*",
            "a hook failed in pytest's process, where this test has no fixtures*",
            "*ElasticWarning: a hook of pytest_runtest_call did not go on in pytest's process: "
            "the value of the fixture 'thing' is in the ranks, where the hook runs as well",
        ]
    )


def test_expected_errors_are_judged_by_type(run):
    """Errors that cannot be had in the launcher, of a type only the rank has; by all ranks."""
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        class Two(Exception):
            def __init__(self, a, b): super().__init__(f"{a} {b}")
        class Local(Exception): pass
        def make():
            class Inner(Exception): pass
            return Inner
        Inner = make()

        @pytest.mark.xfail(raises=Two, strict=True)
        def test_arguments(rank): raise Two(1, 2)
        @pytest.mark.xfail(raises=SystemExit)
        def test_exit(rank): raise SystemExit(3)
        @pytest.mark.xfail(raises=(KeyError, Inner), reason="inner")
        def test_type_of_a_function(rank): raise Inner
        @pytest.mark.xfail(raises=pytest.RaisesExc(Two, match="1 2"))
        def test_matched(rank): raise Two(1, 2)
        @pytest.mark.xfail(raises=Two)
        def test_lambda(rank):
            error = Two(1, 2)
            error.call = lambda: None
            raise error

        @pytest.mark.xfail(raises=KeyError)
        def test_another(rank): raise Two(1, 2)
        @pytest.mark.xfail(raises=KeyError)
        def test_another_exit(rank): raise SystemExit(3)
        @pytest.mark.xfail(raises=Two)
        def test_another_on_one(rank):
            if not rank:
                raise Two(1, 2)
            raise ValueError("of rank 1")
        """,
        "-rx",
    )
    result.assert_outcomes(xfailed=5, failed=3)
    result.stdout.fnmatch_lines(["XFAIL *::test_type_of_a_function - inner"])
    result.stdout.fnmatch_lines(["*ValueError: of rank 1"])


def test_subtests_are_reported_as_those_of_a_plain_test(run):
    """All that failed, on whichever rank, one report each; where the body fails as well; skipped ones."""
    result = run(
        """
        import unittest
        import pytest
        pytestmark = pytest.mark.elastic(nprocs=2)

        def test_some(subtests, rank):
            for i in range(4):
                with subtests.test(i=i):
                    assert i % 2 == 0, f"odd {i}"
        def test_body(subtests, rank):
            with subtests.test("first"): assert rank == 0
            with subtests.test(text="words"): pass
            assert 0, "in the body"
        def test_skips(subtests, rank):
            with subtests.test("all"): pytest.skip("all")
        def test_partial(subtests, rank):
            with subtests.test("partial"):
                if rank: pytest.skip("one")
        def test_same(subtests, rank):
            for number in range(3):
                with subtests.test("again"): assert number != 1
        @pytest.mark.xfail
        def test_expected(subtests, rank):
            with subtests.test("expected"): assert 0
        class TestCase(unittest.TestCase):
            def test_cases(self):
                for i in range(3):
                    with self.subTest(i=i): self.assertEqual(i, 1)
        """,
        "-v",
        "-rA",
    )
    result.stdout.fnmatch_lines_random(
        [
            "SUBFAILED(i=1) *::test_some - rank*: AssertionError: odd 1",
            "SUBFAILED(i=3) *::test_some - rank*: AssertionError: odd 3",
            "FAILED *::test_some - rank*: contains 2 failed subtests",
            "SUBFAILED[[]first] *::test_body - rank 1: assert 1 == 0",
            "FAILED *::test_body - rank*: AssertionError: in the body",
            "* SUBPASSED(text='words') *",
            "SUBSKIPPED[[]all] *: all",
            "SUBFAILED[[]partial] *::test_partial - rank 1 skipped the test and rank 0 did not",
            "FAILED *::test_partial - contains 1 failed subtest",
            "FAILED *::test_same - rank*: contains 1 failed subtest",
            "SUBXFAIL[[]expected] *::test_expected",
            "FAILED *::test_cases - rank*: contains 2 failed subtests",
            "rank 1: Skipped: one",
        ]
    )
    result.assert_outcomes(failed=12, passed=1, skipped=1, xfailed=1, xpassed=1)
    assert "6 subtests passed" in result.stdout.str()


def test_what_other_plugins_keep_is_the_same_on_both_sides(run, pytester):
    """Outcomes of earlier tests, in the manner of pytest-dependency; the XML report; what cannot be is said."""
    result = run(
        """
        import logging
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_first(rank): pass
        def test_plain(): pass
        @pytest.mark.elastic(nprocs=2)
        def test_third(rank, request):
            assert request.session.dependencyManager == ["test_first", "test_plain"]

        @pytest.mark.elastic(nprocs=2)
        def test_recorded(rank, record_xml_attribute, record_testsuite_property, extras):
            record_xml_attribute("serial", 7)
            record_testsuite_property("same", 1)
            record_testsuite_property("rank", rank)
            logging.info("logged by %d", rank)
        """,
        "--junitxml=report.xml",
        "-o",
        "junit_family=xunit1",
        "-o",
        "log_cli=true",
        "-o",
        "log_cli_level=INFO",
        "-o",
        "elastic_log=all",
        "-rA",
        "--log-file=log.txt",
        "--log-file-level=INFO",
        conftest="""
        import pytest

        @pytest.fixture
        def extras(): return []

        def pytest_runtest_setup(item):
            outcomes = item.session.__dict__.get("dependencyManager", [])
            if item.name == "test_third" and "test_plain" not in outcomes:
                pytest.skip("an outcome is not known")

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            if call.when == "call":
                item.session.__dict__.setdefault("dependencyManager", []).append(item.name)
            return (yield)
        """,
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "elastic: what ranks append to `extras` is not in the report",
            "[[]rank0]:INFO *logged by 0",
        ]
    )
    xml = (pytester.path / "report.xml").read_text()
    for name, value in (("same", "1"), ("rank[rank0]", "0"), ("rank[rank1]", "1")):
        assert xml.count(f'<property name="{name}" value="{value}" />') == 1
    assert xml.count('serial="7"') == 1
    logged = (pytester.path / "log.txt").read_text()
    assert sorted(line[-1] for line in logged.splitlines() if "logged by" in line) == ["0", "1"]


def test_a_plugin_that_runs_tests_again_does_so_in_pytest_alone(run, pytester):
    """As pytest-retry does it, from within a hook: all ranks run again, and none by itself."""
    package = pytester.mkpydir("pytest_retry")
    (package / "again.py").write_text(
        textwrap.dedent(
            """
            import pytest

            @pytest.hookimpl(wrapper=True, tryfirst=True)
            def pytest_runtest_makereport(item, call):
                report = yield
                if call.when == "call" and report.failed:
                    hook = item.ihook
                    hook.pytest_runtest_teardown(item=item, nextitem=None)
                    item._initrequest()
                    pytest.CallInfo.from_call(lambda: hook.pytest_runtest_setup(item=item), when="setup")
                    again = pytest.CallInfo.from_call(lambda: hook.pytest_runtest_call(item=item), when="call")
                    report = pytest.TestReport.from_item_and_call(item, again)
                return report
            """
        ),
        "utf-8",
    )
    result = run(
        """
        import pytest
        from pathlib import Path

        @pytest.mark.elastic(nprocs=2)
        def test_second_time(world):
            with open(f"ran{world.rank}", "a") as file: file.write("x")
            world.barrier()
            assert world.rank == 0 or len(Path("ran1").read_text()) == 2

        @pytest.mark.elastic(nprocs=2)
        def test_never(world):
            world.barrier()
            assert world.rank == 0

        def test_counts():
            assert [Path(f"ran{rank}").read_text() for rank in range(2)] == ["xx", "xx"]
        """,
        "-p",
        "pytest_retry.again",
    )
    result.assert_outcomes(passed=2, failed=1)
