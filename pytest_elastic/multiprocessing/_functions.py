"""Functions as ranks: `MultiprocessContext`, by spawn, fork or forkserver.

*Theory of operation.*  `fork`: a zygote is forked off the launcher as it stands, and forks the ranks: the
function is there already.  `spawn`: a shared zygote forks ranks that become fresh interpreters.
`forkserver`: a shared zygote that has imported what `multiprocessing.set_forkserver_preload` names forks
ranks that go on as they are.  For the latter two the function travels as `multiprocessing` itself would
send it, its queues, locks and connections included.

When a run has ended, the zygote of its own that `fork` made is told to end and reaped in the background:
a large process takes the kernel longer to take apart than all the rest of the way to the result.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from typing import Any

from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._context import START_LIMIT, PContext
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._guardian import exit_now, set_environment
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._parcel import parcel_of_process, receive_parcel
from pytest_elastic.multiprocessing._rankside import end_well, exit_code, forget_launcher
from pytest_elastic.multiprocessing._results import (
    Call,
    RankChannels,
    Returned,
    load_call,
)
from pytest_elastic.multiprocessing._run_arguments import as_arguments
from pytest_elastic.multiprocessing._shared import start_group
from pytest_elastic.multiprocessing._zygote import Zygote
from pytest_elastic.multiprocessing.errors import record
from pytest_elastic.pristine import os, pickle, signal
from pytest_elastic.processes import replace_program

_PLACE = "PYTEST_ELASTIC_FUNCTION"


class MultiprocessContext(PContext):
    """A process group that calls the function `entrypoint(*args[rank])` on each rank.

    After name, entrypoint, args and envs come torch's arguments (`start_method, logs_specs,
    log_line_prefixes, numa_options, duplicate_stdout_filters, duplicate_stderr_filters`) or those of torch's
    documentation page (`stdouts, stderrs, tee_stdouts, tee_stderrs, error_files, start_method,
    progbar_events`).

        context = MultiprocessContext("n", pow, {0: (2, 3)}, {0: {}}, "spawn", DefaultLogsSpecs())
        context.start()
        assert context.wait(timeout=60).return_values == {0: 8}  # Seconds.

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
    """

    kind = "MultiprocessContext"

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any],
        args: Mapping[int, Any],
        envs: Mapping[int, Mapping[str, str]],
        *logs: Any,
        **named: Any,
    ) -> None:
        super().__init__(name, entrypoint, args, envs, *logs, **named)
        self.start_method = self._plan.start_method
        self._channels = RankChannels(self.envs, self.loop)
        self._zygote: Zygote | None = None

    def _start(self) -> Group:
        with ExitStack() as stack:
            descriptors: dict[int, dict[str, int]] = {}
            for rank in self.envs:
                descriptors[rank] = {}
                if self.start_method != "fork":
                    call = (self.entrypoint, as_arguments(self.args[rank]))
                    parcel = parcel_of_process(f"{self.name}{rank}", call)
                    stack.callback(parcel.close)
                    descriptors[rank] = parcel.descriptors()
                descriptors[rank]["channel"] = stack.enter_context(self._channels.open(rank)).fileno()
            return self._fork(descriptors)

    def _fork(self, descriptors: dict[int, dict[str, int]]) -> Group:
        if self.start_method == "fork":
            self._zygote = Zygote.fork(self._call_as_fork)
            return Group(self._zygote.start_group(self._starts(lambda rank: None, descriptors)), self.loop)
        if self.start_method == "spawn":
            interpreter = _Interpreter(dict(os.environ))
            return start_group(
                self._starts(lambda rank: interpreter, descriptors), START_LIMIT, loop=self.loop
            )
        preload = vars(forkserver)["_forkserver"]._preload_modules
        fork = _PlainFork(dict(os.environ))
        # The zygote's `__main__` is its own; the ranks load this process's by themselves.
        names = tuple(name for name in preload if name != "__main__")
        return start_group(self._starts(lambda rank: fork, descriptors), START_LIMIT, names, self.loop)

    def _call_as_fork(self, start: RankStart) -> int:
        forget_launcher()
        arguments = as_arguments(self.args[start.rank])
        call: Any = (self.entrypoint, arguments)
        return call_and_send(start.descriptors["channel"], lambda: call)

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return self._channels.returned(rank, pickle.loads)

    def _release(self) -> None:
        self._channels.close()
        if self._zygote is not None and self._group is not None and self._group.ended is not None:
            self._zygote.leave()  # Nothing is left of the group.
        elif self._zygote is not None:
            self._zygote.close()  # It sweeps in the guardian's place.


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """A fresh interpreter as a rank's job (spawn), with the launcher's environment `environ`."""

    environ: dict[str, str]

    def __call__(self, start: RankStart) -> int:
        """In the forked rank: become a fresh interpreter that goes on with `main`.  Does not return."""
        for number in start.descriptors.values():
            os.set_inheritable(number, True)
        added = {name: value for name, value in start.env.items() if value is not None}
        env = {**self.environ, **added}
        env[_PLACE] = ",".join(f"{name}={number}" for name, number in start.descriptors.items())
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        replace_program(sys.executable, [sys.executable, "-u", "-c", code], env)


@dataclass(frozen=True, slots=True)
class _PlainFork:
    """A plain fork as a rank's job (forkserver), with the launcher's environment `environ`."""

    environ: dict[str, str]

    def __call__(self, start: RankStart) -> int:
        """In the forked rank."""
        forget_launcher()
        os.environ.clear()
        set_environment({**self.environ, **start.env})
        return run_parcel(start.descriptors)


def main() -> None:
    """The fresh interpreter's whole program."""
    pairs = (entry.split("=") for entry in os.environ.pop(_PLACE).split(","))
    descriptors = {name: int(number) for name, number in pairs}
    for number in descriptors.values():
        os.set_inheritable(number, False)
    exit_now(run_parcel(descriptors))


def run_parcel(descriptors: dict[str, int]) -> int:
    """In the rank: unpack the function that came as a `Parcel`, and call it; returns the exit code."""
    return call_opened(descriptors["channel"], receive_parcel(descriptors))


def call_opened(number: int, open_parcel: Callable[[Callable[[bytes], Call]], Call]) -> int:
    """The same for a parcel that has come already; see `unpacking`."""
    return call_and_send(number, lambda: open_parcel(partial(load_call, loads=pickle.loads)))


def call_and_send(number: int, load: Callable[[], Call]) -> int:
    """Call the loaded function, send its result through channel `number`, and end; returns the exit code."""
    try:
        with closing(Channel.of(number)) as channel:
            loaded = record(load)()
            if loaded is None:
                return 0  # Its main module has ended it.
            function, arguments = loaded
            value = record(function)(*arguments)
            channel.send(Returned(record(dump_result)(value) or b"", type(value).__name__))
    except SystemExit as error:
        return exit_code(error)
    except BaseException as error:  # The error file has it; the log shall have it too.
        traceback.print_exc()
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return end_well()


def dump_result(value: object) -> bytes:
    """A rank's result, pickled.

    Raises:
        TypeError: it cannot be pickled; the text says why.
    """
    try:
        return bytes(ForkingPickler.dumps(value))
    except Exception as error:
        raise TypeError(f"the result, a {type(value).__name__}, cannot be pickled: {error}") from error
