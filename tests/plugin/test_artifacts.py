"""What a run leaves behind: a page for each failure, an index of them, and nothing for what is good."""

from __future__ import annotations

import json
import re
import textwrap

import pytest

from pytest_elastic.events import LineWritten, load

CODE = """
    import os
    import pytest
    pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)

    def test_asserts(rank):
        assert "OK" in os.environ, "plain"

    @pytest.fixture
    def ends_badly():
        yield
        1 / ("OK" in os.environ)

    def test_teardown(ends_badly): pass

    @pytest.mark.xfail
    def test_expected(rank): assert 0

    @pytest.mark.elastic(expect={1: "SIGKILL"})
    def test_dies(rank):
        rank and os.kill(os.getpid(), 9)

    @pytest.mark.parametrize("x", [0])
    @pytest.mark.elastic(nprocs=1)
    def test_passes(rank, x): pass
    """
FUNCTIONS = """
    import os
    def test_run(elastic):
        elastic.run(lambda rank, size: 1 / ("OK" in os.environ), nprocs=2)
    """


def left(pytester: pytest.Pytester) -> list[str]:
    """The tests for which there are files."""
    found = pytester.path.glob("**/.pytest_elastic/*/page.html")
    return sorted(re.sub(r"-\w{8}$", "", path.parent.name).rpartition("py-")[2] for path in found)


def test_the_last_line_is_the_page_and_an_index_lists_them(run, pytester, monkeypatch):
    """Of every failure, with the cause; all goes when the tests pass."""
    functions = {"test_functions": textwrap.dedent(FUNCTIONS)}
    result = run(CODE, **functions)
    result.assert_outcomes(passed=3, failed=2, errors=1, xfailed=1)
    pages = [line for line in result.outlines if line.startswith("page: ")]
    assert len(pages) == 3
    for page in pages:
        after = result.outlines[result.outlines.index(page) + 1]
        assert after.startswith(("____", "===="))
        assert (pytester.path / page.removeprefix("page: ")).is_file()
    assert left(pytester) == ["test_asserts", "test_run", "test_teardown"]
    index = pytester.path / ".pytest_elastic" / "index.html"
    text = index.read_text()
    links = re.findall(r'href="(.*?)">(.*?)</a><td>(.*?)<', text)
    assert all((index.parent / link).is_file() for link, _, _ in links)
    assert {(test.rpartition("::")[2], why) for _, test, why in links} == {
        ("test_asserts", "ranks 0-1: AssertionError: plain"),
        ("test_teardown", "ranks 0-1: ZeroDivisionError: division by zero"),
        ("test_run", "ranks 0-1: ZeroDivisionError: division by zero"),
    }
    monkeypatch.setenv("OK", "1")
    run(CODE, **functions).assert_outcomes(passed=5, xfailed=1)
    assert left(pytester) == []
    assert [path.name for path in index.parent.iterdir()] == [".gitignore"]


def test_paths_are_told_from_where_pytest_was_started(run, pytester, monkeypatch):
    """Also below the root of the tests."""
    pytester.makeini("[pytest]\n")
    below = pytester.mkdir("below")
    (below / "test_there.py").write_text("def test_it(rank): assert 0\n")
    monkeypatch.chdir(below)
    result = pytester.runpytest_subprocess("-p", "pytest_elastic.plugin", "test_there.py")
    result.stdout.fnmatch_lines(["page: ../.pytest_elastic/below-test_there.py-test_it-*/page.html"])


@pytest.mark.parametrize(
    ("trace", "kept"), [("failed", ["test_fails"]), ("on", ["test_fails", "test_passes"]), ("off", [])]
)
def test_which_pages_are_kept(run, pytester, trace, kept):
    """`--elastic-trace`: of failures, of all tests on ranks, of none; the index lists failures."""
    code = "def test_passes(world): world.barrier()\ndef test_fails(rank): assert 0\n"
    result = run(code, f"--elastic-trace={trace}", "-rP")
    result.assert_outcomes(passed=1, failed=1)
    assert left(pytester) == kept
    assert sum(line.startswith("page: ") for line in result.outlines) == len(kept)
    index = (pytester.path / ".pytest_elastic" / "index.html").read_text()
    assert ("test_fails" in index, "test_passes" in index) == (True, False)


OUTPUT = """
    import os, sys, time
    import pytest
    pytestmark = pytest.mark.elastic(nprocs=2, timeout=60, lifetime="module")

    def test_before(world):
        print("of another test")

    def test_writes(world):
        print("early", world.rank)
        time.sleep(0.1)
        world.barrier("between")
        time.sleep(0.1)
        os.system(f"echo late {world.rank} >&2")
        time.sleep(0.5)  # On a busy machine a line is seen late.
        assert 0
    """


def test_what_ranks_wrote_is_on_the_page_at_its_time(run, pytester):
    """Whoever wrote it, between the other events; and nothing of another test."""
    run(OUTPUT).assert_outcomes(passed=1, failed=1)
    (file,) = pytester.path.glob(".pytest_elastic/*/events.jsonl")
    found = [load(line) for line in file.read_text().splitlines()]
    assert [event.at for event in found] == sorted(event.at for event in found)
    for rank in range(2):
        mine = [event for event in found if event.rank == rank]
        told = [event.text if isinstance(event, LineWritten) else type(event).__name__ for event in mine]
        wanted = (f"early {rank}", "BarrierJoined", f"late {rank}", "PhaseEnded")
        after_setup = told[told.index("PhaseEnded") + 1 :]
        assert tuple(one for one in after_setup if one in wanted)[:4] == wanted
        assert "of another test" not in told
    assert "early 1" in file.with_name("page.html").read_text()


CAUSE = """
    import pytest

    @pytest.mark.elastic(nprocs=3, timeout=60, env={"MODE": "fast"})
    def test_waits(world):
        if world.rank != 1:
            world.barrier("never")

    def work(rank, world_size):
        if rank == 2:
            raise ValueError("no data")

    def test_run(elastic):
        elastic.run(work, nprocs=3)
    """


def test_the_page_says_what_the_report_says(run, pytester):
    """Who is the cause, the source around it, the line that repeats it, and what it ran in."""
    result = run(CAUSE)
    result.assert_outcomes(failed=2)
    data = {}
    for page in pytester.path.glob(".pytest_elastic/*/page.html"):
        (text,) = re.findall(r'application/json">(.*?)</script>', page.read_text(), re.DOTALL)
        data["waits" if "test_waits" in page.parent.name else "run"] = json.loads(text)
    waits, functions = data["waits"], data["run"]
    assert waits["failure"]["culprits"] == [1]
    assert f"replay: {waits['replay']}" in result.outlines
    assert '>           world.barrier("never")' in waits["failure"]["text"].splitlines()
    assert ["MODE", "fast"] in waits["environment"]
    assert functions["failure"]["culprits"] == [2]
    assert "run by" in functions["failure"]["headline"]
    assert '>           raise ValueError("no data")' in functions["failure"]["text"].splitlines()
    assert functions["replay"] == ""
