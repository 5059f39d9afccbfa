"""Ranks as fresh interpreters repeat the session of pytest as it was called, and leave its files alone."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import ALONE

import pytest_elastic

CONFTEST = """
import os, pathlib, socket, sys
import pytest

os.environ.update(RANK="7", WORLD_SIZE="1", MASTER_PORT="29500", OF_CONFTEST="kept")
IN_RANK = "PYTEST_ELASTIC_RANK" in os.environ
FLAGS = repr((sys.flags, sys.warnoptions, sys._xoptions, sys.argv[1:5]))

def pytest_configure(config):
    config.of_configure = "kept"
    if not IN_RANK:
        pathlib.Path("flags.txt").write_text(FLAGS)

def pytest_sessionstart(session):
    session.config.of_sessionstart = "kept"
    session.server = socket.create_server(("127.0.0.1", int(os.environ["SERVICE"])))
"""
CODE = """
import logging, os, pathlib, uuid
import conftest, mymod, pytest

def test_before(pytestconfig):
    logging.getLogger().warning("of the plain test")
    pytestconfig.cache.set("mine/value", 1)

@pytest.mark.elastic(nprocs=2, env={"MASTER_PORT": "4"})
def test_environment(world):
    names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "OF_CONFTEST", "PYTEST_ELASTIC_RANK")
    mine = str(world.rank)
    assert [os.environ[name] for name in names] == [mine, "2", "4", "kept", mine]
    assert "PYTHONHASHSEED" not in os.environ

@pytest.mark.elastic(nprocs=2)
def test_flags(world):
    assert conftest.FLAGS == pathlib.Path("flags.txt").read_text()

@pytest.mark.elastic(nprocs=2)
def test_state_of_hooks(world, pytestconfig):
    assert (pytestconfig.of_configure, pytestconfig.of_sessionstart, mymod.loaded) == ("kept", "kept", True)

@pytest.mark.elastic(nprocs=2)
@pytest.mark.parametrize("name", {"red", "green", "blue"})
def test_sets(world, name):
    assert len(set(world.gather((name, hash("red"), tuple({"a", "b", "c"}))))) == 1

@pytest.mark.elastic(nprocs=2)
@pytest.mark.parametrize("word", [uuid.uuid4().hex])
def test_random_ids(world, word):
    pass

def test_after(pytestconfig):
    assert pytestconfig.cache.get("mine/value", 0) == 1
"""


def test_what_a_plain_test_sees_a_fresh_interpreter_sees(pytester, monkeypatch):
    """Flags, environment, plugins named by module, seeds, state of hooks; and files of the run stay whole.

    Two groups of ranks are started, and each says that the service was there already.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("SERVICE", str(free.getsockname()[1]))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(mymod="loaded = True", test_it=CODE)
    pytester.makefile(".args", more="--junitxml=j.xml\n--log-file=run.log")
    options = ["-b", "-X", "own=3", "-W", "ignore::ImportWarning"]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    own = [
        *ALONE,
        "-p",
        "mymod",
        "--cache-clear",
        "--elastic-start-method=spawn",
        "@more.args",
    ]
    result = pytester.run(sys.executable, *options, "-m", "pytest", *own, timeout=120)
    result.assert_outcomes(passed=8, errors=1, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "fresh interpreters (start method spawn) did not collect test_it.py::test_random_ids[[]*], *",
            "  rank 0: test_it.py::test_random_ids[[]*",
            "  rank 1: test_it.py::test_random_ids[[]*",
            "*conftest.py: pytest_sessionstart failed in a rank, after pytest itself: *Address already in use*",
        ]
    )
    assert "of the plain test" in (pytester.path / "run.log").read_text()
    assert (pytester.path / "j.xml").read_text().count("<testcase") == 9


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["-OO", "-B", "-s", "-b"],
        ["-X", "dev", "-X", "own", "-W", "error::ImportWarning", "-bb"],
        ["-I", "-S", "-W", "ignore"],
    ],
    ids=" ".join,
)
def test_a_new_interpreter_has_the_options_of_this_one(given, monkeypatch):
    """Flags, warning filters and -X options, also where some of them come from the environment."""
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::FutureWarning,error::BytesWarning")
    path = str(Path(pytest_elastic.__file__).parent.parent)
    code = (
        f"import sys; print(sys.flags, sys.warnoptions, sys._xoptions); sys.path += {[path, *sys.path]!r};"
        "from pytest_elastic.launch._spawn import interpreter_options; print(interpreter_options())"
    )
    told = subprocess.run([sys.executable, *given, "-c", code], capture_output=True, text=True, check=True)
    facts, options = told.stdout.splitlines()
    again = subprocess.run(
        [
            sys.executable,
            *ast.literal_eval(options),
            "-c",
            "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout == facts + "\n"


def test_what_stops_a_fresh_interpreter_is_told_and_writes_nothing(run, pytester):
    """An import error in a rank is in the error of the test, and the run's files are pytest's to write."""
    result = run(
        """
        import os, pathlib, pytest
        assert "PYTEST_ELASTIC_RANK" not in os.environ, "not in a rank"

        @pytest.mark.elastic(nprocs=1)
        def test_it(rank): pass

        def test_nothing_was_written():
            assert not pathlib.Path("j.xml").exists()
        """,
        "--elastic-start-method=spawn",
        "--junitxml=j.xml",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["fresh interpreters*did not collect*::test_it, *", "*AssertionError: not in a rank*"]
    )


def test_coverage_of_fresh_interpreters(run, pytester):
    """Lines that run on one rank only are counted, without a line of configuration."""
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(
        measured="""
        def on(rank):
            if rank == 0:
                return "zero"
            return "one"
        """
    )
    result = run(
        "import measured\ndef test_it(rank): assert measured.on(rank)",
        "--elastic-start-method=spawn",
        "-p",
        "pytest_cov",
        "--cov=measured",
        "--cov-report=term-missing",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["measured.py*100%*"])
