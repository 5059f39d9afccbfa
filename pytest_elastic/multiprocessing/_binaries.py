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
    """A program as a rank's job: starts in `directory` with the environment `env`."""

    path: str
    arguments: list[str]
    env: dict[str, str]
    directory: str

    def __call__(self, start: RankStart) -> int:
        """In the forked rank.  Returns only by an exception."""
        os.chdir(self.directory)
        replace_program(self.path, self.arguments, self.env)


class SubprocessContext(PContext):
    """A process group that runs the program `[entrypoint, *args[rank]]` on each rank, without a shell.

    After name, entrypoint, args and envs come torch's arguments (`logs_specs, log_line_prefixes,
    numa_options, duplicate_stdout_filters, duplicate_stderr_filters`) or those of torch's documentation page
    (`stdouts, stderrs, tee_stdouts, tee_stderrs, error_files, progbar_events`).

        context = SubprocessContext("n", "sleep", {0: (1,)}, {0: {}}, DefaultLogsSpecs(redirects=Std.ALL))
        context.start()
        context.wait(timeout=10)  # Seconds.

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
    """

    kind = "SubprocessContext"
    binary = True

    def _start(self) -> Group:
        name = str(self.entrypoint)

        def program(rank: int) -> _Program:
            arguments = [name, *map(str, as_arguments(self.args[rank]))]
            env = {"PYTHONUNBUFFERED": "1", **os.environ, **self.envs[rank], **self.marker()}
            return _Program(find_program(name, env), arguments, env, os.getcwd())

        return start_group(self._starts(program), START_LIMIT, loop=self.loop)

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return True, None  # A program owes nothing but its exit code.

    def _release(self) -> None:
        pass


def find_program(name: str, env: Mapping[str, str]) -> str:
    """The path of a program, looked up in the `PATH` of `env`, or the launcher's where that has none.

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
