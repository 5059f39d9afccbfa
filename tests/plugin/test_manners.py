"""To everything else of pytest an elastic item is an ordinary item: one item, one outcome."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

CODE = """
import pytest

@pytest.mark.elastic(nprocs=2)
def test_a(rank):
    print("out of", rank)

@pytest.mark.elastic(nprocs=2)
def test_b(rank):
    assert rank == 0

@pytest.mark.elastic(nprocs=2)
def test_c(rank):
    pass

def test_plain():
    pass
"""


def test_counts(run):
    """Four items, four outcomes."""
    run(CODE).assert_outcomes(passed=3, failed=1)


def test_exitfirst(run):
    """`-x` stops after the failure."""
    run(CODE, "-x").assert_outcomes(passed=1, failed=1)


def test_keyword_and_mark(run):
    """`-k` and `-m` choose."""
    run(CODE, "-k", "test_c or plain").assert_outcomes(passed=2, deselected=2)
    run(CODE, "-m", "elastic").assert_outcomes(passed=2, failed=1, deselected=1)


def test_collect_only_starts_no_ranks(run):
    """`--collect-only` lists items and forks nothing."""
    result = run(CODE, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_a", "*::test_plain"])


def test_last_failed_and_stepwise(run):
    """`--lf` runs what failed; `--sw` starts there."""
    assert run(CODE).ret == 1
    run(CODE, "--lf").assert_outcomes(failed=1)
    run(CODE, "--sw").assert_outcomes(passed=1, failed=1)
    run(CODE, "--sw").assert_outcomes(failed=1, deselected=1)


def test_junit(run):
    """One case per item; the failure's text has the rank's traceback."""
    run(CODE, "--junitxml=junit.xml", "-o", "junit_logging=all")
    cases = {case.get("name"): case for case in ElementTree.parse("junit.xml").iter("testcase")}
    assert sorted(cases) == ["test_a", "test_b", "test_c", "test_plain"]
    failure = cases["test_b"].find("failure")
    assert failure.get("message") == "rank 1: assert 1 == 0"
    assert "1 of 2 ranks failed: rank 1 alone" in failure.text


def test_properties_in_junit(run):
    """`record_property` of each rank is in the case, with the rank in its name."""
    run("def test_it(rank, record_property): record_property('n', rank)", "--junitxml=junit.xml")
    found = [(p.get("name"), p.get("value")) for p in ElementTree.parse("junit.xml").iter("property")]
    assert found == [("n[rank0]", "0"), ("n[rank1]", "1")]


def test_live_lines(run):
    """`-s`: whole lines as they come, with the rank in front."""
    result = run("def test_it(rank): print('hello from', rank)", "-s")
    result.stdout.fnmatch_lines_random(["*[[]rank0]:hello from 0", "*[[]rank1]:hello from 1"])


def test_verbose_and_durations(run):
    """`-v` shows one line per item; `--durations` has its phases."""
    code = "import time\ndef test_it(rank): time.sleep(0.2)\n"
    result = run(code, "-v", "--durations=3", "--durations-min=0.1")
    result.stdout.fnmatch_lines(["*::test_it PASSED*", "*0.2*s call*test_it"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_setup_show(run, method):
    """`--setup-show` shows the fixtures of a rank."""
    code = "def test_it(rank, tmp_path): pass"
    result = run(code, "--setup-show", f"--elastic-start-method={method}", "--elastic-nprocs=1")
    result.stdout.fnmatch_lines(["*SETUP    S rank*", "*SETUP    F tmp_path*", "*TEARDOWN F tmp_path*"])


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only"])
def test_setup_without_call(run, pytester, option):
    """Fixtures are shown, bodies do not run."""
    result = run("def test_it(rank): open('ran', 'w')", option)
    result.stdout.fnmatch_lines(["*SETUP    S rank*"])
    assert result.ret == 0
    assert not (pytester.path / "ran").exists()


def test_xdist(run):
    """`-n 2`: the same outcomes and the same text."""
    pytest.importorskip("xdist")
    result = run(CODE, "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["1 of 2 ranks failed: rank 1 alone", "E*assert 1 == 0"])


@pytest.mark.parametrize("plugin", ["no:timeout", "no:xdist"])
def test_without_a_plugin(run, plugin):
    """Nothing needs xdist or pytest-timeout to be loaded."""
    run(CODE, "-p", plugin).assert_outcomes(passed=3, failed=1)


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_captures(run, capture):
    """Every way of capturing gives the same outcomes, and the ranks' output where it was lost by others."""
    code = "import os\ndef test_it(rank):\n    os.system('echo from C')\n    assert 0\n"
    result = run(code, f"--capture={capture}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Captured stdout [[]ranks 0-1] call*", "from C"])


def test_reruns(run):
    """pytest-rerunfailures runs the item again on fresh ranks."""
    pytest.importorskip("pytest_rerunfailures")
    result = run(
        """
        import os, pytest

        @pytest.mark.elastic(nprocs=2)
        def test_it(rank, world):
            world.barrier()
            if rank == 0 and not os.path.exists("second"):
                open("second", "w").close()
                assert 0
        """,
        "-p", "rerunfailures", "--reruns=1",
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 rerun*"])


def test_coverage(run):
    """Lines that only ranks run are covered, without any configuration."""
    pytest.importorskip("pytest_cov")
    result = run(
        "import mod\ndef test_it(rank): assert mod.f(rank) == rank\n",
        *("-p", "pytest_cov", "--cov=mod", "--cov-report=term-missing"),
        mod="def f(rank):\n    if rank == 1:\n        return 1\n    return 0\n",
    )
    result.stdout.fnmatch_lines(["mod.py * 100%"])


@pytest.mark.parametrize(("option", "shown"), [("failed", True), ("all", True), ("none", False)])
def test_log_of_passing_tests(run, option, shown):
    """`-rP` asks for that of passing tests, unless `--elastic-log` wants none."""
    result = run("def test_it(rank): print('out')", f"--elastic-log={option}", "-rP")
    assert ("stdout [ranks 0-1]" in result.stdout.str()) is shown


def test_log_none_hides_output_of_failures(run):
    """`--elastic-log=none` shows the failure alone."""
    result = run("def test_it(rank):\n    print('out')\n    assert 0\n", "--elastic-log=none")
    assert "Captured stdout" not in result.stdout.str()


def test_long_output_is_cut_to_its_end(run):
    """The last 40 lines, and the path of the whole file."""
    code = "def test_it(rank):\n    for i in range(100):\n        print('line', i)\n    assert rank\n"
    result = run(code)
    text = result.stdout.str()
    assert "\nline 60\n" in text
    assert "\nline 59\n" not in text
    result.stdout.fnmatch_lines(["(the end of it; whole file: *stdout.log)"])


def test_warnings(run):
    """A warning on ranks is in the summary once, against the item; filters hold in the ranks."""
    code = """
    import warnings, pytest

    def test_warns(rank): warnings.warn("careful")

    @pytest.mark.filterwarnings("error")
    def test_error(rank): warnings.warn("careful")
    """
    result = run(code)
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*::test_warns", "*UserWarning: careful"])


def test_a_run_without_elastic_tests_imports_nothing_heavy(run, monkeypatch):
    """No test on ranks: neither psutil nor the parts that start processes are loaded."""
    monkeypatch.setenv("ELASTIC_FRESH", "1")  # Not a fork of the template, which has imported everything.
    result = run(
        """
        import sys

        def test_it():
            heavy = {"psutil", "hypothesis", "pytest_elastic.launch", "pytest_elastic.store"}
            assert not heavy & set(sys.modules)
        """,
        "-p", "no:hypothesispytest", "-p", "no:xdist",
    )  # fmt: skip
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "plugin", ["terminal", "capture", "setuponly", "setupplan", "debugging", "logging", "skipping"]
)
def test_plugins_of_pytests_own_may_be_off(run, plugin):
    """The options that they bring are not asked for, in pytest and in ranks."""
    result = run("def test_plain(): pass\ndef test_it(rank): pass\n", "-p", f"no:{plugin}")
    assert (result.ret, result.stderr.str()) == (0, "")


def test_without_temporary_directories_there_are_no_ranks(run):
    """One line says so; other tests run."""
    assert run("def test_plain(): pass", "-p", "no:tmpdir").ret == 0
    result = run("def test_it(rank): pass", "-p", "no:tmpdir")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tests on ranks need pytest's plugin for temporary directories*"])
    result = run("def test_plain(): pass\ndef test_it(rank): pass", "-p", "no:tmpdir")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tests on ranks need pytest's plugin for temporary directories*"])
