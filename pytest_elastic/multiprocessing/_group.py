"""The launcher's view of one group: what its guardian has told, and the commands it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import GuardianError, SurvivorsError
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import DYING_LIMIT
from pytest_elastic.multiprocessing._messages import (
    Dying,
    Ended,
    RankExited,
    Signal,
    Started,
    StartFailed,
    Stop,
)
from pytest_elastic.multiprocessing._stop import SWEEP_LIMIT
from pytest_elastic.pristine import signal

_LAST_WORDS, _WHEN_STOPPED = 1.0, 0.1  # Seconds for what a rank has sent, and for one that was stopped.
_PERIOD = 0.005  # Between two looks.
_PATIENCE = 0.3  # For a busy machine.


class Group:
    """A started group.  Its methods may be called from any thread.

    A message of the guardian counts when all else that had arrived in the loop by then is served: what a rank
    sent before its exit is known when the exit is.

    Args:
        control: to the guardian.
        loop: that reads it; one of its own by default.

    Attributes:
        pids: rank -> process id, in rank order; complete once `wait_started` returned.
        exits: what has ended, in the order in which it ended.
        ended: the guardian's last word; `None` while anything may run.
        stopped_at: when the stop sequence was first asked for; `inf` before that.
        lost: the guardian ended without a last word.
        on_exit: called in the loop with each exit.
        patience: seconds that the guardian has beyond its own limits; then it is lost itself.
        is_silent: whether all that a rank has sent has arrived.  Where ranks send by a network, an exit may
            be told before their last words are there: it counts when they are, or a second later.
    """

    def __init__(self, control: Channel, loop: Loop | None = None) -> None:
        self._control, self._own_loop = control, loop is None
        self._loop = Loop() if loop is None else loop
        self._messages: list[Any] = []
        self._count = 0
        self._started = False
        self._failed: StartFailed | None = None
        self.pids: dict[int, int] = {}
        self.exits: dict[int, RankExited] = {}
        self.ended: Ended | None = None
        self.stopped_at = float("inf")
        self.lost = False
        self.on_exit: Callable[[RankExited], object] = lambda _: None
        self.patience = _PATIENCE
        self.is_silent: Callable[[int], bool] = lambda _: True
        self._ended_at: dict[int, float] = {}  # Ranks whose last words are awaited.
        self._alarm = self._loop.alarm(self._learn)
        self._more = 0.0  # Seconds for what is dying.
        self._loop.call(partial(self._loop.watch, control.fileno(), self._read))

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.ended is not None or self.lost

    def wait_started(self, timeout: float) -> None:
        """Block until every rank was forked.

        Raises:
            OSError: a rank could not be forked; none is left.
            GuardianError: the guardian did not answer.
        """
        self._loop.wait(lambda: self._started or self._failed or self.over, Deadline.after(timeout))
        if self._failed is not None:
            raise self._failed.error
        if not self._started:
            raise GuardianError(
                "the guardian did not start its ranks; was it killed, or the zygote that forks it?"
            )

    def take(self, timeout: float = 0.0) -> None:
        """Block up to `timeout` seconds for the guardian's next word."""
        count = self._count
        self._loop.wait(lambda: self._count > count or self.over, Deadline.after(timeout))

    def signal(self, ranks: tuple[int, ...], signum: int) -> None:
        """Send a signal to these ranks' processes, those of them that run."""
        self._loop.call(partial(self._tell, Signal(ranks, signum)))

    def stop(self, signum: int, grace: float) -> None:
        """Begin the stop sequence; does not block.  Again: the shorter grace counts."""
        self.stopped_at = min(self.stopped_at, SYSTEM_CLOCK.monotonic())
        self._loop.call(partial(self._tell, Stop(signum, grace)))

    def wait_ended(self, grace: float) -> None:
        """Block until nothing is left; at most `grace` + 1.2 s after `stop`, 30 s more for what is dying.

        Raises:
            SurvivorsError: processes outlived SIGKILL, or the guardian does not answer.
        """
        deadline = Deadline.after(grace + SWEEP_LIMIT + self.patience)
        self._loop.wait(lambda: self.over or self._more, deadline)
        self._loop.wait(lambda: self.over, deadline.later(self._more))
        left = self.ended.survivors if self.ended else {}
        if not self.over:
            left = {pid: "?" for rank, pid in self.pids.items() if rank not in self.exits}
        if left:
            raise SurvivorsError(left, [rank for rank, pid in self.pids.items() if pid in left])

    def close(self) -> None:
        """Let go of the channel; a guardian that still runs sweeps its group at once."""
        self._loop.call(self._close)
        if self._own_loop:
            self._loop.close()

    def let_go(self) -> None:
        """Close this process's end, in a forked child; the guardian is not told."""
        self._control.close()
        self.lost = self.lost or self.ended is None

    # In the loop.

    def _close(self) -> None:
        if not self.over:
            self._tell(Stop(signal.SIGKILL, 0))  # A stranger's fork may hold the channel open.
            self.lost = True
        self._alarm.at = math.inf
        self._loop.unwatch(self._control.fileno())
        self._control.close()
        self._loop.recheck()

    def _tell(self, command: Any) -> None:
        try:
            if not self.over:
                self._control.send(command)
        except OSError:  # It ended meanwhile: its last words will tell how.
            pass

    def _read(self) -> None:
        self._messages += [message for message, _ in self._control.receive()]
        if self._control.closed:
            self._loop.unwatch(self._control.fileno())
        self._loop.settle(self._learn)

    def _learn(self) -> None:
        messages, self._messages = self._messages, []
        for place, message in enumerate(messages):
            if isinstance(message, RankExited) and self._speaks(message.rank):
                messages, self._messages = messages[:place], messages[place:]
                break
            if isinstance(message, Started):
                self._started = True
                self.pids.update(message.pids)
            elif isinstance(message, RankExited):
                self.exits[message.rank] = message
                self.on_exit(message)
            elif isinstance(message, Dying):
                self._more = DYING_LIMIT
            elif isinstance(message, Ended):
                self.ended = message
            else:
                self._failed = message
        self._count += len(messages)
        if self._control.closed and self.ended is None and not self._messages:
            self.lost = True
        self._loop.recheck()

    def _speaks(self, rank: int) -> bool:
        """Whether last words of a rank that has ended are still on their way; it is asked again."""
        now = SYSTEM_CLOCK.monotonic()
        patience = _LAST_WORDS if self.stopped_at == math.inf else _WHEN_STOPPED
        if self.is_silent(rank) or now - self._ended_at.setdefault(rank, now) >= patience:
            return False
        self._alarm.at = now + _PERIOD
        return True
