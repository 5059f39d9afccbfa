"""The adopter: stands in the place of the standard library's process starts, and keeps the books.

*Rules.*  Contexts `spawn` and `forkserver` make each process by their process class's static method `_Popen`;
that is the one private name that is replaced, and only from `begin` to `end`.  What comes from another
process (a fork of this one, or an adopted one) or cannot be forked is left to the standard library.  What
cannot be pickled fails as it does there.
"""

from __future__ import annotations

import itertools
import multiprocessing.context
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from pytest_elastic.adoption._adopted_popen import AdoptedPopen
from pytest_elastic.adoption._family import Family, Member
from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.collectives import preload
from pytest_elastic.errors import GuardianError
from pytest_elastic.multiprocessing import Zygote, do_job
from pytest_elastic.pristine import os, threading

_CLASSES: dict[str, Any] = {
    "spawn": multiprocessing.context.SpawnProcess,
    "forkserver": multiprocessing.context.ForkServerProcess,
}


class Adopter:
    """Serves the processes that this process starts by `multiprocessing`, by forks of it as it is now.

    The caller answers for its state: one Python thread, no context of CUDA.  Thread-safe, but for `begin` and
    `end`.

    Args:
        directory: for the files of processes.
        zygote: forks them, in place of this process: it stays the caller's.
        collectives: whether those of torch are checked, where this process has loaded it.
        clock: see `AdoptedWorld`.

    Attributes:
        served: how many processes were adopted.
        seconds: that their starts took, in all.
        left: why, and how often, a process was left to the standard library.
        modules: how often a module's function was the target of a process.

    Raises:
        OSError: there is no process to be had.
    """

    def __init__(
        self, directory: Path, collectives: bool = True, clock: str = "auto", zygote: Zygote | None = None
    ) -> None:
        self._pid, self._directory, self._numbers = os.getpid(), directory, itertools.count()
        self._checks = collectives and "torch.distributed" in sys.modules
        self._clock = clock
        self._family: Family | None = None
        self._zygote = zygote or Zygote.fork(do_job, *([preload] if self._checks else []))
        self._is_own = zygote is None
        self._lock = threading.Lock()
        self._originals = {method: vars(kind)["_Popen"] for method, kind in _CLASSES.items()}
        self._running: list[AdoptedPopen] = []
        self._of_test: list[AdoptedPopen] = []
        self.served, self.seconds, self.left, self.modules = 0, 0.0, Counter[str](), Counter[str]()

    def begin(self) -> list[AdoptedPopen]:
        """Adopt from now on; the list that grows by each process, in the order of their starts."""
        self._of_test = []
        for method, kind in _CLASSES.items():
            kind._Popen = staticmethod(partial(self._start, method))
        return self._of_test

    def end(self) -> None:
        """Adopt no more.  Nothing is kept of processes that have ended."""
        for method, original in self._originals.items():
            _CLASSES[method]._Popen = original
        with self._lock:
            self._forget_ended()
        self._of_test = []

    def close(self) -> None:
        """End the processes that still run, and the zygote; bounded."""
        for one in self._running:
            one.poll()
            one.group.close()
        if self._family is not None:
            self._family.close()
        if self._is_own:
            self._zygote.close()

    def _start(self, method: str, process: Any) -> Any:
        if os.getpid() != self._pid:
            return self._originals[method].__func__(process)
        with self._lock:
            directory = self._directory / str(next(self._numbers))
            adopted: AdoptedPopen | None = None
            self._forget_ended()  # A test may start any number.
            member = self._enter()
            try:
                adopted = AdoptedPopen(process, method, self._zygote, directory, member)
            except BaseException as error:
                if member is not None:
                    member.leave()
                if not isinstance(error, OSError | GuardianError):
                    raise
                self.left[str(error)] += 1
            else:
                self.served += 1
                self.seconds += SYSTEM_CLOCK.monotonic() - adopted.began
                self._running.append(adopted)
                self._of_test.append(adopted)
                self.modules[getattr(process._target, "__module__", "") or ""] += 1
        return adopted or self._originals[method].__func__(process)

    def _forget_ended(self) -> None:
        """Let go of what looks after processes that have ended."""
        for one in self._running:
            one.poll()
            one.group.take()  # The guardian's last word comes after the exit code.
            if one.group.over:
                one.group.close()
        self._running = [one for one in self._running if not one.group.over]

    def _enter(self) -> Member | None:
        """A place in the family of those that run, or in a new one."""
        if not self._checks:
            return None
        member = None if self._family is None else self._family.enter()
        while member is None:
            self._family = Family(self._clock)
            member = self._family.enter()
        return member
