"""Polls: waits that begin again after their timeout, and that a jumping clock would repeat without end."""

from __future__ import annotations

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import WaitBegan, WaitEnded
from pytest_elastic.hang import Diagnosis, key_names

_LONG, _MANY = 5.0, 20  # Seconds and timeouts of one wait after which it will go on like that for ever.
_Keys = tuple[int | None, str, tuple[str, ...]]  # Rank, operation, and what was missing.


class Polls:
    """Counts how often the timeout of the same wait was let pass, in one phase.

    Attributes:
        endless: in words, that a rank polls for what nobody can bring; `""` if none does.
    """

    def __init__(self) -> None:
        self.endless = ""
        self._waits: dict[int, _Keys] = {}  # By client.
        self._passed: dict[_Keys, tuple[int, float]] = {}  # How often, and since when.

    def begin(self, event: WaitBegan) -> None:
        """A wait began."""
        self._waits[event.client] = event.rank, event.name, event.missing

    def end(self, event: WaitEnded) -> None:
        """A wait ended; one that is served begins anew."""
        keys = self._waits.pop(event.client, None)
        if keys is not None and event.how == "jumped":
            count, since = self._passed.get(keys, (0, event.at))
            self._passed[keys] = count + 1, since
        elif keys is not None and event.how == "done":
            self._passed.pop(keys, None)

    @property
    def repeats(self) -> bool:
        """Whether a wait is going on whose timeout was let pass before."""
        return any(keys in self._passed for keys in self._waits.values())

    def judge(self, verdict: Diagnosis | None) -> bool:
        """Whether a rank that hangs by this verdict does nothing but poll."""
        now, doomed = SYSTEM_CLOCK.monotonic(), () if verdict is None else verdict.doomed
        for (rank, name, missing), (count, since) in self._passed.items():
            if rank in doomed and count >= _MANY and now - since >= _LONG:
                wait = f"{name}({key_names(missing)})"
                self.endless = f"polled without end: {count} timeouts of {wait} in {now - since:.0f} s"
        return bool(self.endless)
