"""Our stores against torch's, side by side: `python tests/benchmarks/bench_store.py [rounds]`.

Rounds alternate between the two, so that a noisy machine is noisy for both; printed are the medians and
their ratio (above 1: ours is faster).  Clients and servers are processes.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import HashStore as TorchHashStore
from torch.distributed import TCPStore

from pytest_elastic.store import HashStore, RemoteStore, StoreServer

Operation = Callable[[Any], object]

KEYS = [f"key{i}" for i in range(64)]
OPERATIONS: dict[str, Operation] = {
    "get": lambda store: store.get("key0"),
    "set": lambda store: store.set("key1", "value"),
    "add": lambda store: store.add("counter", 1),
    "wait": lambda store: store.wait(["key0"]),
    "check": lambda store: store.check(["key0"]),
    "multi_get 8": lambda store: store.multi_get(KEYS[:8]),
    "multi_get 64": lambda store: store.multi_get(KEYS),
}


def run_clients(number: int, work: Callable[[int, Callable[[], object]], float]) -> list[float]:
    """What `work(index, start_line)` returns in each of `number` forked processes."""
    lines = [socket.socketpair() for _ in range(number)]
    for index, (_, line) in enumerate(lines):
        if os.fork() == 0:
            try:
                for mine, _ in lines:
                    mine.close()
                answer = work(index, lambda line=line: (line.send(b"!"), line.recv(1)))
                line.send(repr(answer).encode())
            finally:
                os._exit(0)
    for _, line in lines:
        line.close()
    for mine, _ in lines:
        mine.recv(1)
    for mine, _ in lines:
        mine.send(b"!")
    answers = [float(mine.recv(100)) for mine, _ in lines]
    for mine, _ in lines:
        mine.close()
        os.wait()
    return answers


def serve(start: Callable[[], tuple[object, str]]) -> tuple[socket.socket, str, int]:
    """Start a server in a process of its own, until the socket is closed; its address and its pid."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        server, address = start()
        theirs.send(address.encode())
        theirs.recv(1)
        os._exit(0)
    theirs.close()
    return ours, ours.recv(200).decode(), pid


def start_ours() -> tuple[object, str]:
    server = StoreServer()
    server.start()
    return server, server.address


def start_torchs() -> tuple[object, str]:
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    return store, str(store.port)


def rate(connect: Callable[[], Any], clients: int, operation: Operation, count: int) -> float:
    """Operations per second of all clients together."""

    def work(index: int, start_line: Callable[[], object]) -> float:
        store = connect()
        operation(store)
        start_line()
        began = time.perf_counter()
        for _ in range(count):
            operation(store)
        return time.perf_counter() - began

    return clients * count / max(run_clients(clients, work))


def cpu_time(pid: int) -> float:
    """Seconds that a process's threads have run."""
    tasks = [f"/proc/{pid}/task/{task}/schedstat" for task in os.listdir(f"/proc/{pid}/task")]
    return sum(int(Path(task).read_text().split()[0]) for task in tasks) / 1e9


def cost(connect: Callable[[], Any], server: int, operation: Operation, count: int = 3000) -> float:
    """CPU seconds of an operation, the server's and one client's: what a busy machine leaves as it is."""

    def work(index: int, start_line: Callable[[], object]) -> float:
        store = connect()
        operation(store)
        start_line()
        began = cpu_time(server) + cpu_time(os.getpid())
        for _ in range(count):
            operation(store)
        return (cpu_time(server) + cpu_time(os.getpid()) - began) / count

    return run_clients(1, work)[0]


def barrier_time(connect: Callable[[], Any], clients: int, count: int, name: str) -> float:
    """Seconds for a barrier of this many processes."""

    def work(index: int, start_line: Callable[[], object]) -> float:
        store = connect()
        store.barrier(f"{name}/warm", clients)
        start_line()
        began = time.perf_counter()
        for i in range(count):
            store.barrier(f"{name}/{i}", clients)
        return (time.perf_counter() - began) / count

    return statistics.median(run_clients(clients, work))


def local_rate(store: Any, operation: Operation, count: int = 20_000) -> float:
    """Operations per second of one thread."""
    began = time.perf_counter()
    for _ in range(count):
        operation(store)
    return count / (time.perf_counter() - began)


def threads_rate(store: Any, count: int = 5_000) -> float:
    """Additions per second of four threads together."""
    threads = [threading.Thread(target=local_rate, args=(store, OPERATIONS["add"], count)) for _ in range(4)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 4 * count / (time.perf_counter() - began)


def handover_rate(store: Any, count: int = 1_000) -> float:
    """Per second, how often two threads wake each other by turns."""

    def answer() -> None:
        for i in range(count):
            store.wait([f"ping{i}"])
            store.set(f"pong{i}", "")

    thread = threading.Thread(target=answer)
    thread.start()
    began = time.perf_counter()
    for i in range(count):
        store.set(f"ping{i}", "")
        store.wait([f"pong{i}"])
    elapsed = time.perf_counter() - began
    thread.join()
    return 2 * count / elapsed


def show(title: str, pairs: list[list[float]], *, lower_is_better: bool = False) -> None:
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = other / mine if lower_is_better else mine / other
    unit, factor = ("us", 1e6) if lower_is_better else ("/s", 1.0)
    print(
        f"{title:24} ours {mine * factor:11,.1f} {unit}  torch {other * factor:11,.1f} {unit}  x {ratio:.2f}",
        flush=True,
    )


def remote_rates(connects: tuple[Callable[[], Any], Callable[[], Any]], rounds: int) -> None:
    for clients in (1, 4, 8):
        for name, operation in OPERATIONS.items():
            if clients > 1 and name not in ("get", "add"):
                continue
            pairs = [
                [rate(connect, clients, operation, 6000 // clients) for connect in connects]
                for _ in range(rounds)
            ]
            show(f"{name}, {clients} client(s)", pairs)


def costs(connects: tuple[Callable[[], Any], Callable[[], Any]], pids: tuple[int, int], rounds: int) -> None:
    sides = list(zip(connects, pids, strict=True))
    for name, operation in OPERATIONS.items():
        if name != "set":  # Torch's server has not done it yet when the call returns.
            pairs = [[cost(connect, pid, operation) for connect, pid in sides] for _ in range(rounds)]
            show(f"{name}, CPU", pairs, lower_is_better=True)


def barriers(connects: tuple[Callable[[], Any], Callable[[], Any]], rounds: int) -> None:
    for clients in (2, 4, 8, 16, 32):
        pairs = [
            [barrier_time(connect, clients, 100, f"{clients}/{turn}") for connect in connects]
            for turn in range(rounds)
        ]
        show(f"barrier of {clients}", pairs, lower_is_better=True)


def locals_(rounds: int) -> None:
    for name, operation in OPERATIONS.items():
        stores = HashStore(), TorchHashStore()
        for store in stores:
            store.multi_set(KEYS, ["value"] * len(KEYS))
        pairs = [[local_rate(store, operation) for store in stores] for _ in range(rounds)]
        show(f"HashStore {name}", pairs)
    for name, measure in (("add, 4 threads", threads_rate), ("handover, 2 threads", handover_rate)):
        pairs = [[measure(HashStore()), measure(TorchHashStore())] for _ in range(rounds)]
        show(f"HashStore {name}", pairs)


def main(rounds: int) -> None:
    line, address, pid = serve(start_ours)
    torch_line, port, torch_pid = serve(start_torchs)

    def ours() -> Any:
        return RemoteStore(address)

    def torchs() -> Any:
        return TCPStore("127.0.0.1", int(port), None, False, timedelta(seconds=60))

    def fill(index: int, start_line: Callable[[], object]) -> float:
        for store in (ours(), torchs()):
            for key in KEYS:
                store.set(key, "value")
        start_line()
        return 0.0

    run_clients(1, fill)
    remote_rates((ours, torchs), rounds)
    costs((ours, torchs), (pid, torch_pid), rounds)
    barriers((ours, torchs), rounds)
    locals_(rounds)
    line.close()
    torch_line.close()
    os.wait()
    os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
