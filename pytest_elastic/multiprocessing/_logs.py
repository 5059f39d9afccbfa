"""Log files of the ranks: `LogsSpecs` chooses their places, `LogsDest` holds the paths."""

from __future__ import annotations

import abc
import logging
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from pytest_elastic.multiprocessing._std import Std, to_map
from pytest_elastic.pristine import os

logger = logging.getLogger(__name__)


@dataclass
class LogsDest:
    """Paths of the log files of a run, by rank.

    Attributes:
        stdouts, stderrs: the stream's file; `""` for the launcher's own stream.
        tee_stdouts, tee_stderrs: files whose lines the launcher also shows.
        error_files: the file in which a rank records its error.
        filtered_stdout, filtered_stderr: files for the lines that the filters select; `""` for none.
    """

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)
    filtered_stdout: str = ""
    filtered_stderr: str = ""


class LogsSpecs(abc.ABC):
    """Base class of log settings; subclasses choose the directories.

    Args:
        log_dir: directory for all files.
        redirects: streams that go to a file.
        tee: streams that go to a file and are shown by the launcher.
        local_ranks_filter: the ranks to show; all if `None` or empty.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        self._root_log_dir = None if log_dir is None else os.fspath(log_dir)
        self._redirects, self._tee = redirects, tee
        self._local_ranks_filter = local_ranks_filter

    @abc.abstractmethod
    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the directories for ranks with these environments, and return the paths.

        Tells each rank its error file: `envs[rank]["TORCHELASTIC_ERROR_FILE"]` is written.
        """

    @property
    @abc.abstractmethod
    def root_log_dir(self) -> str:
        """The directory for all files."""


class DefaultLogsSpecs(LogsSpecs):
    """Log files in `<log_dir>/<run id>_<random>/attempt_<restart count>/<rank>/`, `stdout.log` and so on.

    `log_dir` is made if it is missing; it need not be empty.  `None` or `""` makes a temporary directory,
    `os.devnull` discards everything.

        specs = DefaultLogsSpecs("logs", redirects=Std.ERR, tee={0: Std.OUT})
        specs.reify({0: {}, 1: {}}).stderrs[1]  # logs/test_run_id_.../attempt_0/1/stderr.log

    Raises:
        NotADirectoryError: `log_dir` is a file.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        if not log_dir:
            log_dir = tempfile.mkdtemp(prefix="pytest_elastic_")
        elif os.fspath(log_dir) != os.devnull:
            if os.path.exists(log_dir) and not os.path.isdir(log_dir):
                raise NotADirectoryError(f"log_dir: {log_dir} is a file")
            os.makedirs(log_dir, exist_ok=True)
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
        self._run_log_dir = ""

    @property
    def root_log_dir(self) -> str:
        """The `log_dir` of the constructor, or the temporary directory in its place."""
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the attempt's directory, empty, with one for each rank.

        The run id and the restart count are `TORCHELASTIC_RUN_ID` and `TORCHELASTIC_RESTART_COUNT` of rank 0.

        Raises:
            RuntimeError: the ranks of `envs` are not 0...n-1.
        """
        if not envs:
            logger.warning("there are no ranks to make log files for")
            return LogsDest()
        expected = set(range(len(envs)))
        if set(envs) != expected:
            raise RuntimeError(
                f"envs, local rank mapping mismatch, expected: {expected}, actual: {set(envs)}"
            )
        if self._root_log_dir == os.devnull:
            inherited, nowhere = dict.fromkeys(envs, ""), dict.fromkeys(envs, os.devnull)
            dest = LogsDest(stdouts=inherited, stderrs=dict(inherited), error_files=nowhere)
        else:
            dest = self._lay_out(envs)
        for rank, path in dest.error_files.items():
            envs[rank]["TORCHELASTIC_ERROR_FILE"] = "" if path == os.devnull else path
        return dest

    def _lay_out(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        if not self._run_log_dir:
            # Absolute: a rank may change its directory before it records an error.
            root = os.path.abspath(self.root_log_dir)
            os.makedirs(root, exist_ok=True)
            prefix = envs[0].get("TORCHELASTIC_RUN_ID", "test_run_id")
            self._run_log_dir = tempfile.mkdtemp(prefix=f"{prefix}_", dir=root)
        attempt = envs[0].get("TORCHELASTIC_RESTART_COUNT", "0")
        directory = os.path.join(self._run_log_dir, f"attempt_{attempt}")
        shutil.rmtree(directory, ignore_errors=True)
        return lay_out(
            directory,
            to_map(self._redirects, len(envs)),
            to_map(self._tee, len(envs)),
            self._local_ranks_filter or set(envs),
        )

    def __repr__(self) -> str:
        return (
            f"DefaultLogsSpecs(root_log_dir={self._root_log_dir}, redirects={self._redirects}, "
            f"tee={self._tee}, local_ranks_filter={self._local_ranks_filter})"
        )

    def __eq__(self, other: object) -> bool:
        asked = attrgetter("_root_log_dir", "_redirects", "_tee", "_local_ranks_filter")
        return isinstance(other, DefaultLogsSpecs) and asked(self) == asked(other)

    __hash__ = None  # type: ignore[assignment]


def lay_out(
    directory: str, redirects: dict[int, Std], tee: dict[int, Std], shown: Collection[int]
) -> LogsDest:
    """Make `<directory>/<rank>/` for each rank, and name the files in there.

    Args:
        directory: made with its parents if it is missing.
        redirects: each rank's streams that go to a file.
        tee: those that are shown too; they go to a file in any case.
        shown: of other ranks nothing is shown: what they do not redirect is lost.

    Raises:
        FileExistsError: a rank's directory is there already.
    """
    dest = LogsDest(
        filtered_stdout=os.path.join(directory, "filtered_stdout.log"),
        filtered_stderr=os.path.join(directory, "filtered_stderr.log"),
    )
    streams = (
        (Std.OUT, "stdout.log", dest.stdouts, dest.tee_stdouts),
        (Std.ERR, "stderr.log", dest.stderrs, dest.tee_stderrs),
    )
    for rank in redirects:
        home = os.path.join(directory, str(rank))
        os.makedirs(home)
        dest.error_files[rank] = os.path.join(home, "error.json")
        for flag, name, files, teed in streams:
            if flag in redirects[rank] | tee[rank]:
                files[rank] = os.path.join(home, name)
            else:
                files[rank] = "" if rank in shown else os.devnull
            if flag in tee[rank] and rank in shown:
                teed[rank] = files[rank]
    return dest
