"""Where the ranks of a run write."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from pytest_elastic.multiprocessing._logs import DefaultLogsSpecs, LogsDest, LogsSpecs
from pytest_elastic.multiprocessing._std import Std


def envs(count=2, **variables):
    return {rank: dict(variables) for rank in range(count)}


def test_logs_specs_are_for_subclasses(tmp_path):
    """The base cannot be made; a subclass gets what it was given."""
    with pytest.raises(TypeError):
        LogsSpecs()

    class Mine(LogsSpecs):
        root_log_dir = "mine"

        def reify(self, envs):
            return LogsDest(stdouts=dict.fromkeys(envs, self._root_log_dir))

    assert Mine(tmp_path).reify(envs()).stdouts == {0: str(tmp_path), 1: str(tmp_path)}


def test_logs_dest_is_empty_by_default():
    """Maps and paths."""
    maps = ("stdouts", "stderrs", "tee_stdouts", "tee_stderrs", "error_files")
    assert asdict(LogsDest()) == {**{name: {} for name in maps}, "filtered_stdout": "", "filtered_stderr": ""}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_is_made_or_taken(tmp_path, kind):
    """With parents; what is in it stays."""
    home = tmp_path / "a" / "b"
    assert DefaultLogsSpecs(kind(home)).root_log_dir == str(home)
    (home / "file").write_text("")
    DefaultLogsSpecs(kind(home))
    assert os.listdir(home) == ["file"]


def test_a_relative_directory(tmp_path, monkeypatch):
    """Its files have absolute names: a rank may go elsewhere."""
    monkeypatch.chdir(tmp_path)
    specs = DefaultLogsSpecs("logs")
    assert (specs.root_log_dir, os.listdir(tmp_path)) == ("logs", ["logs"])
    assert specs.reify(envs(1)).error_files[0].startswith(str(tmp_path / "logs"))


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_temporary_directory(nothing, tmp_path, monkeypatch):
    """A fresh one each time."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = {DefaultLogsSpecs(nothing).root_log_dir for _ in range(2)}
    assert made == {str(tmp_path / name) for name in os.listdir(tmp_path)}
    assert len(made) == 2


def test_a_file_is_refused(tmp_path):
    """At once, by name."""
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(NotADirectoryError, match=str(path)):
        DefaultLogsSpecs(path)


def test_layout(tmp_path):
    """Run, attempt, rank; the run's directory has a random part."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    given = envs(2, TORCHELASTIC_RUN_ID="run7", TORCHELASTIC_RESTART_COUNT="3")
    dest = specs.reify(given)
    (run,) = os.listdir(tmp_path)
    attempt = tmp_path / run / "attempt_3"
    assert run.startswith("run7_")
    assert len(run) > len("run7_")
    assert sorted(os.listdir(attempt)) == ["0", "1"]
    assert asdict(dest) == {
        "stdouts": {rank: f"{attempt}/{rank}/stdout.log" for rank in range(2)},
        "stderrs": {rank: f"{attempt}/{rank}/stderr.log" for rank in range(2)},
        "tee_stdouts": {},
        "tee_stderrs": {},
        "error_files": {rank: f"{attempt}/{rank}/error.json" for rank in range(2)},
        "filtered_stdout": f"{attempt}/filtered_stdout.log",
        "filtered_stderr": f"{attempt}/filtered_stderr.log",
    }


def test_without_a_run_id(tmp_path):
    """There are defaults for it and for the restart count."""
    path = DefaultLogsSpecs(tmp_path).reify(envs(1)).error_files[0]
    assert path.startswith(f"{tmp_path}/test_run_id_")
    assert path.endswith("/attempt_0/0/error.json")


def test_again(tmp_path):
    """The same paths, in an emptied directory; another attempt leaves the first one alone."""
    specs = DefaultLogsSpecs(tmp_path)
    first = specs.reify(envs(1))
    Path(first.error_files[0]).write_text("old")
    assert specs.reify(envs(1)) == first
    assert not os.path.exists(first.error_files[0])
    Path(first.error_files[0]).write_text("old")
    second = specs.reify(envs(1, TORCHELASTIC_RESTART_COUNT="1"))
    assert os.path.dirname(second.filtered_stdout) == os.path.dirname(first.filtered_stdout)[:-1] + "1"
    assert Path(first.error_files[0]).read_text() == "old"


def test_redirect_and_tee(tmp_path):
    """A teed stream is redirected too; others stay where they are."""
    tee = {1: Std.OUT, 2: Std.ALL}
    dest = DefaultLogsSpecs(tmp_path, redirects={0: Std.ERR, 1: Std.ERR}, tee=tee).reify(envs(4))
    home = Path(dest.filtered_stdout).parent
    out = {rank: f"{home}/{rank}/stdout.log" for rank in range(4)}
    err = {rank: f"{home}/{rank}/stderr.log" for rank in range(4)}
    assert dest.stdouts == {0: "", 1: out[1], 2: out[2], 3: ""}
    assert dest.stderrs == {0: err[0], 1: err[1], 2: err[2], 3: ""}
    assert dest.tee_stdouts == {1: out[1], 2: out[2]}
    assert dest.tee_stderrs == {2: err[2]}


def test_the_filter_of_ranks(tmp_path):
    """Other ranks are not shown: their tees are files only, what they do not redirect is lost."""
    dest = DefaultLogsSpecs(tmp_path, tee=Std.OUT, local_ranks_filter={1}).reify(envs())
    home = Path(dest.filtered_stdout).parent
    assert dest.stdouts == {rank: f"{home}/{rank}/stdout.log" for rank in range(2)}
    assert dest.stderrs == {0: os.devnull, 1: ""}
    assert dest.tee_stdouts == {1: f"{home}/1/stdout.log"}


@pytest.mark.parametrize("nobody", [None, set()])
def test_a_filter_that_filters_nothing(tmp_path, nobody):
    """Neither `None` nor an empty set hides a rank."""
    dest = DefaultLogsSpecs(tmp_path, tee=Std.OUT, local_ranks_filter=nobody).reify(envs())
    assert (set(dest.tee_stdouts), dest.stderrs) == ({0, 1}, {0: "", 1: ""})


def test_nowhere(tmp_path, monkeypatch):
    """`os.devnull` makes no directory, redirects and shows nothing, and records no error."""
    monkeypatch.chdir(tmp_path)
    given = envs()
    dest = DefaultLogsSpecs(os.devnull, redirects=Std.ALL, tee=Std.ALL).reify(given)
    assert dest == LogsDest(
        stdouts={0: "", 1: ""}, stderrs={0: "", 1: ""}, error_files={0: os.devnull, 1: os.devnull}
    )
    assert given == envs(TORCHELASTIC_ERROR_FILE="")
    assert os.listdir(tmp_path) == []


def test_ranks_are_told_their_error_file(tmp_path):
    """In the environments that are given."""
    given = envs()
    dest = DefaultLogsSpecs(tmp_path).reify(given)
    assert {rank: env["TORCHELASTIC_ERROR_FILE"] for rank, env in given.items()} == dest.error_files


@pytest.mark.parametrize("ranks", [{1}, {0, 2}, {-1, 0}])
def test_ranks_that_are_not_all(tmp_path, ranks):
    """They are named, and nothing is made."""
    with pytest.raises(RuntimeError) as caught:
        DefaultLogsSpecs(tmp_path).reify({rank: {} for rank in ranks})
    expected = set(range(len(ranks)))
    assert f"local rank mapping mismatch, expected: {expected}, actual: {ranks}" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_no_ranks(tmp_path, caplog):
    """An empty outcome, and a warning."""
    assert DefaultLogsSpecs(tmp_path).reify({}) == LogsDest()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_equal_and_shown(tmp_path):
    """By directory, redirects, tee and filter, whatever was reified."""
    options = {"redirects": Std.OUT, "tee": Std.ERR, "local_ranks_filter": {0}}
    one, other = DefaultLogsSpecs(tmp_path, **options), DefaultLogsSpecs(str(tmp_path), **options)
    one.reify(envs())
    assert one == other
    assert [one == DefaultLogsSpecs(tmp_path, **{**options, name: None}) for name in options] == [False] * 3
    assert one != "specs"
    assert repr(one) == (
        f"DefaultLogsSpecs(root_log_dir={tmp_path}, redirects={Std.OUT}, tee={Std.ERR}, local_ranks_filter={{0}})"
    )
