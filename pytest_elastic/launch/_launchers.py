"""How ranks are made in this run, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pytest_elastic.launch._plan import Launcher
from pytest_elastic.multiprocessing._guardian import RunRank
from pytest_elastic.multiprocessing._zygote import Zygote


class Launchers:
    """The launchers of the run, each made at its first use.

    Attributes:
        why: the reason for what `auto` decided.
    """

    def __init__(self, asked: str, foreign: list[str], spawn: Callable[[], Launcher]) -> None:
        self._default, self.why = _decide(asked, foreign)
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


def _decide(asked: str, foreign: list[str]) -> tuple[str, str]:
    if asked != "auto":
        return asked, "as asked"
    torch = sys.modules.get("torch")
    if foreign:
        return "spawn", f"threads that the tests' modules started are alive: {', '.join(foreign)}"
    if torch is not None and torch.cuda.is_initialized():
        return "spawn", "CUDA was initialised while the tests were collected"
    return "fork", "the modules of the tests started no threads"
