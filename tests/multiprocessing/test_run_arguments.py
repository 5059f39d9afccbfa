"""The constructors' two dialects, and what every run is checked for; no process is started."""

from __future__ import annotations

import pytest

from pytest_elastic.multiprocessing import (
    DefaultLogsSpecs,
    MultiprocessContext,
    PContext,
    Std,
    SubprocessContext,
)

ARGS = {0: ("a",), 1: ("b",)}
ENVS: dict[int, dict[str, str]] = {0: {}, 1: {}}
KINDS = [(MultiprocessContext, print), (SubprocessContext, "echo")]
NO_TEE: dict[int, str] = {}


@pytest.fixture
def maps(tmp_path):
    """The page's five maps for two ranks."""
    names = ("stdouts", "stderrs", "error_files")
    files = {name: {rank: str(tmp_path / f"{name}{rank}") for rank in range(2)} for name in names}
    return {**files, "tee_stdouts": NO_TEE, "tee_stderrs": NO_TEE}


def page(maps):
    """In the page's order."""
    return [maps[name] for name in ("stdouts", "stderrs", "tee_stdouts", "tee_stderrs", "error_files")]


def test_torch_multiprocess_context(tmp_path):
    """Name, entrypoint, args, envs, start method, specs, prefixes, numa, filters."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    context = MultiprocessContext("n", print, ARGS, ENVS, "fork", specs, {0: "p"}, None, ["x"], ["y"])
    assert (context.name, context.entrypoint, context.nprocs, context.start_method) == ("n", print, 2, "fork")
    assert context.stdouts[1].endswith("/attempt_0/1/stdout.log")
    assert context._plan.prefixes == {0: "p"}
    assert context._plan.filters == (["x"], ["y"])


def test_torch_subprocess_context(tmp_path):
    """Without a start method; keywords too."""
    positional = SubprocessContext("n", "echo", ARGS, ENVS, DefaultLogsSpecs(tmp_path), {0: "p"}, None, ["x"])
    named = SubprocessContext(
        "n", "echo", ARGS, ENVS, logs_specs=DefaultLogsSpecs(), log_line_prefixes={0: "p"}
    )
    assert positional._plan.prefixes == named._plan.prefixes == {0: "p"}
    assert positional._plan.filters == (["x"], None)


def test_a_context_of_ones_own(maps, tmp_path):
    """`PContext` takes both dialects, and needs its template's answers."""
    with pytest.raises(TypeError, match="abstract"):
        PContext("n", print, ARGS, ENVS, DefaultLogsSpecs(tmp_path))
    own = type("Own", (PContext,), dict.fromkeys(("_start", "_returned", "_release")))
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    assert own("n", print, ARGS, ENVS, specs, {0: "p"}, ["x"], ["y"])._plan.filters == (["x"], ["y"])
    assert own("n", print, ARGS, ENVS, *page(maps), "bar")._plan.progbar_events == "bar"


def test_page_multiprocess_context(maps):
    """Five maps, then the start method and the bar's events."""
    context = MultiprocessContext("n", print, ARGS, ENVS, *page(maps), "forkserver", "bar")
    assert (context.start_method, context._plan.progbar_events) == ("forkserver", "bar")
    assert (context.stdouts, context.stderrs, context.error_files) == (
        maps["stdouts"], maps["stderrs"], maps["error_files"],
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "entrypoint"), KINDS)
def test_page_by_keyword(kind, entrypoint, maps):
    """`stdouts` chooses the dialect; ranks are told their error files, the caller's `envs` stay."""
    context = kind("n", entrypoint, ARGS, ENVS, progbar_events="bar", **maps)
    assert context._plan.progbar_events == "bar"
    assert context.envs[1]["TORCHELASTIC_ERROR_FILE"] == maps["error_files"][1]
    assert ENVS == {0: {}, 1: {}}


@pytest.mark.parametrize(("kind", "entrypoint"), KINDS)
def test_mixing(kind, entrypoint, maps, tmp_path):
    """Arguments of the other dialect are named."""
    specs = DefaultLogsSpecs(tmp_path)
    for named, culprit in (
        ({**maps, "logs_specs": specs}, "logs_specs"),
        ({**maps, "log_line_prefixes": {}}, "log_line_prefixes"),
        ({"logs_specs": specs, "tee_stdouts": {}}, "tee_stdouts"),
    ):
        with pytest.raises(TypeError, match=f"{culprit} is not allowed here"):
            kind("n", entrypoint, ARGS, ENVS, **named)


@pytest.mark.parametrize(("kind", "entrypoint"), KINDS)
def test_incomplete(kind, entrypoint, maps):
    """Neither dialect, a missing map, too many arguments, one twice."""
    with pytest.raises(TypeError, match=r"needs logs_specs .* or stdouts"):
        kind("n", entrypoint, ARGS, ENVS)
    del maps["tee_stderrs"]
    with pytest.raises(TypeError, match="missing tee_stderrs beside stdouts"):
        kind("n", entrypoint, ARGS, ENVS, **maps)
    with pytest.raises(TypeError, match="at most"):
        kind("n", entrypoint, ARGS, ENVS, *[{}] * 9)
    with pytest.raises(TypeError, match="stdouts is given twice"):
        kind("n", entrypoint, ARGS, ENVS, {}, stdouts={})


@pytest.mark.parametrize("name", ["stdouts", "stderrs"])
def test_maps_cover_the_ranks(name, maps):
    """The page's maps have an entry for each rank, and error files for none but these."""
    del maps[name][1]
    with pytest.raises(
        RuntimeError, match=rf"{name}, local rank mapping mismatch, expected: {{0, 1}}, actual: {{0}}"
    ):
        SubprocessContext("n", "echo", ARGS, ENVS, **maps)


def test_error_files_of_other_ranks(maps):
    """An error file may be missing, but not be for nobody."""
    maps["error_files"] = {1: maps["error_files"][1]}
    assert SubprocessContext("n", "echo", ARGS, ENVS, **maps).error_files == maps["error_files"]
    with pytest.raises(RuntimeError, match=r"error_files, local rank mapping mismatch"):
        SubprocessContext("n", "echo", ARGS, ENVS, **{**maps, "error_files": {2: "x"}})


@pytest.mark.parametrize("teed", [{0: "elsewhere"}, {7: "x"}])
@pytest.mark.parametrize("name", ["stdouts", "stderrs"])
def test_a_tee_of_another_file(name, teed, maps):
    """What is shown must be the rank's own log."""
    with pytest.raises(ValueError, match=rf"tee_{name}\[\d\]"):
        MultiprocessContext("n", print, ARGS, ENVS, **{**maps, f"tee_{name}": teed})


@pytest.mark.parametrize(("kind", "entrypoint"), KINDS)
@pytest.mark.parametrize(
    ("args", "envs", "error"),
    [
        ({0: ()}, ENVS, RuntimeError),
        (ARGS, {0: {}, 2: {}}, RuntimeError),
        ({0: None, 1: ()}, ENVS, TypeError),
        (ARGS, {0: {}, 1: {"A": 1}}, TypeError),
    ],
)
def test_constructors(kind, entrypoint, args, envs, error, tmp_path):
    """They check as `start_processes` does, before any directory is made."""
    with pytest.raises(error):
        kind("n", entrypoint, args, envs, logs_specs=DefaultLogsSpecs(tmp_path, redirects=Std.ALL))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "entrypoint"), KINDS)
def test_numa_options(kind, entrypoint, tmp_path):
    """Torch's alone."""
    with pytest.raises(NotImplementedError, match="numa_options"):
        kind("n", entrypoint, ARGS, ENVS, logs_specs=DefaultLogsSpecs(tmp_path), numa_options=1)
    assert list(tmp_path.iterdir()) == []


def test_start_method_of_a_constructor(tmp_path):
    """Refused before any directory is made."""
    with pytest.raises(
        ValueError, match="'thread' is not allowed; it must be one of spawn, fork, forkserver"
    ):
        MultiprocessContext("n", print, ARGS, ENVS, "thread", DefaultLogsSpecs(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_constructing_starts_nothing(tmp_path):
    """Attributes are there, processes are not."""
    context = SubprocessContext("n", "no_such_program", ARGS, ENVS, DefaultLogsSpecs(tmp_path))
    assert context.pids() == {}
    assert (context.args, context.stdouts, context.stderrs) == (ARGS, {0: "", 1: ""}, {0: "", 1: ""})
    assert (context.filtered_stdout, context.filtered_stderr) == (None, None)
    assert context.envs[0]["TORCHELASTIC_ERROR_FILE"] == context.error_files[0]
