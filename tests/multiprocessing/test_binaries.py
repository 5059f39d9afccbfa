"""Programs as ranks."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest


def logs(result):
    return {rank: Path(path).read_text() for rank, path in result.stdouts.items()}


def test_arguments_without_a_shell(launch, result_of):
    """Each is one word of the program's, made text; its own name is as it was given."""
    result = result_of(launch("echo", args={0: (1, "$HOME  *", [2]), 1: "one text"}))
    assert logs(result) == {0: "1 $HOME  * [2]\n", 1: "one text\n"}
    assert logs(result_of(launch("sh", args={0: ("-c", "echo $0")}))) == {0: "sh\n"}


def test_session_directory_and_stdin(launch, result_of, tmp_path, monkeypatch):
    """A session of its own, where the launcher is now, nothing to read."""
    monkeypatch.chdir(tmp_path)
    code = "import os; print(os.getsid(0) == os.getpid(), os.getcwd(), os.read(0, 1))"
    result = result_of(launch(sys.executable, args={0: ("-c", code)}))
    assert logs(result) == {0: f"True {tmp_path} b''\n"}


def test_environment(launch, result_of, monkeypatch):
    """The launcher's, and the rank's on top; `PYTHONUNBUFFERED` unless set."""
    monkeypatch.setenv("OURS", "launcher")
    monkeypatch.setenv("BOTH", "launcher")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    args = dict.fromkeys(range(2), ("-c", "echo $OURS $BOTH $PYTHONUNBUFFERED"))
    result = result_of(launch("sh", args=args, envs={0: {"BOTH": "rank"}, 1: {"PYTHONUNBUFFERED": "no"}}))
    assert logs(result) == {0: "launcher rank 1\n", 1: "launcher launcher no\n"}


def test_the_ranks_own_path(launch, result_of, tmp_path):
    """A program is looked for where the rank's `PATH` says."""
    for rank in range(2):
        program = tmp_path / str(rank) / "program"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho program {rank}\n")
        program.chmod(0o755)
    envs = {rank: {"PATH": f"{tmp_path / str(rank)}:{os.environ['PATH']}"} for rank in range(2)}
    result = result_of(launch("program", args={0: (), 1: ()}, envs=envs))
    assert logs(result) == {0: "program 0\n", 1: "program 1\n"}


def test_python_programs_are_unbuffered(launch, result_of):
    """Printed lines outlive SIGKILL."""
    code = "import os; print('line'); os.kill(os.getpid(), 9)"
    result = result_of(launch(sys.executable, args={0: ("-c", code)}))
    assert logs(result) == {0: "line\n"}


@pytest.mark.parametrize(
    ("script", "exitcode"), [("exit 1", 1), ("exit 138", 138), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
def test_exit_codes(script, exitcode, launch, result_of):
    """Not zero is a failure, a signal is negative; nothing was recorded."""
    failure = result_of(launch("sh", args={0: ("-c", script)})).failures[0]
    assert (failure.exitcode, failure.error_file) == (exitcode, "<N/A>")
    assert failure.error_file_data["message"] == "<NONE>"
    if exitcode < 0:
        assert signal.Signals(-exitcode).name in failure.message


def test_a_program_that_records(launch, result_of):
    """Its error file is read."""
    code = """
from pytest_elastic.multiprocessing.errors import record
@record
def main():
    raise ValueError("boom")
main()
"""
    failure = result_of(launch(sys.executable, args={0: ("-c", code)})).failures[0]
    assert (failure.exitcode, failure.message["message"]) == (1, "ValueError: boom")


def test_a_file_that_is_no_program(launch, result_of, tmp_path):
    """One that the kernel will not run fails as its rank, and the log says why."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF no")
    program.chmod(0o755)
    result = result_of(launch(str(program), args={0: ()}))
    assert result.failures[0].exitcode == 1
    assert "Exec format error" in Path(result.stderrs[0]).read_text()
