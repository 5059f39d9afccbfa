"""Programs as ranks: `SubprocessContext`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_elastic.multiprocessing._context import PContext
from pytest_elastic.multiprocessing._dialect import as_arguments, read_constructor
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._guardian import RankStart
from pytest_elastic.multiprocessing._shared import start_group


@dataclass(frozen=True, slots=True)
class _Program:
    """What a rank becomes: it starts where the launcher is, with the launcher's environment and more."""

    arguments: list[str]
    env: dict[str, str]
    directory: str


class SubprocessContext(PContext):
    """Runs `[entrypoint, *args[rank]]` on each rank, without a shell, in a session of its own.

    After name, entrypoint, args and envs come torch's arguments (`logs_specs, log_line_prefixes,
    numa_options, duplicate_stdout_filters, duplicate_stderr_filters`) or the page's (`stdouts, stderrs,
    tee_stdouts, tee_stderrs, error_files, progbar_events`).

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
    """

    binary = True

    def __init__(
        self,
        name: str,
        entrypoint: str,
        args: Mapping[int, Any],
        envs: Mapping[int, Mapping[str, str]],
        *logs: Any,
        **named: Any,
    ) -> None:
        copies = {rank: dict(env) for rank, env in envs.items()}
        super().__init__(
            name, entrypoint, args, copies, read_constructor("SubprocessContext", copies, logs, named)
        )

    def _start(self) -> Group:
        program = find_program(str(self.entrypoint))
        return Group(start_group(__name__, "execute", self._starts(self._job(program))))

    def _job(self, program: str) -> Any:
        def job(rank: int) -> _Program:
            arguments = [program, *map(str, as_arguments(self.args[rank]))]
            env = {"PYTHONUNBUFFERED": "1", **os.environ, **self.envs[rank], **self.marker()}
            return _Program(arguments, env, os.getcwd())

        return job

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return True, None  # A program owes nothing but its exit code.

    def _release(self) -> None:
        pass


def find_program(name: str) -> str:
    """Its path.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it cannot be executed.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    if os.path.exists(name):
        raise PermissionError(f"{name} cannot be executed")
    raise FileNotFoundError(f"there is no program {name}")


def execute(start: RankStart) -> int:
    """In the forked rank: become the program.  Returns only if that fails."""
    program: _Program = start.job
    os.chdir(program.directory)
    os.execve(program.arguments[0], program.arguments, program.env)
