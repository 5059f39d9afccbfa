"""Activity of processes: which are stopped, compute or are blocked, and which may still go on.

*Theory.*  Look at all processes of a group, while some of their threads wait for something that only the
group could bring.  The other threads are one of three kinds:

* *parked*: it waits for a futex of its own process, without a timeout, so that only another thread of the
  process can let it go on; or it is one of those that serve others (it accepts connections, or moves the
  bytes of gloo).  If all are parked, the group stands still for ever, and one look has shown it.
* *lasting*: what it waits for is in the hands of processes, and has no timeout: the end of a child, a lock
  that processes share, a pipe.  If all the holders are of the group, it stands still as long as they do.
* anything else may end by itself or from outside: a sleep, a poll, a socket.  So may a thread whose system
  call the kernel does not tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_elastic.pristine import time
from pytest_elastic.processes._identity import dying, state
from pytest_elastic.processes._stamps import Stamps
from pytest_elastic.processes._threads import (
    Thread,
    catches_signals,
    has_timers,
    other_end,
    thread_of,
    threads,
    ticks,
)
from pytest_elastic.processes._tree import children, descendants

_LOOKS, _MOST_LOOKS, _PERIOD = 8, 200, 0.005  # The last in seconds, from one look to the next.
_RESTING = 0.25  # The share of looks that may find a computing process at rest.


def sleeps(channel: str) -> bool:
    """Whether the kernel function in which a thread is blocked is that of a sleep."""
    return "nanosleep" in channel


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a rank's process has found.

    Attributes:
        threads: its own.
        children: how many child processes it has, its helpers aside.
    """

    threads: Sequence[Thread]
    children: int

    def others(self, known: int) -> int:
        """How many threads and children may go on by themselves, beyond so many that wait for a message.

        One of these that does something else counts, too: it runs a signal's handler.
        """
        receiving = min(known, sum(thread.receives for thread in self.threads))
        unparked = sum(not thread.parked for thread in self.threads)
        return max(0, unparked - receiving) + self.children

    def receives(self, known: int) -> bool:
        """Whether so many of the threads wait for a message."""
        return sum(thread.receives for thread in self.threads) >= known

    def going(self, numbers: Collection[int]) -> int:
        """How many of these threads may go on by themselves or from outside."""
        return sum(not thread.parked for thread in self.threads if thread.number in numbers)


class Family:
    """A rank's process and all that it has started, as long as they are below it.

    `stamp` opens files, which `close` lets go of; see `Stamps`.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._stamps = Stamps(pid)
        self.stamp, self.close = self._stamps.read, self._stamps.close

    @property
    def runs(self) -> bool:
        """Whether one of its own threads was not asleep at the last stamp, as far as is known."""
        return self._stamps.runs

    def look(self) -> Sight:
        """Look at the process itself."""
        mine = threads(self.pid, self._stamps.threads)
        return Sight(mine, len(children(self.pid, [thread.number for thread in mine])))

    def state(self) -> str:
        """The kernel's letter for the state of the rank's process; `""` if it is gone."""
        return state(self.pid)

    def dying(self) -> bool:
        """Whether the rank's process runs none of its program any more."""
        return dying(self.pid)

    def catches_signals(self) -> bool:
        """Whether the rank's process has handlers for signals besides those of every rank."""
        return catches_signals(self.pid)

    def has_timers(self) -> bool:
        """Whether the rank's process made POSIX timers, as far as the kernel tells."""
        return has_timers(self.pid)

    def ticks(self) -> dict[int, int]:
        """Processor time of each of its processes, in clock ticks."""
        return {pid: ticks(pid) for pid in self.pids()}

    def lasts(self, known: int, group: Collection[int], only: Collection[int] | None = None) -> bool:
        """Whether all but so many threads of the rank itself wait for what only `group` can bring.

        Args:
            only: those of its own threads that count; `None` for all.
        """
        for pid in self.pids():
            counted = [t for t in threads(pid) if pid != self.pid or only is None or t.number in only]
            going = sum(not thread.lasting(pid, group) for thread in counted)
            if going > (known if pid == self.pid else 0):
                return False
        return True

    def pids(self) -> list[int]:
        """The rank's process and all below it."""
        return [self.pid, *(process.pid for process in descendants(self.pid))]


def stand(pids: Collection[int], names: Mapping[int, str] | None = None) -> list[tuple[str, str, str]]:
    """The state of processes that make no progress: `"stopped"`, `"spinning"` or `"blocked"` with details.

    The details of a blocked process are the kernel function, and who holds the other end of its pipe: by the
    process's name in `names`, where it has one.

    Blocks for some hundredths of a second, and for a second at most where one of them seems to compute, or
    is at rest in nothing known.
    """
    found = [Looks(pid) for pid in pids]
    for turn in range(_MOST_LOOKS):
        if turn >= _LOOKS and not any(one.computes or one.is_unnamed for one in found):
            break
        time.sleep(_PERIOD)
        for one in found:
            one.look()
    return [one.judge(names) for one in found]


class Looks:
    """Some looks at a process's main thread: while that waits, other threads may still compute.

    A process that polls and sleeps is found at work by chance, on a busy machine often: it computes only if
    no look has found it asleep, and few have found it at rest.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._threads = pid, threads(pid, with_channels=True)
        self._looks = self._threads[:1]

    def look(self) -> None:
        now = thread_of(self._pid, self._pid, with_channel=True)
        if now is not None:
            self._looks.append(now)

    @property
    def computes(self) -> bool:
        at_rest = self.at_rest()
        asleep = any(sleeps(thread.channel) or thread.state in "Tt" for thread in at_rest)
        return bool(self._looks) and not asleep and len(at_rest) <= len(self._looks) * _RESTING

    @property
    def is_unnamed(self) -> bool:
        """Whether it was at rest and not said in what: it had gone on between the two reads of a look."""
        return bool(self._looks) and not any(one.channel or one.state in "Tt" for one in self.at_rest())

    def judge(self, names: Mapping[int, str] | None = None) -> tuple[str, str, str]:
        if self._looks and self._looks[0].state in "Tt":
            return "stopped", "", ""
        if self.computes:
            return "spinning", "", ""
        found = ((thread, other_end(thread, self._pid, names)) for thread in self._threads)
        at_pipe = next(((thread.channel, peer) for thread, peer in found if peer), None)
        channels = Counter(thread.channel for thread in self.at_rest() if thread.channel)
        return ("blocked", *(at_pipe or (channels.most_common(1)[0][0] if channels else "", "")))

    def at_rest(self) -> list[Thread]:
        """The looks that did not find it running."""
        return [thread for thread in self._looks if thread.state != "R"]
