"""Timers beside torch's, in one run: python tests/benchmarks/bench_timer.py [--quick] [SECTION ...]

Sections: kill (expiry to death seen), idle (the server's CPU), lock (a rank that hangs with the interpreter's
lock held), cost (of a request), load (32 ranks work, one hangs).  Torch's rows are left out without torch.
Torch's file timer takes no part where something is killed: after a kill its server sends itself the same signal.
A rank dies slowly with torch loaded, whoever kills it: `SIGKILL alone` is what the kernel takes for it.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import select
import signal
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pytest_elastic import timer as ours
from pytest_elastic.timer import PipeTimerClient, TimerTable, open_channel

FORK = multiprocessing.get_context("fork")


class Rank:
    """A fork that runs `body(client)` and can write the present down."""

    def __init__(self, client: Callable[[], Any], body: Callable[[Rank, Any], None]) -> None:
        self._read, self._write = os.pipe()
        self.process = FORK.Process(target=lambda: body(self, client()))
        self.process.start()
        os.close(self._write)  # A rank that ends early ends what it has noted.
        assert self.process.pid is not None
        self.descriptor = os.pidfd_open(self.process.pid)

    def note(self, value: float) -> None:
        os.write(self._write, struct.pack("d", value))

    def noted(self) -> float:
        data = os.read(self._read, 8)
        if not data:
            raise EOFError("the rank ended and has noted nothing")
        return float(struct.unpack("d", data)[0])

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        for descriptor in (self._read, self.descriptor):
            os.close(descriptor)


def deaths(ranks: list[Rank], timeout: float) -> list[float]:
    """When each was seen to end; `inf` for those that did not."""
    seen = {rank.descriptor: float("inf") for rank in ranks}
    until = time.monotonic() + timeout
    while float("inf") in seen.values() and time.monotonic() < until:
        alive = [descriptor for descriptor, at in seen.items() if at == float("inf")]
        for descriptor in select.select(alive, [], [], max(0.0, until - time.monotonic()))[0]:
            seen[descriptor] = time.monotonic()
    return list(seen.values())


class Loop:
    """The plugin's channel in a loop like the plugin's."""

    def __init__(self) -> None:
        self.table, self._pids = TimerTable(), dict[int, int]()
        self._lock, self._ranks = threading.Lock(), 0
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def rank(self, body: Callable[[Rank, Any], None]) -> Rank:
        mine, theirs = open_channel()
        with self._lock:
            rank = Rank(lambda: PipeTimerClient(theirs), body)
            self._ranks += 1
            self.table.attach(self._ranks, mine)
            self._pids[self._ranks] = rank.process.pid or 0
        os.close(theirs)
        os.write(self._wake, b"x")
        return rank

    def _run(self) -> None:
        while True:
            with self._lock:
                channels, until = self.table.channels(), self.table.next_deadline()
            poll = select.poll()
            for descriptor in (self._woken, *channels):
                poll.register(descriptor, select.POLLIN)
            pause = max(0.0, min(60.0, until - time.monotonic()))
            ready = [found for found, _ in poll.poll(int(pause * 1000))]
            if not ready and until - time.monotonic() < 0.001:
                time.sleep(max(0.0, until - time.monotonic()))
            if self._woken in ready and b"q" in os.read(self._woken, 4096):
                return
            with self._lock:
                for descriptor in ready:
                    if descriptor in channels and not self.table.read(channels[descriptor]):
                        self.table.detach(channels[descriptor])
                for expiry in self.table.expired():
                    os.kill(self._pids[expiry.rank], signal.SIGKILL)

    def stop(self) -> None:
        os.write(self._wake, b"q")
        self._thread.join()
        self.table.close()
        os.close(self._woken)
        os.close(self._wake)


class Kind(NamedTuple):
    """One kind of timer: what serves it, what starts a rank under it, and its own `expires`."""

    name: str
    opened: Callable[[], Any]
    expires: Any


Start = Callable[[Callable[[Rank, Any], None]], Rank]


def local(module: Any, interval: float) -> Kind:
    @contextmanager
    def opened() -> Iterator[Start]:
        queue = FORK.Queue()
        server = module.LocalTimerServer(queue, max_interval=interval)
        server.start()
        yield lambda body: Rank(lambda: module.LocalTimerClient(queue), body)
        server.stop()
        queue.close()

    return Kind(f"{'ours' if module is ours else 'torch'} local {interval:g}", opened, module.expires)


def file(module: Any, interval: float) -> Kind:
    @contextmanager
    def opened() -> Iterator[Start]:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "fifo")
            server = module.FileTimerServer(path, "bench", max_interval=interval)
            server.start()
            yield lambda body: Rank(lambda: module.FileTimerClient(path, signal.SIGKILL), body)
            server.stop()

    return Kind(f"{'ours' if module is ours else 'torch'} file {interval:g}", opened, module.expires)


def pipe() -> Kind:
    @contextmanager
    def opened() -> Iterator[Start]:
        loop = Loop()
        yield loop.rank
        loop.stop()

    return Kind("ours channel", opened, ours.expires)


def torches(*intervals: float, files: bool = False) -> list[Kind]:
    """Torch's kinds.  From here on it is loaded, here and in every rank."""
    try:
        from torch.distributed.elastic import timer
    except ImportError:
        return []
    makers = (local, file) if files else (local,)
    return [make(timer, interval) for interval in intervals for make in makers]


def mine() -> list[Kind]:
    return [pipe(), local(ours, 60), file(ours, 60)]


def quantiles(values: list[float]) -> str:
    values = sorted(values)
    tail = values[min(len(values) - 1, int(len(values) * 0.99))]
    return f"median {statistics.median(values):9.3f}  p99 {tail:9.3f}  max {values[-1]:9.3f}  n {len(values)}"


def late(kind: Kind, ranks: int, rounds: int, span: float = 0.2) -> list[float]:
    """Milliseconds from the deadline to the death that is seen, of `ranks` that expire together."""

    def body(rank: Rank, client: Any) -> None:
        rank.note(time.monotonic() + span)
        with kind.expires(span, client=client):
            time.sleep(30)

    found: list[float] = []
    for _ in range(rounds):
        with kind.opened() as start:
            hanging = [start(body) for _ in range(ranks)]
            deadlines = [rank.noted() for rank in hanging]
            found += [(at - due) * 1e3 for at, due in zip(deaths(hanging, 5), deadlines, strict=True)]
            for rank in hanging:
                rank.close()
    return found


def alone(ranks: int, rounds: int) -> list[float]:
    """Milliseconds from a SIGKILL that nobody decides on to the death that is seen."""

    def body(rank: Rank, _: object) -> None:
        rank.note(0)
        time.sleep(30)

    found: list[float] = []
    for _ in range(rounds):
        hanging = [Rank(lambda: None, body) for _ in range(ranks)]
        for rank in hanging:
            rank.noted()
        time.sleep(0.1)
        begun = time.monotonic()
        for rank in hanging:
            os.kill(rank.process.pid or 0, signal.SIGKILL)
        found += [(at - begun) * 1e3 for at in deaths(hanging, 5)]
        for rank in hanging:
            rank.close()
    return found


def bench_kill(quick: bool) -> None:
    rounds = 5 if quick else 25
    _kill(rounds, mine())
    found = torches(0.01, 1.0)
    if found:
        print("\nwith torch loaded in every process:")
        _kill(rounds, mine() + found)


def _kill(rounds: int, compared: list[Kind]) -> None:
    for ranks in (1, 8):
        print(f"\nexpiry to death seen, ms, {ranks} at once")
        print(f"  {'SIGKILL alone':18} {quantiles(alone(ranks, rounds))}")
        medians = {}
        for kind in compared:
            values = late(kind, ranks, rounds)
            medians[kind.name] = statistics.median(values)
            print(f"  {kind.name:18} {quantiles(values)}")
        _ratios(medians)


def _ratios(values: dict[str, float]) -> None:
    own = [name for name in values if name.startswith("ours")]
    for name in values.keys() - set(own):
        print(f"  {name} / ours: " + ", ".join(f"{values[name] / values[mine]:.1f} ({mine})" for mine in own))


def bench_idle(quick: bool) -> None:
    """In a process of its own, with no timer armed, and with eight."""
    print("\nthe server's CPU while nothing happens, ms per second")
    seconds = 2.0 if quick else 5.0
    found = {}
    rows = [*mine()[1:], local(ours, 0.01), file(ours, 0.01), *torches(0.01, files=True)]
    for armed in (0, 8):
        for kind in rows:
            found[kind.name] = _idle(kind, armed, seconds)
            print(f"  {kind.name:18} {armed} armed  {found[kind.name]:8.3f}")
        _ratios(found)


def _idle(kind: Kind, armed: int, seconds: float) -> float:
    def wait(rank: Rank, client: Any) -> None:
        with kind.expires(60, client=client):
            time.sleep(30)

    def serve(result: Rank, _: object) -> None:
        with kind.opened() as start:
            ranks = [start(wait) for _ in range(armed)]
            time.sleep(0.5)
            before = time.process_time()
            time.sleep(seconds)
            result.note((time.process_time() - before) * 1e3 / seconds)
            for rank in ranks:
                rank.close()

    process = Rank(lambda: None, serve)
    used = process.noted()
    process.process.join()
    process.close()
    return used


def bench_lock(quick: bool) -> None:
    print("\nkilled of those that hang with the interpreter's lock held right after the acquire")
    times = 5 if quick else 20
    compared = mine() + torches(0.01)

    def body(rank: Rank, client: Any) -> None:
        read, _ = os.pipe()
        library = ctypes.PyDLL(None)
        with kind.expires(0.1, client=client):
            library.read(read, ctypes.create_string_buffer(1), 1)

    for kind in compared:
        killed = 0
        with kind.opened() as start:
            for _ in range(times):
                rank = start(body)
                killed += deaths([rank], 1.0) != [float("inf")]
                rank.close()
        print(f"  {kind.name:18} {killed} of {times}")


def bench_cost(quick: bool) -> None:
    """Eight ranks at 1,000 pairs per second each."""
    print("\none request at the client, µs, 8 ranks at up to 1,000 pairs per second; expires() as a whole")
    pairs = 500 if quick else 2000
    for kind in mine() + torches(0.01, files=True):
        with kind.opened() as start:
            ranks = [start(_pace(kind, pairs)) for _ in range(8)]
            costs = [found for rank in ranks if (found := _costs(rank, 3 * pairs + 1))]
            for rank in ranks:
                rank.close()
        if len(costs) < len(ranks):
            print(f"  {kind.name:18} an error in {len(ranks) - len(costs)} of {len(ranks)} ranks")
        if not costs:
            continue
        flat = [value for cost in costs for value in cost[1:]]
        for name, values in (("acquire", flat[0::3]), ("release", flat[1::3]), ("expires", flat[2::3])):
            print(f"  {kind.name:18} {name:8} {quantiles(values)}")
        print(f"  {kind.name:18} pairs/s  {sum(2 * pairs / cost[0] for cost in costs):9.0f} in all")


def _costs(rank: Rank, count: int) -> list[float]:
    """What a rank has measured; nothing of one that an error has ended."""
    try:
        return [rank.noted() for _ in range(count)]
    except EOFError:
        return []


def _pace(kind: Kind, pairs: int) -> Callable[[Rank, Any], None]:
    def body(rank: Rank, client: Any) -> None:
        values = []
        begun = time.monotonic()
        for number in range(pairs):
            start = time.perf_counter()
            client.acquire("a", time.time() + 60)
            middle = time.perf_counter()
            client.release("a")
            end = time.perf_counter()
            with kind.expires(60, client=client):
                pass
            values += [(middle - start) * 1e6, (end - middle) * 1e6, (time.perf_counter() - end) * 1e6]
            time.sleep(max(0.0, begun + number * 0.002 - time.monotonic()))
        rank.note(time.monotonic() - begun)
        for value in values:
            rank.note(value)

    return body


def bench_load(quick: bool) -> None:
    for count in (8, 32):
        print(f"\n{count} ranks at up to 1,000 pairs per second, one more hangs: ms late; pairs per second")
        for kind in mine() + torches(0.01):
            values, rate = [], []
            for _ in range(3 if quick else 8):
                value, pairs = _under_load(kind, count)
                values.append(value)
                rate.append(pairs)
            print(f"  {kind.name:18} {quantiles(values)}  rate {statistics.median(rate):7.0f}")


def _under_load(kind: Kind, count: int) -> tuple[float, float]:
    stop_read, stop = os.pipe()

    def work(rank: Rank, client: Any) -> None:
        begun, done = time.monotonic(), 0
        rank.note(begun)
        while not (done % 50 == 0 and select.select([stop_read], [], [], 0)[0]):
            with kind.expires(60, client=client):
                done += 1
            time.sleep(max(0.0, begun + done * 0.001 - time.monotonic()))
        rank.note(done / (time.monotonic() - begun))
        time.sleep(30)

    def hang(rank: Rank, client: Any) -> None:
        rank.note(time.monotonic() + 0.5)
        with kind.expires(0.5, client=client):
            time.sleep(30)

    with kind.opened() as start:
        ranks = [start(work) for _ in range(count)]
        for rank in ranks:
            rank.noted()
        culprit = start(hang)
        due = culprit.noted()
        value = (deaths([culprit], 10)[0] - due) * 1e3
        os.write(stop, b"x")
        rate = sum(rank.noted() for rank in ranks)
        for rank in (culprit, *ranks):
            rank.close()
    os.close(stop_read)
    os.close(stop)
    return value, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("sections", nargs="*", default=["kill", "idle", "lock", "cost", "load"])
    arguments = parser.parse_args()
    for name in arguments.sections:
        globals()[f"bench_{name}"](arguments.quick)


if __name__ == "__main__":
    main()
