"""What a process says of itself while one of its threads waits."""

from __future__ import annotations

import logging
import queue
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_elastic.store import HashStore
from pytest_elastic.store._inspection import inspect_process

LONG = 20.0
STORE = HashStore()


@pytest.fixture
def beside() -> Iterator[Callable[..., str]]:
    """Start a thread that gets so far that it waits; what it is said to be."""
    go, started = threading.Event(), list[threading.Thread]()

    def begin(target: Callable[..., Any], *arguments: Any) -> str:
        there = threading.Event()
        started.append(threading.Thread(target=target, args=(there, go, *arguments)))
        started[-1].start()
        assert there.wait(LONG)
        _, _, _, writers, strangers = inspect_process()
        found = {"writer": writers, "stranger": strangers}
        return " ".join(name for name, numbers in found.items() if started[-1].native_id in numbers)

    yield begin
    go.set()
    for thread in started:
        thread.join(LONG)


def waits(there: threading.Event, go: threading.Event, *held: Any) -> None:
    there.set()
    go.wait(LONG)
    del held


def writes_a_global(there: threading.Event, go: threading.Event) -> None:
    waits(there, go)
    STORE.set("k", "1")


class Held:
    """Anything."""


@pytest.mark.parametrize("way", ["argument", "closure", "method", "list", "finalizer", "queue", "instance"])
def test_a_thread_that_can_reach_a_store_is_a_writer(beside: Any, way: str) -> None:
    """By whatever it has in its hands."""
    store, held = HashStore(), Held()
    if way == "finalizer":
        weakref.finalize(held, store.set, "k", "1").atexit = False
    tasks: queue.Queue[Any] = queue.Queue()
    tasks.put(lambda: store.set("k", "1"))
    owner = Held()
    vars(owner)["deep"] = {"down": (store,)}
    in_hand: Any = {
        "argument": store,
        "closure": lambda: store,
        "method": store.set,
        "list": [1, [store]],
        "finalizer": held,
        "queue": tasks,
        "instance": owner,
    }[way]
    assert beside(waits, in_hand) == "writer"


def test_a_global_counts_where_the_code_names_it(beside: Any) -> None:
    assert beside(writes_a_global) == "writer"


def test_torchs_hook_for_errors_makes_no_writer(beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread that starts after `init_process_group` keeps it."""

    def hook(*error: object) -> None:
        """Prints the rank."""

    hook.__module__ = "torch.distributed.distributed_c10d"
    monkeypatch.setattr(sys, "excepthook", hook)
    assert beside(waits) == "writer"
    hook.__qualname__ = "init_process_group.<locals>._distributed_excepthook"
    assert beside(waits) == "stranger"


def test_a_thread_that_cannot_is_a_stranger(beside: Any) -> None:
    """Though a store is a global of its module, and it logs."""
    assert beside(waits, logging.getLogger(__name__), {"a": [1]}) == "stranger"


def test_nothing_is_held(beside: Any) -> None:
    """What a thread lets go of after an inspection is gone, and its callbacks are called."""
    gone = threading.Event()
    held = Held()
    weakref.finalize(held, gone.set).atexit = False
    ready, go = threading.Event(), threading.Event()

    def let_go(held: Any) -> None:
        ready.set()
        go.wait(LONG)
        del held

    thread = threading.Thread(target=let_go, args=(held,))
    del held
    thread.start()
    assert ready.wait(LONG)
    inspect_process()
    go.set()
    thread.join(LONG)
    assert gone.is_set()


def test_an_alarm_and_a_handler_are_told() -> None:
    """The interval timer in seconds, and whether a signal has a handler of somebody's."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        signal.setitimer(signal.ITIMER_PROF, 50)
        alarm, cpu_alarm, handlers, _, _ = inspect_process()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before)
    assert 40 < alarm <= 50
    assert (cpu_alarm, handlers) == (True, True)
    assert inspect_process()[:2] == (0.0, False)


def test_torchs_listener_for_tracebacks_is_harmless_and_code_beside_it_is_not(beside: Any) -> None:
    """They are in one module, whose other functions call tests."""
    names = {"__name__": "torch.testing._internal.common_distributed", "waits": waits, "STORE": STORE}
    exec("def _event_listener(there, go): waits(there, go); STORE.set('k', '1')", names)
    assert beside(names["_event_listener"]) == ""
    exec("def run_test(there, go): waits(there, go); STORE.set('k', '1')", names)
    assert beside(names["run_test"]) == "writer"
