"""Many ranks: descriptors are there for them, or one error says what is missing."""

from __future__ import annotations

import sys
import textwrap

import pytest
from interpreters import ALONE

CODE = """
    import resource
    import pytest

    @pytest.mark.elastic(nprocs=24, timeout=100)
    def test_marked(world):
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 64
        assert len(world.gather(1)) == 24

    def test_run(elastic):
        limits = elastic.run(lambda rank, size: resource.getrlimit(resource.RLIMIT_NOFILE)[0], nprocs=20)
        assert set(limits) == {64}

    @pytest.mark.elastic(nprocs=2)
    def test_few(world):
        world.barrier()
"""


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run_limited(pytester: pytest.Pytester, limit: str) -> pytest.RunResult:
    pytester.makepyfile(textwrap.dedent(CODE))
    command = f"ulimit {limit}; exec {sys.executable} -m pytest -p no:cacheprovider {' '.join(ALONE)}"
    return pytester.run("sh", "-c", command, timeout=60)


def test_the_soft_limit_of_descriptors_is_raised_and_ranks_have_it_as_it_was(pytester):
    """To the hard one, in pytest and in what holds the descriptors of all ranks."""
    run_limited(pytester, "-S -n 64").assert_outcomes(passed=3)


def test_too_many_ranks_for_the_descriptors_are_one_error(pytester):
    """Before any is started: it names limit, need and command; groups that fit run."""
    result = run_limited(pytester, "-n 128")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    for number in (24, 20):
        result.stdout.fnmatch_lines(
            [f"E*{number} ranks need about * file descriptors, and the hard limit is 128: *`ulimit -n *"]
        )
