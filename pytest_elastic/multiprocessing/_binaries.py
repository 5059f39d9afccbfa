"""Programs as ranks: `SubprocessContext`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_elastic.multiprocessing._context import START_LIMIT, PContext
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._run_arguments import as_arguments
from pytest_elastic.multiprocessing._shared import start_group
from pytest_elastic.pristine import os
from pytest_elastic.processes import replace_program


@dataclass(frozen=True, slots=True)
class _Program:
    """What a rank becomes: it starts where the launcher is, with the launcher's environment and more."""

    path: str
    arguments: list[str]
    env: dict[str, str]
    directory: str

    def __call__(self, start: RankStart) -> int:
        """In the forked rank.  Returns only by an exception."""
        os.chdir(self.directory)
        replace_program(self.path, self.arguments, self.env)


class SubprocessContext(PContext):
    """Runs `[entrypoint, *args[rank]]` on each rank, without a shell, in a session of its own.

    After name, entrypoint, args and envs come torch's arguments (`logs_specs, log_line_prefixes,
    numa_options, duplicate_stdout_filters, duplicate_stderr_filters`) or the page's (`stdouts, stderrs,
    tee_stdouts, tee_stderrs, error_files, progbar_events`).

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
    """

    kind = "SubprocessContext"
    binary = True

    def _start(self) -> Group:
        return start_group(self._starts(self._program), START_LIMIT, loop=self.loop)

    def _program(self, rank: int) -> _Program:
        name = str(self.entrypoint)
        arguments = [name, *map(str, as_arguments(self.args[rank]))]
        env = {"PYTHONUNBUFFERED": "1", **os.environ, **self.envs[rank], **self.marker()}
        return _Program(find_program(name, env), arguments, env, os.getcwd())

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return True, None  # A program owes nothing but its exit code.

    def _release(self) -> None:
        pass


def find_program(name: str, env: Mapping[str, str]) -> str:
    """Its path, for a rank with this environment; `PATH` is the launcher's where it has none.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it cannot be executed.
    """
    found = shutil.which(name, path=env.get("PATH"))
    if found is not None:
        return found
    if os.path.exists(name):
        raise PermissionError(f"{name} cannot be executed")
    raise FileNotFoundError(f"there is no program {name}")
