"""`start_processes`: its signature, both dialects, and what it refuses without leaving anything."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import resource
import signal
import subprocess
import sys

import psutil
import pytest
from jobs import double, sleep_on

import pytest_elastic.multiprocessing as subject
from pytest_elastic.multiprocessing import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
    MultiprocessContext,
    Std,
    SubprocessContext,
    _guardian,
    _shared,
    start_processes,
)

NAMES = """start_processes PContext MultiprocessContext SubprocessContext RunProcsResult ProcessFailure
SignalException Std to_map LogsDest LogsSpecs DefaultLogsSpecs TailLog tail_logfile IS_WINDOWS"""
ARGS = {0: ("a",), 1: ("b",)}
ENVS: dict[int, dict[str, str]] = {0: {}, 1: {}}


def test_names():
    """What torch's package exports, and no less."""
    assert set(subject.__all__) == set(NAMES.split())
    assert all(hasattr(subject, name) for name in subject.__all__)


def test_light_imports():
    """A rank that imports it pays for no test tool and no torch."""
    code = f"import sys, {subject.__name__}; print({{'torch', 'pytest', 'hypothesis'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"


def test_signature():
    """Places and defaults are the page's; what follows by name is torch's."""
    parameters = inspect.signature(start_processes).parameters.values()
    placed = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is None]
    empty = inspect.Parameter.empty
    assert placed == {
        **dict.fromkeys(("name", "entrypoint", "args", "envs"), empty),
        "log_dir": None,
        "start_method": "spawn",
        "redirects": Std.NONE,
        "tee": Std.NONE,
        "progbar_events": None,
    }
    assert named == [
        *("logs_specs", "log_line_prefixes", "duplicate_stdout_filters", "duplicate_stderr_filters"),
        "numa_options",
    ]


@pytest.mark.parametrize("prefixes", [None, {0: "x"}])
def test_torchs_call_by_position(prefixes, tmp_path, result_of):
    """Specs in fifth place, then prefixes, start method and NUMA options."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    context = start_processes("n", double, ARGS, ENVS, specs, prefixes, "fork", None)
    assert (context.start_method, context._plan.prefixes) == ("fork", prefixes)
    assert result_of(context).return_values == {0: "aa", 1: "bb"}
    with pytest.raises(NotImplementedError, match="numa_options"):
        start_processes("n", double, ARGS, ENVS, specs, prefixes, "fork", 1)
    with pytest.raises(TypeError, match="logs_specs is given twice"):
        start_processes("n", double, ARGS, ENVS, specs, logs_specs=specs)


def test_one_dialect(tmp_path):
    """Both, neither, or a bit of the other is refused."""
    specs = DefaultLogsSpecs(tmp_path)
    for both in ({"log_dir": str(tmp_path), "logs_specs": specs}, {}):
        with pytest.raises(TypeError, match=r"log_dir.* logs_specs"):
            start_processes("n", double, ARGS, ENVS, **both)
    for more in ({"redirects": Std.OUT}, {"tee": {0: Std.ERR}}):
        with pytest.raises(TypeError, match="redirects and tee"):
            start_processes("n", double, ARGS, ENVS, logs_specs=specs, **more)


def test_log_dir_of_the_page(tmp_path):
    """It exists, is a directory, and is empty."""
    (tmp_path / "file").touch()
    for log_dir, error, text in (
        (tmp_path / "missing", FileNotFoundError, "missing"),
        (tmp_path / "file", NotADirectoryError, "file"),
        (str(tmp_path), RuntimeError, f"log_dir: {tmp_path} is not empty, please provide an empty log_dir"),
    ):
        with pytest.raises(error, match=text):
            start_processes("n", double, ARGS, ENVS, log_dir)
    assert os.listdir(tmp_path) == ["file"]


def test_layout_of_the_page(launch, result_of):
    """One directory per rank, filtered files beside them."""
    context = launch("echo", 1, tee=Std.OUT, duplicate_stdout_filters=["0"])
    home = os.path.dirname(context.filtered_stdout.name)
    assert context.filtered_stdout.name == f"{home}/filtered_stdout.log"
    assert context.stdouts == {0: f"{home}/0/stdout.log"}
    assert context.stderrs == {0: f"{home}/0/stderr.log"}
    assert context.error_files == {0: f"{home}/0/error.json"}
    result = result_of(context)
    assert (result.stdouts, result.stderrs) == (context.stdouts, context.stderrs)


def test_kinds(launch, tmp_path):
    """Text is a program, a callable a function, anything else is refused."""
    assert isinstance(launch("true", 1), SubprocessContext)
    assert isinstance(launch(lambda rank: None, 1), MultiprocessContext)
    with pytest.raises(TypeError, match="entrypoint must be a path or a callable, not 7"):
        start_processes("n", 7, ARGS, ENVS, tmp_path)


@pytest.mark.parametrize(
    ("args", "envs", "text"),
    [
        ({0: ()}, ENVS, r"args, local rank mapping mismatch, expected: {0, 1}, actual: {0}"),
        (ARGS, {0: {}}, r"envs, local rank mapping mismatch, expected: {0, 1}, actual: {0}"),
        (
            {1: (), 2: ()},
            {1: {}, 2: {}},
            r"args, local rank mapping mismatch, expected: {0, 1}, actual: {1, 2}",
        ),
    ],
)
def test_ranks_that_do_not_match(args, envs, text, tmp_path):
    """No process, no directory."""
    for log_dir in (tmp_path, DefaultLogsSpecs(tmp_path)):
        with pytest.raises(RuntimeError, match=text):
            start_processes("n", double, args, envs, log_dir)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("entrypoint", ["true", double])
@pytest.mark.parametrize("specs", [True, False])
def test_no_ranks(entrypoint, specs, launch, tmp_path, result_of):
    """An empty run succeeds at once."""
    logs = {"logs_specs": DefaultLogsSpecs(tmp_path)} if specs else {}
    context = launch(entrypoint, 0, **logs)
    result = result_of(context)
    assert (context.pids(), result.is_failed(), result.return_values) == ({}, False, {})


@pytest.mark.parametrize(("name", "value"), [("A", 1), (2, "x"), ("A", None)])
def test_environments_are_text(name, value, tmp_path):
    """Rank and name are told."""
    with pytest.raises(TypeError, match=rf"envs\[1\]\[{name!r}\]"):
        start_processes("n", double, ARGS, {0: {}, 1: {name: value}}, tmp_path)
    assert os.listdir(tmp_path) == []


def test_arguments(launch, result_of, tmp_path):
    """Any sequence; bare text is one argument; `None` is nothing."""
    args = {0: "hello", 1: ["a"], 2: ("b",)}
    assert result_of(launch(double, args=args)).return_values == {0: "hellohello", 1: "aa", 2: "bb"}
    with pytest.raises(TypeError, match=r"args\[0\] .* not None"):
        start_processes("n", double, {0: None}, {0: {}}, tmp_path)


def test_unknown_start_method(tmp_path, launch, result_of):
    """All three are named; a program has none."""
    with pytest.raises(ValueError, match=r"'thread' .* spawn, fork, forkserver"):
        start_processes("n", double, ARGS, ENVS, tmp_path, "thread")
    assert os.listdir(tmp_path) == []
    assert not result_of(launch("true", 1, start_method="thread")).is_failed()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_pickled(method, tmp_path):
    """The error is pickle's, nothing is left, and the directory may be used again."""
    for log_dir in (tmp_path / "page", DefaultLogsSpecs(tmp_path / "specs")):
        (tmp_path / "page").mkdir(exist_ok=True)
        for entrypoint, args in ((lambda value: value, ARGS), (double, {0: ("a",), 1: (lambda: 1,)})):
            before = os.listdir("/proc/self/fd")
            with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
                start_processes("n", entrypoint, args, ENVS, log_dir, start_method=method)
            assert len(os.listdir("/proc/self/fd")) == len(before)
    assert [path.name for path in tmp_path.rglob("*.*")] == []


def test_programs_that_cannot_run(tmp_path):
    """Missing, not executable, a directory: nothing is started, no directory made."""
    (tmp_path / "text").write_text("text")
    logs = tmp_path / "logs"
    logs.mkdir()
    for name, error in (
        ("no_such_program", FileNotFoundError),
        (str(tmp_path / "no_such_program"), FileNotFoundError),
        (str(tmp_path / "text"), PermissionError),
        (str(tmp_path), PermissionError),
    ):
        with pytest.raises(error, match=os.path.basename(name)):
            start_processes("n", name, ARGS, ENVS, logs)
    assert os.listdir(logs) == []


def test_a_nul_byte(tmp_path, launch, result_of):
    """In what goes to a program or to an environment: refused; a function may have it."""
    with pytest.raises(ValueError, match=r"args\[1\]: embedded null byte"):
        start_processes("n", "echo", {0: ("a",), 1: ("b\0",)}, ENVS, tmp_path)
    with pytest.raises(ValueError, match=r"envs\[1\]: embedded null byte"):
        start_processes("n", double, ARGS, {0: {}, 1: {"A": "\0"}}, tmp_path)
    assert os.listdir(tmp_path) == []
    assert result_of(launch(double, args={0: ("\0",)})).return_values == {0: "\0\0"}


@pytest.mark.parametrize("forks_before", [0, 1, 2, 4])
def test_no_process_to_be_had(forks_before, tmp_path, monkeypatch):
    """EAGAIN for the zygote, the guardian, rank 0 or rank 2: the error comes out, the others are gone."""
    begun = tmp_path / "begun"
    begun.mkdir()
    logs = tmp_path / "logs"
    logs.mkdir()
    left = iter(range(forks_before))
    fork = _guardian.fork

    def failing() -> int:
        if next(left, None) is None:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    def note(rank: int) -> None:
        (begun / str(os.getpid())).touch()
        sleep_on(rank)

    monkeypatch.setattr(_guardian, "fork", failing)
    monkeypatch.setattr("pytest_elastic.multiprocessing._zygote.fork", failing)
    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        start_processes("n", note, {rank: (rank,) for rank in range(3)}, {0: {}, 1: {}, 2: {}}, logs, "fork")
    assert [name for name in os.listdir(begun) if psutil.pid_exists(int(name))] == []
    assert os.listdir(logs) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_descriptor_to_be_had(method, tmp_path, shared_zygote):
    """EMFILE, wherever it strikes: nothing is left, and the next start works."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(1, 12):
        before = set(os.listdir("/proc/self/fd"))
        highest = max(map(int, before))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
        try:
            with contextlib.suppress(OSError):
                specs = DefaultLogsSpecs(tmp_path)
                start_processes("n", double, ARGS, ENVS, specs, start_method=method).close(timeout=0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert set(os.listdir("/proc/self/fd")) <= before


def test_a_bar_without_its_events(tmp_path, monkeypatch):
    """What a tail refuses stops the start before any process, with the handlers put back."""
    monkeypatch.setattr(MultiprocessContext, "_start", lambda _: pytest.fail("processes were started"))
    with pytest.raises(ValueError, match="trigger_clear"):
        start_processes("n", double, ARGS, ENVS, tmp_path, "fork", tee=Std.ALL, progbar_events={"cleared": 1})
    assert os.listdir(tmp_path) == []


def test_specs_of_ones_own(tmp_path, result_of, shared_zygote):
    """A subclass decides where things go; what it made is its own, also where the start fails."""

    class Flat(LogsSpecs):
        root_log_dir = str(tmp_path)

        def reify(self, envs):
            paths = (
                {rank: str(tmp_path / f"{rank}.{what}") for rank in envs} for what in ("out", "err", "json")
            )
            outs, errs, errors = paths
            (tmp_path / "made").touch()
            return LogsDest(outs, errs, error_files=errors)

    result = result_of(start_processes("n", "echo", ARGS, ENVS, Flat()))
    assert [(tmp_path / f"{rank}.out").read_text() for rank in result.stdouts] == ["a\n", "b\n"]
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        start_processes("n", lambda: 1, ARGS, ENVS, Flat())
    assert (tmp_path / "made").exists()


def test_the_callers_environments_stay(tmp_path, result_of):
    """Both dialects tell ranks their error files in copies."""
    envs = {0: {"A": "1"}, 1: {}}
    result_of(start_processes("n", double, ARGS, envs, DefaultLogsSpecs(tmp_path), start_method="fork"))
    assert envs == {0: {"A": "1"}, 1: {}}


def test_an_idle_zygote_that_was_killed_is_made_anew(launch, result_of, rounds, monkeypatch):
    """Right before a start, whether or not the kernel has got to it: the start knows nothing of it."""
    monkeypatch.setattr(_shared, "_zygotes", {})
    for turn in range(rounds(3, 30)):
        result_of(launch(int, args={0: (turn,)}, start_method="spawn"))
        (zygote,) = _shared._zygotes.values()
        os.kill(zygote.pid, signal.SIGKILL)
        assert result_of(launch(int, args={0: (turn,)}, start_method="spawn")).return_values == {0: turn}
    (zygote,) = _shared._zygotes.values()
    zygote.close()
