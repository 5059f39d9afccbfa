"""Fresh interpreters that repeat the session, for runs in which forking is not safe: as ranks, or as a
zygote.

Each such rank executes Python anew, with the options of this interpreter and one seed of hashes for all
ranks, and collects the same tests with the same arguments; that costs seconds, so the plugin keeps such ranks
for as many tests as they stay clean."""

from __future__ import annotations

import dataclasses
import random
import sys
from dataclasses import dataclass
from typing import Any

from pytest_elastic.launch._rank import DUMP_SIGNAL, RankJob
from pytest_elastic.multiprocessing import Channel, RankStart, Zygote
from pytest_elastic.pristine import os, pickle
from pytest_elastic.processes import replace_program

_START = "pytest_elastic_start"  # Name of the plugin by which a fresh interpreter is told that it is a rank.
SEED = "PYTHONHASHSEED"
_RUN = (
    "branch",
    "source",
    "source_pkgs",
    "include",
    "omit",
    "concurrency",
    "core",
    "plugins",
    "relative_files",
)
# What is not ASCII is escaped: the new interpreter may read its arguments by another encoding.
_CODE = """\
import faulthandler, os, sys
os.chdir({directory!a})
stacks = open({stacks!a}, "w")
faulthandler.register({signal}, stacks)
sys.path[:], sys.argv[0] = {path!a}, {program!a}
import types, pytest
start = types.ModuleType({name!a})
start.told = {told!a}
sys.exit(pytest.main(sys.argv[1:], plugins=[start]))
"""


@dataclass(frozen=True, slots=True)
class Session:
    """What a fresh interpreter runs: pytest, as it was called.

    Attributes:
        arguments: of pytest.
        directory: where it was called.
        path, program: `sys.path` as pytest found it, and `sys.argv[0]`.
        state: for the plugin in the rank.
        files: node ids of the files of tests that are collected; `None` for all.
    """

    arguments: list[str]
    directory: str
    path: list[str]
    program: str
    state: dict[str, Any]
    files: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Order:
    """For `execute`: the session, and the rank's job in it."""

    session: Session
    job: RankJob
    options: list[str]
    env: dict[str, str | None]


class FreshInterpreters:
    """A launcher whose ranks are new interpreters that run this session of pytest."""

    def __init__(self, session: Session) -> None:
        self._session, self._options = session, interpreter_options()
        self._given = os.environ.get(SEED)
        # Else sets, and with them tests that are made from them, had an order of their own in each rank.
        self._seed = self._given or str(random.SystemRandom().randrange(1, 1 << 32))
        self._zygote = Zygote.spawn(__name__, "execute")

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Have a guardian start these ranks, by way of `execute`."""
        return self._zygote.start_group(
            [
                dataclasses.replace(
                    start,
                    env={SEED: self._seed, **start.env},
                    job=_Order(self._session, start.job, self._options, {SEED: self._given, **start.env}),
                )
                for start in starts
            ]
        )

    def close(self) -> bool:
        """End the zygote, and every group of it; whether it ended by itself."""
        return self._zygote.close()


def interpreter_options() -> list[str]:
    """The options of this interpreter (-O, -W, -X and the like), as a new one takes them.

    `subprocess` has such a function for `multiprocessing`, but no public one.
    """
    flags, warnings = sys.flags, list(sys.warnoptions)
    letters = {
        "b": flags.bytes_warning,
        "B": flags.dont_write_bytecode,
        "E": flags.ignore_environment,
        "I": flags.isolated,
        "O": flags.optimize,
        "P": flags.safe_path,
        "s": flags.no_user_site,
        "S": flags.no_site,
        "v": flags.verbose,
    }
    inherited = [] if flags.ignore_environment else os.environ.get("PYTHONWARNINGS", "").split(",")
    implied = ["default"] * flags.dev_mode + ["error::BytesWarning", "default::BytesWarning"]
    for option in (*inherited, *implied):  # A new interpreter comes to them by itself.
        if option in warnings:
            warnings.remove(option)
    return [
        *(f"-{letter * int(times)}" for letter, times in letters.items() if times),
        *(f"-W{option}" for option in warnings),
        *(f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()),
    ]


def execute(start: RankStart) -> int:
    """In the forked rank: become a fresh interpreter.  Does not return."""
    order: _Order = start.job
    session = order.session
    for number in start.descriptors.values():
        os.set_inheritable(number, True)
    start = dataclasses.replace(start, env=order.env, job=order.job)
    command = command_of(session, start, order.job.directory, order.options)
    replace_program(sys.executable, command, os.environ)


def command_of(session: Session, start: object, directory: str, options: list[str]) -> list[str]:
    """The command of a fresh interpreter that repeats a session.

    Args:
        start: what it is for; `start_of_this_interpreter` has it there.
        directory: for its files.
        options: see `interpreter_options`.
    """
    code = _CODE.format(
        directory=session.directory,
        stacks=os.path.join(directory, "stacks.log"),
        signal=int(DUMP_SIGNAL),
        path=session.path,
        program=session.program,
        name=_START,
        told=pickle.dumps((start, session)),
    )
    arguments = [*session.arguments, "--basetemp", os.path.join(directory, "tmp")]
    return [sys.executable, *options, "-c", code, *arguments]


def start_of_this_interpreter(told: bytes) -> tuple[Any, Session]:
    """In the fresh interpreter: what it was started for (see `command_of`), and the session."""
    start, session = pickle.loads(told)
    for number in start.descriptors.values():
        os.set_inheritable(number, False)
    return start, session


def measured() -> dict[str, Any] | None:
    """How coverage.py measures this process; `None` where it does not."""
    coverage = sys.modules.get("coverage")
    current = coverage and coverage.Coverage.current()
    if not current:
        return None
    options = {f"run:{name}": current.get_option(f"run:{name}") for name in _RUN}
    return {"file": os.path.abspath(current.get_option("run:data_file")), "options": options}


def measure(like: dict[str, Any] | None) -> None:
    """Measure this process in the same way, unless it is measured; a rank saves what was found at its end."""
    if like is None:
        return
    import coverage

    if coverage.Coverage.current() is None:
        mine = coverage.Coverage(like["file"], data_suffix=True, config_file=False)
        for name, value in like["options"].items():
            mine.set_option(name, value)
        mine.set_option("run:disable_warnings", ["no-data-collected", "module-not-imported"])
        mine.start()
