"""What people see first of a failure of ranks: how long it is, and where the rest is."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from pytest_elastic.hang import Frame, Stack
from pytest_elastic.report import stack_text


def test_a_failure_of_many_ranks_fits_on_a_page(run, pytester):
    """Though each says, prints and ends in something of its own; the files that it names have all."""
    functions = "\n".join(
        f"def f{number}(rank):\n    if rank == {number}:\n        raise ValueError(chr(97 + rank))"
        for number in range(24)
    )
    code = (
        f"import pytest\n{functions}\n"
        "@pytest.mark.elastic(nprocs=24, timeout=60)\n"
        "def test_it(rank, world):\n"
        "    [print(rank, line) for line in range(30)]\n"
        "    world.barrier()\n"
        "    globals()[f'f{rank}'](rank)\n"
    )
    text = run(code).stdout.str()
    assert len(text.partition("= FAILURES =")[2].splitlines()) <= 120
    (rest,) = re.findall(r"\((\d+ more lines: .*report\.txt)\)", text)
    whole = Path(pytester.path, rest.partition(": ")[2]).read_text()
    for rank in range(24):
        assert re.search(rf"^E +ValueError: {chr(97 + rank)}$", whole + text, re.MULTILINE)
    (logs,) = re.findall(r"\(whole files: (.*)/rank\*/\*\.log\)", text)
    assert Path(logs, "rank23", "stdout.log").read_text().startswith("23 0\n")


def test_one_assertion_of_many_ranks_is_shown_once(run):
    """With a table of its values; equal output, too, is shown once."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=8, timeout=60)
        def test_it(rank):
            print("loading")
            loss = 3 if rank < 6 else rank
            assert loss < 1, f"rank {rank} has loss {loss}"
        """
    )
    result.stdout.fnmatch_lines(
        [
            "8 of 8 ranks failed: ranks 0-7 alike",
            "-* ranks 0-7 differ here -*",
            "AssertionError: rank {rank} has loss {a}; by rank:",
            "  0-5: 3  6: 6    7: 7",
            "-* Captured stdout [[]ranks 0-7[]] call -*",
            "loading",
            "(whole file: */rank0/stdout.log)",
        ]
    )
    text = result.stdout.str()
    assert (text.count("\nloading\n"), text.count("assert loss < 1")) == (1, 1)


OURS = re.compile(r"_pytest|pluggy|pytest_elastic[/.]\w|/torch/|<frozen")


def test_no_frame_of_the_harness_is_in_a_traceback(run):
    """In any phase, on the ranks and in pytest, in each style; all frames of the user are."""
    code = """
        import json
        import pytest
        import unittest
        pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)

        @pytest.fixture
        def broken():
            raise ValueError("in a fixture")

        @pytest.fixture
        def broken_later():
            yield
            raise ValueError("in a teardown")

        class TestUnit(unittest.TestCase):
            def setUp(self):
                raise ValueError("in setUp")
            def test_unit(self):
                pass

        def test_setup(broken): pass
        def test_teardown(broken_later): pass
        def test_hook(rank): pass
        def test_asks(request):
            request.getfixturevalue("broken")
        def test_chain(world):
            try:
                world.gather(lambda: 1)
            except TypeError as error:
                raise RuntimeError("other words") from error
        def test_library(rank):
            json.loads("{")
        """
    hook = """
        def pytest_runtest_setup(item):
            if "hook" in item.name:
                raise ValueError("in a hook")
        """
    for style in ("long", "native"):
        result = run(code, f"--tb={style}", conftest=textwrap.dedent(hook))
        result.assert_outcomes(failed=4, errors=3, passed=1)
        text = result.stdout.str().partition("= ERRORS =")[2].partition("= short test summary")[0]
        assert [line for line in text.splitlines() if OURS.search(line) and "page: " not in line] == []
        shown = [
            'request.getfixturevalue("broken")',
            'raise ValueError("in a fixture")',
            'raise ValueError("in a teardown")',
            'raise ValueError("in a hook")',
            'raise ValueError("in setUp")',
            "world.gather(lambda: 1)",
            'json.loads("{")',
            "decoder.py",
        ]
        assert [line for line in shown if line not in text] == []


def test_a_stack_shows_the_users_calls_with_their_source(run):
    """Libraries are a line, the harness is nothing, and the kernel's functions are words."""
    result = run(
        """
        import pytest, socket, queue

        def listen(server):
            return server.accept()

        @pytest.mark.elastic(nprocs=2, timeout=1)
        def test_it(rank):
            if rank:
                queue.Queue().get()
            with socket.create_server(("127.0.0.1", 0)) as server:
                listen(server)
        """
    )
    result.stdout.fnmatch_lines(
        [
            "  *rank 0: waits in accept() on port * at *.py:4*",
            "  test_it *.py:11 → listen *.py:4 → accept socket.py:* [[]0]",
            "-* rank 0 hung here -*",
            "  */test_a_stack*.py:11 in test_it",
            "      listen(server)",
            "  */test_a_stack*.py:4 in listen",
            "      return server.accept()",
            "  … accept socket.py:*",
            "-* rank 1 hung here -*",
            "  */test_a_stack*.py:9 in test_it",
            "      queue.Queue().get()",
            "  … get queue.py:* → *",
        ]
    )
    text = result.stdout.str().partition("= FAILURES =")[2]
    assert [line for line in text.splitlines() if OURS.search(line) and ".pytest_elastic/" not in line] == []


def test_a_rank_without_a_frame_of_the_test_says_so():
    """No frame of pytest stands for it."""
    idle = Stack((Frame("/x/pluggy/_manager.py", 1, "call"),), True)
    assert stack_text([idle]) == "  in pytest itself, in no code of the test"


def test_a_deep_stack_shows_its_end():
    """And how many calls are before."""
    stack = Stack(tuple(Frame("t.py", line, "f") for line in range(20)), True)
    lines = stack_text([stack]).splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("  … 8 more calls", "  t.py:19 in f", 13)


def test_the_fixture_that_runs_functions_is_shown_in_few_words(run):
    """As an argument of a test that fails by itself."""
    code = """
        def test_it(elastic):
            assert elastic.run(lambda rank, size: rank, nprocs=2) == [0, 2]
        """
    run(code).stdout.fnmatch_lines(["elastic = Elastic(default_nprocs=2, default_timeout=60.0)"])
