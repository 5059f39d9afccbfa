"""What people see first of a failure of ranks: how long it is, and where the rest is."""

from __future__ import annotations

import re
from pathlib import Path


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
