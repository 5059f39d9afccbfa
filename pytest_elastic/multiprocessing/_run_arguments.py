"""Arguments of a run: checks, and two signatures, torch's (`logs_specs`) and the page's (explicit maps).

The page is torch's documentation of this API, whose constructors are older than torch's own.

Everything is checked here, before any process starts and, but for the directories of `LogsSpecs.reify`,
before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_elastic.multiprocessing._logs import LogsDest, LogsSpecs
from pytest_elastic.multiprocessing._sink import Destination

START_METHODS = ("spawn", "fork", "forkserver")

_MAPS = ("stdouts", "stderrs", "tee_stdouts", "tee_stderrs", "error_files")
_FILTERS = ("duplicate_stdout_filters", "duplicate_stderr_filters")
# What follows `envs` in the constructors, by the name of the kind.
_TORCH = {
    "MultiprocessContext": ("start_method", "logs_specs", "log_line_prefixes", "numa_options", *_FILTERS),
    "SubprocessContext": ("logs_specs", "log_line_prefixes", "numa_options", *_FILTERS),
}
_TORCH_BASE = ("logs_specs", "log_line_prefixes", *_FILTERS)
_PAGE = {"MultiprocessContext": (*_MAPS, "start_method", "progbar_events")}
_PAGE_BASE = (*_MAPS, "progbar_events")


@dataclass(frozen=True)
class LogPlan:
    """The arguments of a constructor after name, entrypoint, args and envs.

    Attributes:
        dest: the files.
        start_method: of functions.
        prefixes: rank -> header of its lines.
        filters: of stdout and of stderr: lines that contain any of these texts are copied aside.
        progbar_events: see `TailLog`.
        shown_on: where lines are shown; by default `sys.stdout` and `sys.stderr`.
    """

    dest: LogsDest
    start_method: str = "spawn"
    prefixes: Mapping[int, str] | None = None
    filters: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)
    progbar_events: Any = None
    shown_on: Destination | None = None


def read_constructor(
    kind: str, envs: dict[int, dict[str, str]], positional: tuple[Any, ...], named: dict[str, Any]
) -> LogPlan:
    """The `LogPlan` of the arguments after `envs`, in either signature.

    Raises:
        TypeError: arguments of both signatures, of neither, or missing ones.
        RuntimeError, ValueError: maps that do not fit the ranks.
        NotImplementedError: `numa_options`.
    """
    if positional and isinstance(positional[0], LogPlan):
        return positional[0]
    page = "stdouts" in named or (bool(positional) and isinstance(positional[0], Mapping))
    names = _PAGE.get(kind, _PAGE_BASE) if page else _TORCH.get(kind, _TORCH_BASE)
    given = bind(kind, names, positional, named)
    refuse_numa(given.get("numa_options"))
    start_method = check_start_method(given.get("start_method", "spawn"))
    if page:
        missing = [name for name in _MAPS if name not in given]
        if missing:
            raise TypeError(f"{kind}: missing {', '.join(missing)} beside stdouts")
        dest = LogsDest()
        for name in _MAPS:
            setattr(dest, name, dict(given[name]))
        check_maps(dest, len(envs))
        for rank, path in dest.error_files.items():
            envs[rank].setdefault("TORCHELASTIC_ERROR_FILE", path)
    else:
        specs = given.get("logs_specs")
        if not isinstance(specs, LogsSpecs):
            raise TypeError(
                f"{kind}: needs logs_specs (a LogsSpecs) or stdouts and the other maps, not {specs!r}"
            )
        dest = specs.reify(envs)
    return LogPlan(
        dest,
        start_method,
        given.get("log_line_prefixes"),
        (given.get(_FILTERS[0]), given.get(_FILTERS[1])),
        given.get("progbar_events"),
    )


def bind(
    kind: str, names: tuple[str, ...], positional: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name, as Python binds them to a signature of these names.

    Raises:
        TypeError: too many, an unknown name, or one that is given twice.
    """
    if len(positional) > len(names):
        raise TypeError(
            f"{kind}: {len(positional)} arguments after envs, at most {len(names)}: {', '.join(names)}"
        )
    given = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise TypeError(f"{kind}: {name} is not allowed here; with these arguments: {', '.join(names)}")
        if name in given:
            raise TypeError(f"{kind}: {name} is given twice")
        given[name] = value
    return given


def refuse_numa(options: object) -> None:
    """Refuse torch's binding to NUMA nodes.

    Raises:
        NotImplementedError: the options are not `None`.
    """
    if options is not None:
        raise NotImplementedError("numa_options other than None are not supported")


def check_start_method(method: object) -> str:
    """The start method.

    Raises:
        ValueError: it is none of the three.
    """
    if method not in START_METHODS:
        raise ValueError(
            f"start_method {method!r} is not allowed; it must be one of {', '.join(START_METHODS)}"
        )
    return str(method)


def check_maps(dest: LogsDest, nprocs: int) -> None:
    """Check that the page's maps fit the ranks and each other.

    Raises:
        RuntimeError, ValueError: they do not.
    """
    for name in ("stdouts", "stderrs"):
        check_ranks(name, getattr(dest, name), nprocs)
    check_ranks("error_files", dict.fromkeys(range(nprocs)) | dest.error_files, nprocs)
    for name in ("stdouts", "stderrs"):
        files, teed = getattr(dest, name), getattr(dest, f"tee_{name}")
        for rank, path in teed.items():
            if files.get(rank) != path:
                raise ValueError(f"tee_{name}[{rank}] is {path!r}, but {name}[{rank}] is {files.get(rank)!r}")


def check_ranks(name: str, by_rank: Mapping[int, Any], nprocs: int) -> None:
    """Check the keys of a map by rank.

    Raises:
        RuntimeError: they are not 0...n-1.
    """
    expected = set(range(nprocs))
    if set(by_rank) != expected:
        raise RuntimeError(
            f"{name}, local rank mapping mismatch, expected: {expected}, actual: {set(by_rank)}"
        )


def check_call(
    entrypoint: Callable[..., Any] | str, args: Mapping[int, Any], envs: Mapping[int, Mapping[str, str]]
) -> None:
    """Check entrypoint, arguments and environments of a run.

    Raises:
        TypeError: an entrypoint that is neither text nor callable; arguments or environments of other types.
        RuntimeError: `args` or `envs` without the ranks 0...n-1.
        ValueError: a NUL byte in what goes to a program.
    """
    if not isinstance(entrypoint, str) and not callable(entrypoint):
        raise TypeError(f"entrypoint must be a path or a callable, not {entrypoint!r}")
    nprocs = max(len(args), len(envs))
    check_ranks("args", args, nprocs)
    check_ranks("envs", envs, nprocs)
    for rank, arguments in args.items():
        if arguments is None:
            raise TypeError(f"args[{rank}] must be a sequence of arguments, not None")
        for argument in as_arguments(arguments) if isinstance(entrypoint, str) else ():
            refuse_nul(f"args[{rank}]", str(argument))
    for rank, env in envs.items():
        for name, value in env.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"envs[{rank}][{name!r}] must be text named by text, not {value!r}")
            refuse_nul(f"envs[{rank}]", name + value)


def as_arguments(arguments: Any) -> tuple[Any, ...]:
    """A rank's arguments as a tuple; a bare text is one argument."""
    return (arguments,) if isinstance(arguments, str) else tuple(arguments)


def refuse_nul(where: str, text: str) -> None:
    """Refuse text that no program can be given.

    Raises:
        ValueError: it has a NUL byte.
    """
    if "\0" in text:
        raise ValueError(f"{where}: embedded null byte in {text!r}")
