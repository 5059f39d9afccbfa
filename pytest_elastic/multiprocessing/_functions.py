"""Functions as ranks: `MultiprocessContext`, by spawn, fork or forkserver.

*Theory of operation.*  `fork`: a zygote is forked off the launcher as it stands, and forks the ranks: the
function is there already.  `spawn`: a shared zygote forks ranks that become fresh interpreters.
`forkserver`: a shared zygote that has imported what `multiprocessing.set_forkserver_preload` names forks
ranks that go on as they are.  For the latter two the function travels as `multiprocessing` itself would
send it, its queues, locks and connections included.
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.spawn
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from typing import Any

from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._context import PContext
from pytest_elastic.multiprocessing._dialect import as_arguments, read_constructor
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._guardian import RankStart, exit_now, set_environment
from pytest_elastic.multiprocessing._rankside import end_well, forget_launcher
from pytest_elastic.multiprocessing._results import RankChannels, Returned, in_memory, read_memory
from pytest_elastic.multiprocessing._shared import start_group
from pytest_elastic.multiprocessing._zygote import Zygote
from pytest_elastic.multiprocessing.errors import record

START_METHODS = ("spawn", "fork", "forkserver")
_PLACE = "PYTEST_ELASTIC_FUNCTION"


class MultiprocessContext(PContext):
    """Calls `entrypoint(*args[rank])` on each rank.

    After name, entrypoint, args and envs come torch's arguments (`start_method, logs_specs,
    log_line_prefixes, numa_options, duplicate_stdout_filters, duplicate_stderr_filters`) or the page's
    (`stdouts, stderrs, tee_stdouts, tee_stderrs, error_files, start_method, progbar_events`).

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any],
        args: Mapping[int, Any],
        envs: Mapping[int, Mapping[str, str]],
        *logs: Any,
        **named: Any,
    ) -> None:
        copies = {rank: dict(env) for rank, env in envs.items()}
        plan = read_constructor("MultiprocessContext", copies, logs, named)
        self.start_method = check_start_method(plan.start_method)
        super().__init__(name, entrypoint, args, copies, plan)
        self._channels = RankChannels(self.envs)
        self._zygote: Zygote | None = None

    def _start(self) -> Group:
        with ExitStack() as stack:
            descriptors: dict[int, dict[str, int]] = {}
            for rank in self.envs:
                parcel = {} if self.start_method == "fork" else self._pack(rank, stack)
                end = stack.enter_context(self._channels.open(rank))
                descriptors[rank] = {"channel": end.fileno(), **parcel}
            return Group(self._fork(self._starts(lambda rank: dict(os.environ), descriptors)))

    def _fork(self, starts: list[RankStart]) -> Channel:
        if self.start_method == "spawn":
            return start_group(__name__, "become_interpreter", starts)
        if self.start_method == "forkserver":
            preload = tuple(vars(forkserver)["_forkserver"]._preload_modules)
            return start_group(__name__, "unpack_and_call", starts, preload)
        self._zygote = Zygote.fork(self._call_as_fork)
        return self._zygote.start_group(starts)

    def _call_as_fork(self, start: RankStart) -> int:
        forget_launcher()
        arguments = as_arguments(self.args[start.rank])
        return _call(start.descriptors["channel"], self.entrypoint, arguments)  # type: ignore[arg-type]

    def _pack(self, rank: int, stack: ExitStack) -> dict[str, int]:
        arguments = as_arguments(self.args[rank])
        parcel = Parcel(f"{self.name}{rank}", self.entrypoint, arguments)  # type: ignore[arg-type]
        stack.callback(parcel.close)
        return parcel.descriptors()

    def _take(self, timeout: float) -> None:
        self._channels.take(self.group, timeout)

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return self._channels.returned(rank, pickle.loads)

    def _release(self) -> None:
        self._channels.close()
        if self._zygote is not None:
            self._zygote.close()


def check_start_method(method: object) -> str:
    """`ValueError` unless it is one of the three."""
    if method not in START_METHODS:
        raise ValueError(
            f"start_method {method!r} is not allowed; it must be one of {', '.join(START_METHODS)}"
        )
    return str(method)


class Parcel:
    """A function and its arguments on the way to one rank.

    While it is pickled it stands where `multiprocessing` has its `Popen`, and is asked to carry descriptors.
    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._carried: list[int] = []
        self._payload = -1
        multiprocessing.context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            content = bytes(ForkingPickler.dumps((function, arguments)))
            preparation = multiprocessing.spawn.get_preparation_data(name)
            self._payload = in_memory(pickle.dumps((preparation, content)))
        except BaseException:
            self.close()
            raise
        finally:
            multiprocessing.context.set_spawning_popen(None)

    def duplicate_for_child(self, descriptor: int) -> int:
        """Asked by `multiprocessing`: carry it along; the value is what `Carried` is made of."""
        self._carried.append(os.dup(descriptor))
        return len(self._carried) - 1

    @staticmethod
    def DupFd(place: int) -> Carried:
        """Asked by `multiprocessing`."""
        return Carried(place)

    def descriptors(self) -> dict[str, int]:
        """Names and numbers of what goes along."""
        return {"payload": self._payload, **{f"carried{i}": number for i, number in enumerate(self._carried)}}

    def close(self) -> None:
        """Close this side's copies."""
        for number in (self._payload, *self._carried):
            if number >= 0:
                os.close(number)


class Carried:
    """A descriptor in a pickle: its place among those that came along."""

    arrived: dict[str, int] = {}  # noqa: RUF012 - of this process, set once, before anything is unpickled.

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        """Its number in this process."""
        return self.arrived[f"carried{self._place}"]


def become_interpreter(start: RankStart) -> int:
    """In a forked rank: become a fresh interpreter that goes on with `main`.  Does not return."""
    for number in start.descriptors.values():
        os.set_inheritable(number, True)
    env = {**start.job, **_defined(start.env)}
    env[_PLACE] = ",".join(f"{name}={number}" for name, number in start.descriptors.items())
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    os.execve(sys.executable, [sys.executable, "-c", code], env)


def main() -> None:
    """The fresh interpreter's whole program."""
    pairs = (entry.split("=") for entry in os.environ.pop(_PLACE).split(","))
    descriptors = {name: int(number) for name, number in pairs}
    for number in descriptors.values():
        os.set_inheritable(number, False)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    exit_now(_unpack(descriptors))


def unpack_and_call(start: RankStart) -> int:
    """In a forked rank of the forkserver."""
    forget_launcher()
    os.environ.clear()
    set_environment({**start.job, **start.env})
    return _unpack(start.descriptors)


def _unpack(descriptors: dict[str, int]) -> int:
    Carried.arrived = descriptors
    preparation, content = pickle.loads(read_memory(descriptors["payload"]))
    multiprocessing.spawn.prepare(preparation)
    function, arguments = pickle.loads(content)
    return _call(descriptors["channel"], function, arguments)


def _call(number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Call it, send the result, end well; the exit code."""
    channel = Channel.of(number)
    try:
        value = record(function)(*arguments)
        channel.send(Returned(record(_dump)(value) or b""))
    except SystemExit as error:
        return _code_of(error)
    except BaseException:  # The error file has it; the log shall have it too.
        traceback.print_exc()
        return 1
    return end_well()


def _dump(value: object) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(value))
    except Exception as error:
        raise TypeError(f"the result, a {type(value).__name__}, cannot be pickled: {error}") from error


def _code_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _defined(env: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in env.items() if value is not None}
