"""The launcher's view of one group: what its guardian has told, and the commands it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import GuardianError, SurvivorsError
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
from pytest_elastic.pristine import select, signal, threading

_PATIENCE = 0.3  # Beyond the guardian's own limits, for a busy machine; then the guardian itself is lost.
_SLICE = 0.1  # A thread that sleeps while another one reads or closes learns of it after this long.


class Group:
    """A started group.  Thread-safe.

    Attributes:
        pids: rank -> process id, in rank order; complete once `wait_started` returned.
        exits: what has ended, in the order in which it ended.
        ended: the guardian's last word; `None` while anything may run.
        stopped_at: when the stop sequence was first asked for; `inf` before that.
        lost: the guardian ended without a last word.
    """

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._lock = threading.RLock()
        self._started = False
        self._failed: StartFailed | None = None
        self.pids: dict[int, int] = {}
        self.exits: dict[int, RankExited] = {}
        self.ended: Ended | None = None
        self.stopped_at = float("inf")
        self.lost = False
        self._more = 0.0  # Seconds for what is dying.

    def fileno(self) -> int:
        """For a selector: readable when `take` has something to do."""
        return self._control.fileno()

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
        deadline = Deadline.after(timeout)
        while not self._started and not self.over and not deadline.passed():
            self.take(deadline.remaining())
        if self._failed is not None:
            raise self._failed.error
        if not self._started:
            raise GuardianError(
                "the guardian did not start its ranks; was it killed, or the zygote that forks it?"
            )

    def take(self, timeout: float = 0.0) -> None:
        """Read what the guardian tells; block up to `timeout` seconds for the first word."""
        deadline = Deadline.after(timeout)
        while not (self._read() or deadline.passed()):
            sleep_until_readable([self.fileno()], deadline)

    def signal(self, ranks: tuple[int, ...], signum: int) -> None:
        """Send a signal to these ranks' processes, those of them that run."""
        self._tell(Signal(ranks, signum))

    def stop(self, signum: int, grace: float) -> None:
        """Begin the stop sequence; does not block.  Again: the shorter grace counts."""
        self.stopped_at = min(self.stopped_at, SYSTEM_CLOCK.monotonic())
        self._tell(Stop(signum, grace))

    def wait_ended(self, grace: float) -> None:
        """Block until nothing is left; at most `grace` + 1.2 s after `stop`, 30 s more for what is dying.

        Raises:
            SurvivorsError: processes outlived SIGKILL, or the guardian does not answer.
        """
        deadline = Deadline.after(grace + SWEEP_LIMIT + _PATIENCE)
        while not self.over and not (until := deadline.later(self._more)).passed():
            self.take(until.remaining())
        left = self.ended.survivors if self.ended else {}
        if not self.over:
            left = {pid: "?" for rank, pid in self.pids.items() if rank not in self.exits}
        if left:
            raise SurvivorsError(left, [rank for rank, pid in self.pids.items() if pid in left])

    def close(self) -> None:
        """Let go of the channel; a guardian that still runs sweeps its group at once."""
        with self._lock:
            if not self.over:
                self._tell(Stop(signal.SIGKILL, 0))  # A stranger's fork may hold the channel open.
                self.lost = True
            self._control.close()

    def _tell(self, command: Any) -> None:
        try:
            if not self.over:
                self._control.send(command)
        except OSError:  # It ended meanwhile: `take` will find out how.
            pass

    def _read(self) -> bool:
        """Whether there was news, or nothing more will happen."""
        with self._lock:
            if self.over:
                return True
            messages = self._control.receive()
            for message, _ in messages:
                self._learn(message)
            if self._control.closed and self.ended is None:
                self.lost = True
            return bool(messages) or self.over

    def _learn(self, message: Any) -> None:
        if isinstance(message, Started):
            self._started = True
            self.pids.update(message.pids)
        elif isinstance(message, RankExited):
            self.exits[message.rank] = message
        elif isinstance(message, Dying):
            self._more = DYING_LIMIT
        elif isinstance(message, Ended):
            self.ended = message
        else:
            self._failed = message


def sleep_until_readable(descriptors: Iterable[int], deadline: Deadline) -> None:
    """Until one of them is readable or the deadline passes, but for a short while only.

    Another thread may read or close them meanwhile, so the caller looks again in any case.
    """
    poll = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(min(deadline.remaining(), _SLICE) * 1000))
