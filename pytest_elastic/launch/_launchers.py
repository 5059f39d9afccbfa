"""How ranks are made in this run, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pytest_elastic.launch._plan import Launcher
from pytest_elastic.multiprocessing import RunRank, Zygote
from pytest_elastic.pristine import os
from pytest_elastic.processes import lost_by_fork


class Launchers:
    """The launchers of the run, each made at its first use.

    Attributes:
        why: the reason for what `auto` decided.
    """

    def __init__(
        self,
        asked: str,
        foreign: tuple[str, set[int]],
        torch_is_single: bool,
        spawn: Callable[[], Launcher],
    ) -> None:
        """Decide.

        Args:
            asked: the start method, or `auto`.
            foreign: living threads that may do or hold anything: Python's in words, numbers of others.
            torch_is_single: whether ranks have torch use one thread.
            spawn: makes the launcher of fresh interpreters.
        """
        self._default, self.why = _decide(asked, *foreign, torch_is_single)
        self._spawn = spawn
        self._made: dict[str, Launcher] = {}

    def method(self, asked: str | None) -> str:
        """What is used where a marker says `asked`."""
        return self._default if asked in (None, "auto") else str(asked)

    def set_zygote_aside(self, run_rank: RunRank, prepare: Callable[[], None]) -> None:
        """Fork the zygote: now, before any test has run."""
        self._made["fork"] = Zygote.fork(run_rank, prepare)

    def get(self, method: str) -> Launcher:
        """The launcher for a start method."""
        if method not in self._made:
            self._made[method] = self._spawn()
        return self._made[method]

    def close(self) -> list[str]:
        """End them, and every group of theirs; bounded.  The start methods of those that had to be killed."""
        killed = [method for method, launcher in self._made.items() if not launcher.close()]
        self._made.clear()
        return killed


def _decide(asked: str, said: str, native: set[int], torch_is_single: bool) -> tuple[str, str]:
    if asked != "auto":
        return asked, "as asked"
    torch = sys.modules.get("torch")
    if said:
        return "spawn", said
    if torch is not None and torch.cuda.is_initialized():
        return "spawn", "CUDA was initialised while the tests were collected"
    harmless = os.path.dirname(str(torch.__file__)) if torch is not None and torch_is_single else ""
    if pools := lost_by_fork(native, harmless):
        return "spawn", f"native threads that a fork would lose are alive: {', '.join(pools)}"
    return "fork", "the modules of the tests started no threads"
