"""A rank's own process: how it begins, takes orders from the launcher, and ends.

*Rules.*  A rank begins by making its crashes and hangs readable: `faulthandler` writes every thread's
stack to the rank's `stacks.log` at a fatal error and on `DUMP_SIGNAL`, in C, whoever holds the GIL.  It
ends as every rank does (`_rankside`); what goes wrong on the way is a non-zero exit code, and so a failure
of the test.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import math
import random
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.collectives import install, use_store
from pytest_elastic.launch import _byvalue
from pytest_elastic.launch._rendezvous import CHANNEL, TIMERS, Place, StorePlace, connect
from pytest_elastic.launch._surroundings import Surroundings
from pytest_elastic.launch._thread_errors import ThreadErrors
from pytest_elastic.launch._world import World
from pytest_elastic.multiprocessing import (
    Channel,
    Left,
    RankStart,
    Returned,
    end_well,
    exit_code,
    forget_launcher,
    load_call,
    read_parcel,
)
from pytest_elastic.multiprocessing.errors import record
from pytest_elastic.pristine import os, pickle, signal, socket
from pytest_elastic.store import RemoteStore
from pytest_elastic.timer import PipeTimerClient, StreamTimerClient, TimerClient, configure

# A real-time signal that nothing else uses: code under test may have SIGUSR1 and SIGUSR2 for itself.
DUMP_SIGNAL = getattr(signal, "SIGRTMAX", 64) - 3  # Where it has no such name no rank is started.


@dataclass(frozen=True, slots=True)
class RankJob:
    """What `RankStart.job` holds for the ranks of a test.

    Attributes:
        world_size: how many ranks.
        directory: of this rank's files.
        torch_threads: for `torch.set_num_threads` where torch is loaded; 0 leaves it alone.
        payload: whether a function travels along (a `Parcel`); else orders come by channel.
        test: the first one that it is for, and for the how-manieth time; see `RandomStates`.
        place: where its launcher is, for a rank that has no descriptors; the function comes by channel then.
        collectives: mode of those of torch; see `collectives.use_store`.
        surroundings: of this rank.
        spread: whether the ranks run on several machines, and share no memory.
    """

    world_size: int
    directory: str
    torch_threads: int = 0
    payload: bool = False
    test: str = ""
    place: Place | None = None
    collectives: str = "check"
    surroundings: Surroundings = field(default_factory=Surroundings)
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """From the rank: it is ready.  Sent once.

    Attributes:
        tests: the ids of the tests that it collected by itself; `None` where it has the launcher's.
    """

    tests: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """To the rank: the function that it is to call, if it has connected by address."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Bye:
    """To the rank: end."""


class RankProcess:
    """This process as a rank.

    Attributes:
        rank, world_size: its place.
        tests: see `Hello`.
        spread: whether the ranks run on several machines.
        channel: to the launcher, held by nobody else.
        world: its group.
        thread_errors: those that make a phase, or the function, fail.
    """

    def __init__(self, start: RankStart) -> None:
        job: RankJob = start.job
        self.rank, self.world_size = start.rank, job.world_size
        self.directory, self.spread = job.directory, job.spread
        self.tests: tuple[str, ...] | None = None
        self.world: World | None = None
        self.tell: Callable[[BaseException], Any] | None = None
        self._job, self._descriptors = job, start.descriptors
        self.thread_errors = ThreadErrors()
        self._pid = os.getpid()
        job.surroundings.enter(self.rank, start.env)
        if job.place is not None:
            there = (job.place.address, job.place.token)
            if job.place.ahead:
                SYSTEM_CLOCK.follow(job.place.ahead)
            self.channel = Channel(connect(*there, CHANNEL, self.rank))
            self._timers: TimerClient = StreamTimerClient(connect(*there, TIMERS, self.rank).detach())
            self.join(job.place.store)
            return
        self.channel = Channel.of(start.descriptors["channel"])
        self._timers = PipeTimerClient(start.descriptors["timers"])
        if "store" in start.descriptors:
            self.join(start.descriptors["store"])

    def join(self, store: int | StorePlace) -> None:
        """Use the store at the other end of this socket, or at this place, from now on."""
        if isinstance(store, StorePlace):
            ours = RemoteStore(store.address, store.token)
        else:
            ours = RemoteStore(socket.socket(fileno=store))
        ours.place = (self.rank, self.world_size)
        self.world = World(self.rank, self.world_size, ours)
        self.see_collectives()

    def see_collectives(self, mode: str | None = None) -> None:
        """Have the collectives of the next test compared, or carried, over the present store.

        Args:
            mode: of these; the job's by default.
        """
        assert self.world is not None
        context = use_store(self.world.store, self.rank, self.world_size, mode or self._job.collectives)
        if context is not None and self.spread:
            context.inline = math.inf

    def live(self, obey: Callable[[RankProcess, Any], None]) -> int:
        """Do the job; the exit code is the value.  `obey` carries out an order that is not ours."""
        global _current
        _current = self
        self._prepare()
        self.channel.send(Hello(self.tests))
        code = self._call() if self._job.payload else self._serve(obey)
        return code or end_well()

    def report(self, message: object, error: BaseException | None = None) -> None:
        """Tell the launcher what has come of a phase, or of the function.

        A fork of this process that has come back from the test's code has nothing to tell, and ends here:
        with the code of `sys.exit`, if that is its `error`, else with code 1 and the reason on stderr.
        """
        if os.getpid() == self._pid:
            self.channel.send(message)
            return
        code = exit_code(error) if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit):
            said = "" if error is None else "".join(traceback.format_exception(error))
            sys.stderr.write(
                f"{said}process {os.getpid()}, which rank {self.rank} has forked, came back from the test's"
                " code: it ends here, with code 1, and should end by os._exit\n"
            )
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # The test may have closed it.
                stream.flush()
        os._exit(code)

    def _prepare(self) -> None:
        path = os.path.join(self.directory, "stacks.log")
        self._stacks = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - faulthandler needs it until the end.
        faulthandler.register(DUMP_SIGNAL, file=self._stacks, all_threads=True)
        faulthandler.enable(file=self._stacks)
        configure(self._timers)
        forget_launcher()
        install()
        torch = sys.modules.get("torch")
        if torch is not None and self._job.torch_threads:
            # An OpenMP pool that ran before the fork hangs in the child; one thread needs no pool.
            torch.set_num_threads(self._job.torch_threads)

    def _serve(self, obey: Callable[[RankProcess, Any], None]) -> int:
        while True:
            try:
                order, descriptors = self.channel.wait()
            except EOFError:
                return 1
            if isinstance(order, Bye):
                return 0
            for store in descriptors:
                self.join(store)
            if isinstance(order, StorePlace):
                self.join(order)
                continue
            obey(self, order)

    def _call(self) -> int:
        try:
            by_channel = self._job.place is not None
            payload = self.channel.wait()[0].data if by_channel else read_parcel(self._descriptors)
            last = record(_call)(payload, self.rank, self.world_size)
            # `record` takes `sys.exit(0)` for a return.
            left = Left("ended with sys.exit(0) before it returned a value")
            self.report(last or left, None if last else SystemExit(0))
        except SystemExit as end:
            code = exit_code(end)
            if code == 0:
                how = "" if end.code is None else repr(end.code)
                self.report(Left(f"ended with sys.exit({how}) before it returned a value"), end)
            return code
        except BaseException as error:  # The error file has it; the rank's log shall have it too.
            told = self.tell(error) if self.tell is not None else None
            printed = "".join(traceback.format_exception(error))
            sys.stderr.write(printed)
            if told is not None:
                told.details["printed"] = printed
                self.report(told)
            return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        return 0


def _call(payload: bytes, rank: int, world_size: int) -> Returned:
    """The function's value, pickled: what goes wrong on the way there is the rank's error."""
    function, args = load_call(payload, _byvalue.loads)
    value = function(rank, world_size, *args)
    assert _current is not None
    _current.thread_errors.raise_first()
    return Returned(_byvalue.dumps(value, f"the result, a {type(value).__name__},"), type(value).__name__)


_current: RankProcess | None = None


def current_world() -> World:
    """The group of this process.

    Raises:
        RuntimeError: this process is no rank.
    """
    if _current is None or _current.world is None:
        raise RuntimeError("this process is not a rank of pytest-elastic")
    return _current.world


def is_rank() -> bool:
    """Whether this process is a rank, so that `current_world` answers."""
    return _current is not None and _current.world is not None


@contextlib.contextmanager
def raises_on_ranks(
    error: type[BaseException] | tuple[type[BaseException], ...], ranks: Collection[int]
) -> Iterator[None]:
    """A block that must raise on exactly these ranks; on the others it must not.

    Args:
        error: what it must raise; anything else passes through.
        ranks: where.

    Raises:
        AssertionError: this rank was to raise and did not.
        RuntimeError: this process is no rank.
    """
    rank = current_world().rank
    if rank not in ranks:
        yield
        return
    try:
        yield
    except error:
        return
    names = " or ".join(kind.__name__ for kind in (error if isinstance(error, tuple) else (error,)))
    raise AssertionError(f"rank {rank} did not raise {names}")


class RandomStates:
    """States of the global random generators, those of `random` and numpy, as they are when this is made.

    A rank seeds both anew when it starts, from the state that each had when the tests had been collected,
    from the test and from its rank.  So no two ranks draw the same numbers, nor do two tests, as forks of one
    state would; and who seeds while the tests are collected gets the same numbers in every run, whichever
    tests run besides.  Fixtures and plugins that seed do so afterwards, and have the last word.  torch's
    generator goes on from where it was, equal on all ranks: models that are built alike count on it.
    """

    def __init__(self) -> None:
        # Now: Python gives `random` another state in each fork.
        self._states = {"random": pickle.dumps(random.getstate())}
        if numpy := _numpy():
            self._states["numpy"] = pickle.dumps(numpy.get_state(legacy=False))

    def seed(self, test: str, rank: int) -> None:
        """Seed the generators of this process, the rank's."""
        place = f"\n{rank}\n{test}".encode("utf-8", "surrogatepass")
        seeds = {name: hashlib.sha256(state + place).digest() for name, state in self._states.items()}
        random.seed(seeds["random"])
        if "numpy" in seeds:
            with contextlib.suppress(TypeError):  # Its user has put in a generator that takes no seeds.
                _numpy().seed(list(memoryview(seeds["numpy"]).cast("I")))


def _numpy() -> Any:
    return sys.modules.get("numpy.random")
