"""Threads as the kernel shows them: state, blocking system call, and the other end of a pipe.

The kernel tells the system call of a thread to those who may trace it, which a process may with those below
it.  Where it does not, nothing is known of what the thread waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pytest_elastic.pristine import os, signal
from pytest_elastic.processes._identity import command, read_page, stat_of, status_of

# Numbers of system calls, where we know them.
_CALLS: dict[str, dict[str, tuple[int, ...]]] = {
    "x86_64": {
        "futex": (202,),
        "wait": (61, 247),
        "accept": (43, 288),
        "receive": (45, 47),
        "read": (0, 19),
        "write": (1, 20),
        "lock": (72, 73),
    },
    "aarch64": {
        "futex": (98,),
        "wait": (260, 95),
        "accept": (202, 242),
        "receive": (207, 212),
        "read": (63, 65),
        "write": (64, 66),
        "lock": (25, 32),
    },
}
_NAMES = {number: name for name, numbers in _CALLS.get(os.uname().machine, {}).items() for number in numbers}
_PRIVATE = 128  # Among the operations of a futex: it is of one process.
_WAITS = (0, 9)  # WAIT and WAIT_BITSET.
_SERVING = ("gloo_tcp_loop", "pt_gloo_runloop", "pt_tcpstore_uv")  # They write to no store of the ranks.
# The interpreter's, faulthandler's and readline's; those from 32 on are the C library's, and our own.
_OF_EVERY_RANK = ("SIGINT", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL", "SIGWINCH")
_CAUGHT = (1 << 31) - 1 & ~sum(1 << signal.Signals[name] - 1 for name in _OF_EVERY_RANK)
_SHOWN = 60  # Characters of a command line.
SHARED = "processes that share it"  # What may end a wait for a lock or an event of `multiprocessing`.


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread at the moment of one look.

    Attributes:
        number: the kernel's; that of the main thread is the pid.
        name: up to 15 characters.
        state: the kernel's letter.
        channel: the kernel function in which it is blocked; empty where it is not, or is not told.
        call: the system call that it is in, if it is one of those that we tell apart; else empty.
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
        """Whether only another thread of its process, or a client's request, can let it go on."""
        return self.call == "accept" or self.serves or (self._waits and bool(self._operation & _PRIVATE))

    @property
    def serves(self) -> bool:
        """Whether it is a thread of torch that moves the bytes of others."""
        return self.name in _SERVING

    @property
    def receives(self) -> bool:
        """Whether it waits for a message, so that it runs no signal's handler, as far as we may look."""
        return self.call == "receive" or (self.state == "S" and not self.arguments and not self.serves)

    def lasting(self, pid: int, group: Collection[int]) -> bool:
        """Whether it waits, without a timeout, for something that only these processes can bring."""
        if self.parked or self._waits or self.call == "wait":
            return True
        if self.call != "read":
            return False
        target = read_link(f"/proc/{pid}/fd/{self.arguments[0]}")
        return target.startswith("pipe:") and set(holders_of(target)) <= set(group)

    @property
    def shares(self) -> bool:
        """Whether it waits for a futex in memory that processes share."""
        return self._operation >= 0 and self._operation & 127 in _WAITS and not self._operation & _PRIVATE

    @property
    def _operation(self) -> int:
        return self.arguments[1] if self.call == "futex" else -1

    @property
    def _waits(self) -> bool:
        """Whether for a futex, without a timeout."""
        return self._operation >= 0 and self._operation & 127 in _WAITS and self.arguments[3] == 0


def threads(pid: int, numbers: Collection[int] = (), with_channels: bool = False) -> list[Thread]:
    """All threads of a process, the main one first; `[]` if it is gone.

    Args:
        numbers: the kernel's of its threads, where they are known.
        with_channels: whether to ask for their channels, too.
    """
    try:
        numbers = sorted(numbers or thread_numbers(pid), key=lambda number: (number != pid, number))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [thread for number in numbers if (thread := thread_of(pid, number, with_channels)) is not None]


def thread_numbers(pid: int) -> set[int]:
    """The kernel's numbers of a process's threads.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    return set(map(int, os.listdir(f"/proc/{pid}/task")))


def thread_count() -> int:
    """How many threads this process has, by one system call; 0 where the kernel does not tell."""
    try:
        return os.stat("/proc/self/task").st_nlink - 2  # A directory for each, and its own two names.
    except OSError:
        return 0


def thread_of(pid: int, number: int, with_channel: bool = False) -> Thread | None:
    """One thread of a process; `None` if it is gone."""
    place = f"/proc/{pid}/task/{number}"
    try:
        head, _, rest = read_page(f"{place}/stat").decode("ascii", "replace").rpartition(")")
        state, name = rest.split(maxsplit=1)[0], head.partition("(")[2]
        call = ("", ()) if name in _SERVING else call_of(place)  # A look less, for each.
        return Thread(number, name, state, channel_of(place) if with_channel else "", *call)
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def processor_time(thread: int) -> int:
    """Nanoseconds that a thread of this process has run; 0 where that is not known, or once it has ended."""
    try:
        return int(read_page(f"/proc/self/task/{thread}/schedstat").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def ticks(pid: int) -> int:
    """Processor time of a process in clock ticks (hundredths of a second as a rule); 0 if it is gone."""
    fields = stat_of(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def catches_signals(pid: int) -> bool:
    """Whether a process has handlers for signals besides those of every rank."""
    try:
        return bool(int(status_of(pid, b"SigCgt")[0] or b"0", 16) & _CAUGHT)
    except ProcessLookupError:
        return False


def has_timers(pid: int) -> bool:
    """Whether a process made POSIX timers (`timer_create`), as far as the kernel tells."""
    try:
        return bool(read_page(f"/proc/{pid}/timers"))
    except OSError:  # It is gone, or the kernel was built without.
        return False


def other_end(thread: Thread, pid: int, names: Mapping[int, str] | None = None) -> str:
    """Who holds the other end of the pipe at which a thread is blocked, in words; `""` if it is at none.

    Of a TCP socket at which it waits for a connection it is the `port`; of a lock of a file, who has it.
    What the main thread waits for in memory that processes share is in the hands of those (`SHARED`).

    Args:
        names: those of processes that have one; others are named by pid and command line.
    """
    if thread.call == "accept":
        return port_of(pid, thread.arguments[0])
    if thread.call == "futex":
        return SHARED if thread.number == pid and thread.shares else ""
    if thread.call == "lock":
        found = lockers_of(pid)
        if not found:
            return ""
    elif thread.call in ("read", "write"):
        target = read_link(f"/proc/{pid}/fd/{thread.arguments[0]}")
        if not target.startswith("pipe:"):
            return ""
        found = holders_of(target)
    else:
        return ""
    known = names or {}
    holders = [
        known.get(holder) or f"pid {holder} ({command(holder)[:_SHOWN]})" for holder in found if holder != pid
    ]
    return f"{', '.join(holders) or 'nobody else'} at descriptor {thread.arguments[0]}"


def lockers_of(pid: int) -> list[int]:
    """The processes that have the locks of files that this one waits for, as far as the kernel tells."""
    owners: dict[bytes, int] = {}
    found = []
    with suppress(OSError, ValueError, IndexError), open("/proc/locks", "rb") as lines:
        for line in lines:
            number, *words = line.split()
            if words[0] != b"->":
                owners[number] = int(words[3])
            elif int(words[4]) == pid and owners.get(number, 0) > 0:  # -1: of an open file, and nobody's.
                found.append(owners[number])
    return found


def port_of(pid: int, descriptor: int) -> str:
    """The port to which a TCP socket of a process is bound: `port 4711`; `""` for any other socket."""
    socket = read_link(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").removesuffix("]")
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                if len(fields) > 9 and fields[9] == socket:
                    return f"port {int(fields[1].rpartition(':')[2], 16)}"
    return ""


def channel_of(place: str) -> str:
    """The kernel function in which the thread of this /proc directory is blocked; `""` if it is not told."""
    try:
        name = read_page(f"{place}/wchan").decode("ascii", "replace")
    except PermissionError:
        return ""
    return "" if name == "0" else name.partition(".")[0]


def call_of(place: str) -> tuple[str, tuple[int, ...]]:
    """The system call of the thread of this /proc directory, and its arguments."""
    try:
        words = read_page(f"{place}/syscall").split()
    except (PermissionError, FileNotFoundError):
        return "", ()
    if len(words) < 7:  # "running", or blocked outside of any call.
        return "", ()
    return _NAMES.get(int(words[0]), ""), tuple(int(word, 16) for word in words[1:7])


def read_link(path: str) -> str:
    """The target of a symbolic link, `""` if it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def holders_of(target: str) -> list[int]:
    """The processes that hold an end of a pipe, as far as we may look."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and holds(name, target)]


def holds(name: str, target: str) -> bool:
    """Whether the process with this pid has a descriptor of the pipe."""
    try:
        numbers = os.listdir(f"/proc/{name}/fd")
    except OSError:
        return False
    return any(read_link(f"/proc/{name}/fd/{number}") == target for number in numbers)
