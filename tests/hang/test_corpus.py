"""Recall on real processes: every kernel of the corpus is named as it should be, and no fixed twin is accused.

A kernel is a module of two tests.  `test_buggy` hangs (but for those whose verdict is none): in its report
must be the verdict, the ranks and the keys that the module says, and ranks must stand at the line that is
marked.  `test_fixed` passes, and nothing is said of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from interpreters import Template
from kernel_run import KernelRun, expected_of, run_kernels
from shared_run import done_once

CORPUS = Path(__file__).parent / "corpus"
KERNELS = sorted(path.stem for path in CORPUS.glob("k*.py"))
NOT_HANGING = {"k09_prefix_reuse", "k14_short_timeout"}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, template: Template) -> KernelRun:
    """One run of them all."""

    def run(directory: Path) -> None:
        run_kernels(template, directory, CORPUS, seconds=240)

    return KernelRun(done_once(tmp_path_factory, "corpus", run))


def marked(kernel: str) -> set[int]:
    """The lines where ranks hang or stand."""
    lines = (CORPUS / f"{kernel}.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith(("# hangs", "# stands"))}


def standing(branches: list[dict[str, Any]], above: int = 0) -> dict[int, set[int]]:
    """Rank -> the innermost lines at which its threads stand."""
    found: dict[int, set[int]] = {}
    for branch in branches:
        calls = [call for call in branch["calls"] if not call["native"]]  # There are, where py-spy is.
        line = calls[-1]["line"] if calls else above
        below = standing(branch["branches"], line)
        for rank in branch["ranks"]:
            found.setdefault(rank, set()).update(below.get(rank, {line}))
    return found


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) - NOT_HANGING))
def test_a_hang_is_named(corpus: KernelRun, kernel: str) -> None:
    """With the right verdict, ranks, keys and line."""
    expected, found = expected_of(CORPUS / f"{kernel}.py"), corpus.diagnosis(kernel, "test_buggy")
    assert corpus.failed(kernel, "test_buggy")
    assert found is not None, corpus.output
    seen = (found["verdict"], found["ranks"], sorted(found["keys"]))
    assert seen == (expected.VERDICT, expected.RANKS, sorted(expected.KEYS)), found["text"]
    assert getattr(expected, "CAUSE", "") in found["cause"]
    assert corpus.properties(kernel, "test_buggy")["elastic.verdict"].startswith(expected.VERDICT)
    lines = standing(found["stacks"])
    about = found["doomed"] or found["ranks"]
    if marked(kernel):
        assert all(marked(kernel) & lines.get(rank, set()) for rank in about), found["text"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_fixed_twin_is_not_accused(corpus: KernelRun, kernel: str) -> None:
    """It passes, and no diagnosis is written."""
    assert not corpus.failed(kernel, "test_fixed"), corpus.output
    assert corpus.diagnosis(kernel, "test_fixed") is None


@pytest.mark.parametrize("kernel", sorted(NOT_HANGING))
def test_a_failure_that_is_no_hang_is_called_none(corpus: KernelRun, kernel: str) -> None:
    """What is wrong with a barrier is said, and nobody is accused."""
    expected = expected_of(CORPUS / f"{kernel}.py")
    assert corpus.failed(kernel, "test_buggy")
    assert corpus.diagnosis(kernel, "test_buggy") is None
    said = corpus.properties(kernel, "test_buggy").get("elastic.verdict", "")
    assert said.partition(":")[0] == (expected.VERDICT or "")
