"""Our stores against torch's, side by side: `python tests/benchmarks/bench_store.py [rounds]`.

Rounds alternate between the two, so that a noisy machine is noisy for both; printed are the medians and
their ratio (above 1: ours is faster).  Clients are processes; both servers are threads of this one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
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


def run_clients(number: int, work: Callable[[int, Callable[[], None]], float]) -> list[float]:
    """What `work(index, start_line)` returns in each of `number` forked processes."""
    go_read, go_write = os.pipe()
    results = []
    ready_read, ready_write = os.pipe()
    for index in range(number):
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(go_write)

            def start_line() -> None:
                os.write(ready_write, b"!")
                os.read(go_read, 1)  # End of file is the shot.

            try:
                os.write(write, repr(work(index, start_line)).encode())
            finally:
                os._exit(0)
        os.close(write)
        results.append(read)
    for _ in range(number):
        os.read(ready_read, 1)
    for end in (go_write, go_read, ready_read, ready_write):
        os.close(end)
    answers = [float(os.read(read, 100)) for read in results]
    for read in results:
        os.close(read)
    for _ in range(number):
        os.wait()
    return answers


def rate(connect: Callable[[], Any], clients: int, operation: Operation, count: int) -> float:
    """Operations per second of all clients together."""

    def work(index: int, start_line: Callable[[], None]) -> float:
        store = connect()
        operation(store)
        start_line()
        began = time.perf_counter()
        for _ in range(count):
            operation(store)
        return time.perf_counter() - began

    return clients * count / max(run_clients(clients, work))


def barrier_time(connect: Callable[[], Any], clients: int, count: int, name: str) -> float:
    """Seconds for a barrier of this many processes."""

    def work(index: int, start_line: Callable[[], None]) -> float:
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


def show(title: str, ours: list[float], theirs: list[float], *, lower_is_better: bool = False) -> None:
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratio = other / mine if lower_is_better else mine / other
    unit, factor = ("us", 1e6) if lower_is_better else ("/s", 1.0)
    print(f"{title:32} ours {mine * factor:10,.0f} {unit}  torch {other * factor:10,.0f} {unit}  x {ratio:.2f}")


def main(rounds: int) -> None:
    master = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    with StoreServer() as server:

        def ours() -> Any:
            return RemoteStore(server.address)

        def torchs() -> Any:
            return TCPStore("127.0.0.1", master.port, None, False, timedelta(seconds=60))

        for store in (ours(), master):
            for key in KEYS:
                store.set(key, "value")
        for clients in (1, 4, 8):
            for name, operation in OPERATIONS.items():
                if clients > 1 and name not in ("get", "add"):
                    continue
                pairs = [
                    [rate(connect, clients, operation, 3000 // clients) for connect in (ours, torchs)]
                    for _ in range(rounds)
                ]
                show(f"{name}, {clients} client(s)", [a for a, _ in pairs], [b for _, b in pairs])
        for clients in (2, 4, 8, 16, 32):
            pairs = [
                [
                    barrier_time(connect, clients, 200, f"{clients}/{turn}/{connect.__name__}")
                    for connect in (ours, torchs)
                ]
                for turn in range(rounds)
            ]
            show(
                f"barrier of {clients}",
                [a for a, _ in pairs],
                [b for _, b in pairs],
                lower_is_better=True,
            )
    for name, operation in OPERATIONS.items():
        stores = HashStore(), TorchHashStore()
        for store in stores:
            store.multi_set(KEYS, ["value"] * len(KEYS))
        pairs = [[local_rate(store, operation) for store in stores] for _ in range(rounds)]
        show(f"HashStore {name}", [a for a, _ in pairs], [b for _, b in pairs])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
