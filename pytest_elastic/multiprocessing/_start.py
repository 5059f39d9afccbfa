"""`start_processes`: starts a process group, by torch's signature or the documentation page's."""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_elastic.multiprocessing._binaries import SubprocessContext, find_program
from pytest_elastic.multiprocessing._context import PContext
from pytest_elastic.multiprocessing._functions import MultiprocessContext
from pytest_elastic.multiprocessing._logs import DefaultLogsSpecs, LogsDest, LogsSpecs, lay_out
from pytest_elastic.multiprocessing._run_arguments import LogPlan, check_call, check_start_method, refuse_numa
from pytest_elastic.multiprocessing._std import Std, to_map
from pytest_elastic.pristine import os


def start_processes(
    name: str,
    entrypoint: Callable[..., Any] | str,
    args: Mapping[int, Any],
    envs: Mapping[int, Mapping[str, str]],
    log_dir: str | Path | LogsSpecs | None = None,
    start_method: Any = "spawn",
    redirects: Any = Std.NONE,
    tee: Any = Std.NONE,
    progbar_events: Any = None,
    *,
    logs_specs: LogsSpecs | None = None,
    log_line_prefixes: Mapping[int, str] | None = None,
    duplicate_stdout_filters: Sequence[str] | None = None,
    duplicate_stderr_filters: Sequence[str] | None = None,
    numa_options: None = None,
) -> PContext:
    """Start `entrypoint` once per rank, and return the running context when every process exists.

    Logs are configured by `log_dir`, `redirects` and `tee`, or by `logs_specs`, which may also be the fifth
    positional argument, followed by `log_line_prefixes`, `start_method` and `numa_options`.

        context = start_processes("trainer", train, {0: (8,)}, {0: {"SEED": "1"}}, "logs", tee=Std.ALL)
        result = context.wait(timeout=60)  # Seconds; None if it has not ended by then.

    Args:
        name: of the run; begins the header of shown lines.
        entrypoint: a callable runs as a function, text as a program.
        args: rank -> arguments; the ranks are 0...n-1.
        envs: rank -> variables to add to the environment.
        log_dir: an empty directory.
        start_method: `spawn`, `fork` or `forkserver`; for functions only.
        redirects, tee: streams that go to files, and those that are shown, too; for all ranks or by rank.
        progbar_events: see `TailLog`.
        duplicate_stdout_filters, duplicate_stderr_filters: lines of shown ranks that contain one of these
            texts are copied to a file of their own.

    Raises:
        TypeError: both `log_dir` and `logs_specs`, neither, or arguments of the wrong type.
        RuntimeError: `args` and `envs` do not have the same ranks 0...n-1, or `log_dir` is not empty, or a
            rank that imports the main module calls this: the module lacks its `if __name__ == "__main__"`.
        ValueError: an unknown start method; a NUL byte in what goes to a program.
        FileNotFoundError, NotADirectoryError: `log_dir`, or the program.
        PermissionError: the program cannot be executed.
        OSError: no process could be had.  Whatever is raised, nothing is left running.
    """
    if isinstance(log_dir, LogsSpecs):  # Torch's call by position.
        if logs_specs is not None:
            raise TypeError("logs_specs is given twice")
        logs_specs, log_dir = log_dir, None
        if start_method is None or isinstance(start_method, Mapping):
            log_line_prefixes, start_method = start_method, "spawn" if redirects == Std.NONE else redirects
            redirects, numa_options, tee = Std.NONE, tee or numa_options, Std.NONE
    check_call(entrypoint, args, envs)
    refuse_numa(numa_options)
    if isinstance(entrypoint, str):
        for env in envs.values():
            find_program(entrypoint, env)
    else:
        check_start_method(start_method)
        if start_method != "fork":  # Before anything else can be wrong, such as a log directory in use.
            multiprocessing.spawn.get_preparation_data(name)
    copies = {rank: dict(env) for rank, env in envs.items()}
    plan = LogPlan(
        log_destination(log_dir, logs_specs, redirects, tee, copies),
        start_method,
        log_line_prefixes,
        (duplicate_stdout_filters, duplicate_stderr_filters),
        progbar_events,
    )
    kind = SubprocessContext if isinstance(entrypoint, str) else MultiprocessContext
    try:
        context = kind(name, entrypoint, args, copies, plan)  # type: ignore[arg-type]
        context.start()
    except BaseException:
        if logs_specs is None or type(logs_specs) is DefaultLogsSpecs:
            remove_logs(plan.dest)
        raise
    return context


def remove_logs(dest: LogsDest) -> None:
    """Remove the log files of a run that did not start, so that the directory may be used again."""
    if dest.filtered_stdout:
        home = os.path.dirname(dest.filtered_stdout)
        for rank in dest.error_files:
            shutil.rmtree(os.path.join(home, str(rank)), ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(dest.filtered_stdout)
        with contextlib.suppress(OSError):
            os.unlink(dest.filtered_stderr)


def log_destination(
    log_dir: Any, specs: LogsSpecs | None, redirects: Any, tee: Any, envs: dict[int, dict[str, str]]
) -> LogsDest:
    """The log files of a run; makes their directories."""
    if (log_dir is None) == (specs is None):
        raise TypeError("give either log_dir or logs_specs, not both and not neither")
    if specs is not None:
        if redirects != Std.NONE or tee != Std.NONE:
            raise TypeError("redirects and tee go with log_dir; logs_specs has its own")
        return specs.reify(envs)
    if not os.path.exists(log_dir):
        raise FileNotFoundError(f"log_dir: {log_dir} does not exist")
    if not os.path.isdir(log_dir):
        raise NotADirectoryError(f"log_dir: {log_dir} is not a directory")
    if os.listdir(log_dir):
        raise RuntimeError(f"log_dir: {log_dir} is not empty, please provide an empty log_dir")
    flags = to_map(redirects, len(envs)), to_map(tee, len(envs))
    dest = lay_out(os.path.abspath(log_dir), *flags, set(envs))
    for rank, path in dest.error_files.items():
        envs[rank]["TORCHELASTIC_ERROR_FILE"] = path
    return dest
