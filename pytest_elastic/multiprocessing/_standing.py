"""Where a process stands, as the kernel tells: its threads, what each is blocked in, who is at the other end.

*Theory.*  Let all processes of a group be looked at, while some of their threads wait for something that only
the group could bring.  The rest are one of four kinds:

* *parked*: it waits for a futex of its own process, without a timeout, so that only another thread of the
  process can let it go on; or it is one of those that serve others (it accepts connections, or moves the
  bytes of gloo).  If all are parked, the group stands still for ever, and one look has shown it.
* *lasting*: what it waits for is in the hands of processes, and has no timeout: the end of a child, a lock
  that processes share, a pipe.  If all the holders are of the group, it stands still as long as they do.
* anything else may end by itself or from outside: a sleep, a poll, a socket.

The kernel tells the system call of a thread to those who may trace it, which a process may with those below
it.  Where it does not, a thread is of the last kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from pytest_elastic.multiprocessing._helper import is_helper
from pytest_elastic.multiprocessing._kernel import Process, _children, _stat, descendants, dying, read_small
from pytest_elastic.pristine import os, signal, time

# Numbers of system calls, where we know them.
_CALLS: dict[str, dict[str, tuple[int, ...]]] = {
    "x86_64": {
        "futex": (202,),
        "wait": (61, 247),
        "accept": (43, 288),
        "receive": (45, 47),
        "read": (0, 19),
        "write": (1, 20),
    },
    "aarch64": {
        "futex": (98,),
        "wait": (260, 95),
        "accept": (202, 242),
        "receive": (207, 212),
        "read": (63, 65),
        "write": (64, 66),
    },
}
_NAMES = {number: name for name, numbers in _CALLS.get(os.uname().machine, {}).items() for number in numbers}
_PRIVATE = 128  # Among the operations of a futex: it is of one process.
_WAITS = (0, 9)  # WAIT and WAIT_BITSET.
_SERVING = ("gloo_tcp_loop",)
# The interpreter's and faulthandler's; those from 32 on are the C library's, and our own.
_OF_EVERY_RANK = ("SIGINT", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")
_CAUGHT = (1 << 31) - 1 & ~sum(1 << signal.Signals[name] - 1 for name in _OF_EVERY_RANK)
_SHOWN = 60
_LOOKS, _MOST_LOOKS, _PERIOD = 8, 200, 0.005  # The last in seconds, from one look to the next.
_RESTING = 0.25  # The share of looks that one who computes may be found at rest.
_SLEEP = "nanosleep"  # Part of the kernel's wait channel of whoever sleeps.


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread as it stands.

    Attributes:
        number: the kernel's; that of the main thread is the pid.
        name: its own, up to 15 characters.
        state: the kernel's letter.
        channel: the kernel function in which it is blocked; empty where it is not, or is not told.
        call: the system call that it is in, as far as it is one of those that we tell apart; else empty.
        arguments: of that call.
    """

    number: int
    name: str
    state: str
    channel: str = ""
    call: str = ""
    arguments: tuple[int, ...] = ()

    @property
    def parked(self) -> bool:
        """Whether only another thread of its process can let it go on, or a request of somebody."""
        return (
            self.call == "accept"
            or self.name in _SERVING
            or (self._waits and bool(self._operation & _PRIVATE))
        )

    @property
    def receives(self) -> bool:
        """Whether it waits for a message, so that it runs no signal's handler, as far as we may look."""
        return self.call == "receive" or (self.state == "S" and not self.arguments)

    def lasting(self, pid: int, group: Collection[int]) -> bool:
        """Whether it waits, without a timeout, for something in the hands of these processes alone."""
        if self.parked or self._waits or self.call == "wait":
            return True
        if self.call != "read":
            return False
        target = _link(f"/proc/{pid}/fd/{self.arguments[0]}")
        return target.startswith("pipe:") and set(_holders(target)) <= set(group)

    @property
    def _operation(self) -> int:
        return self.arguments[1] if self.call == "futex" else -1

    @property
    def _waits(self) -> bool:
        """Whether for a futex, without a timeout."""
        return self._operation >= 0 and self._operation & 127 in _WAITS and self.arguments[3] == 0


def threads(pid: int, with_channels: bool = False) -> list[Thread]:
    """All threads of a process, the main one first; `[]` if it is gone.  Their channels only if asked for."""
    try:
        numbers = sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda number: number != pid)
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [thread for number in numbers if (thread := _thread(pid, number, with_channels)) is not None]


def children(pid: int) -> list[Process]:
    """Its living child processes, but for its helpers."""
    found = [Process(child, int(fields[19])) for child in _children(pid) if (fields := _stat(child))]
    return [child for child in found if not (dying(child.pid) or is_helper(child.pid))]


def catches_signals(pid: int) -> bool:
    """Whether it has handlers for signals besides those of every rank."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            caught = int(file.read().partition(b"SigCgt:")[2].split(maxsplit=1)[0], 16)
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    return bool(caught & _CAUGHT)


def has_timers(pid: int) -> bool:
    """Whether it made POSIX timers (`timer_create`), as far as the kernel tells."""
    try:
        return bool(read_small(f"/proc/{pid}/timers"))
    except OSError:  # It is gone, or the kernel was built without.
        return False


def ticks(pid: int) -> int:
    """Processor time that it has used, in clock ticks (hundredths of a second as a rule); 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def other_end(thread: Thread, pid: int) -> str:
    """Who holds the other end of the pipe at which a thread is blocked, in words; `""` if it is at none."""
    if thread.call not in ("read", "write"):
        return ""
    target = _link(f"/proc/{pid}/fd/{thread.arguments[0]}")
    if not target.startswith("pipe:"):
        return ""
    holders = [Process(holder, 0) for holder in _holders(target) if holder != pid]
    who = [f"pid {holder.pid} ({holder.command()[:_SHOWN]})" for holder in holders]
    return f"{', '.join(who) or 'nobody else'} at descriptor {thread.arguments[0]}"


def _thread(pid: int, number: int, with_channel: bool = False) -> Thread | None:
    place = f"/proc/{pid}/task/{number}"
    try:
        head, _, rest = read_small(f"{place}/stat").decode("ascii", "replace").rpartition(")")
        state, name = rest.split(maxsplit=1)[0], head.partition("(")[2]
        return Thread(number, name, state, _channel(place) if with_channel else "", *_call(place))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def _channel(place: str) -> str:
    try:
        name = read_small(f"{place}/wchan").decode("ascii", "replace")
    except PermissionError:
        return ""
    return "" if name == "0" else name.partition(".")[0]


def _call(place: str) -> tuple[str, tuple[int, ...]]:
    try:
        words = read_small(f"{place}/syscall").split()
    except (PermissionError, FileNotFoundError):
        return "", ()
    if len(words) < 7:  # "running", or blocked outside of any call.
        return "", ()
    return _NAMES.get(int(words[0]), ""), tuple(int(word, 16) for word in words[1:7])


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _holders(target: str) -> list[int]:
    """The processes that hold an end of a pipe, as far as we may look."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _holds(name, target)]


def _holds(name: str, target: str) -> bool:
    try:
        numbers = os.listdir(f"/proc/{name}/fd")
    except OSError:
        return False
    return any(_link(f"/proc/{name}/fd/{number}") == target for number in numbers)


@dataclass(frozen=True, slots=True)
class Family:
    """A rank's process and all that it has started, as long as they are below it."""

    pid: int

    def others(self, known: int) -> int:
        """How many threads and children may go on by themselves, beyond so many that wait for a message.

        One of these that does something else counts, too: it runs a signal's handler.
        """
        mine = threads(self.pid)
        receiving = min(known, sum(thread.receives for thread in mine))
        unparked = sum(not thread.parked for thread in mine)
        return max(0, unparked - receiving) + len(children(self.pid))

    def stamp(self) -> bytes:
        """What changes as soon as its only thread has run; `b""` where it has others, runs or is not told."""
        try:
            fields = read_small(f"/proc/{self.pid}/stat").rpartition(b")")[2].split(maxsplit=18)
            if fields[0] != b"S" or fields[17] != b"1":
                return b""
            told = read_small(f"/proc/{self.pid}/schedstat")
        except OSError:
            return b""
        return b"" if told.endswith(b" 0\n") else told  # How often it ran: a kernel may count nothing.

    def receives(self, known: int) -> bool:
        """Whether so many of its own threads wait for a message."""
        return sum(thread.receives for thread in threads(self.pid)) >= known

    def going(self, numbers: Collection[int]) -> int:
        """How many of these threads of its own may go on by themselves or from outside."""
        return sum(not thread.parked for thread in threads(self.pid) if thread.number in numbers)

    def ticks(self) -> dict[int, int]:
        """Processor time of each of its processes; see `ticks`."""
        return {pid: ticks(pid) for pid in self._pids()}

    def lasts(self, known: int, group: Collection[int], only: Collection[int] | None = None) -> bool:
        """Whether all but so many threads of the rank itself wait for what `group` alone can bring.

        Args:
            only: those of its own threads that count; `None` for all.
        """
        for pid in self._pids():
            counted = [t for t in threads(pid) if pid != self.pid or only is None or t.number in only]
            going = sum(not thread.lasting(pid, group) for thread in counted)
            if going > (known if pid == self.pid else 0):
                return False
        return True

    def _pids(self) -> list[int]:
        return [self.pid, *(process.pid for process in descendants(self.pid))]


def stand(pids: Collection[int]) -> list[tuple[str, str, str]]:
    """Where processes stand that should have moved on: state, channel, other end of a pipe; see `Standing`.

    Blocks for some hundredths of a second, and for a second at most where one of them seems to compute, or
    is at rest in nothing known.
    """
    found = [Standing(pid) for pid in pids]
    for turn in range(_MOST_LOOKS):
        if turn >= _LOOKS and not any(one.computes or one.is_unnamed for one in found):
            break
        time.sleep(_PERIOD)
        for one in found:
            one.look()
    return [one.judge() for one in found]


class Standing:
    """Where a process stands, by some looks at its main thread: while that waits, others may still compute.

    One that asks again and again, and sleeps between, is found at work by chance, on a busy machine often: it
    computes only if no look has found it asleep, and few have found it at rest.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._threads = pid, threads(pid, with_channels=True)
        self._looks = self._threads[:1]

    def look(self) -> None:
        """Look at it again."""
        now = _thread(self._pid, self._pid, with_channel=True)
        if now is not None:
            self._looks.append(now)

    @property
    def computes(self) -> bool:
        """Whether it seems to, up to now."""
        at_rest = self._at_rest()
        asleep = any(_SLEEP in thread.channel or thread.state in "Tt" for thread in at_rest)
        return bool(self._looks) and not asleep and len(at_rest) <= len(self._looks) * _RESTING

    @property
    def is_unnamed(self) -> bool:
        """Whether it was at rest and not said in what: it had gone on between the two reads of a look."""
        return bool(self._looks) and not any(one.channel or one.state in "Tt" for one in self._at_rest())

    def judge(self) -> tuple[str, str, str]:
        """What it did: `"stopped"`, `"spinning"` or `"blocked"`, the channel, the other end of its pipe."""
        if self._looks and self._looks[0].state in "Tt":
            return "stopped", "", ""
        if self.computes:
            return "spinning", "", ""
        found = ((thread, other_end(thread, self._pid)) for thread in self._threads)
        at_pipe = next(((thread.channel, peer) for thread, peer in found if peer), None)
        channels = Counter(thread.channel for thread in self._at_rest() if thread.channel)
        return ("blocked", *(at_pipe or (channels.most_common(1)[0][0] if channels else "", "")))

    def _at_rest(self) -> list[Thread]:
        return [thread for thread in self._looks if thread.state != "R"]
