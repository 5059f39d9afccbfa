"""What time does to the operations of a store that wait, line by line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.pristine import threading, time
from pytest_elastic.testing._store import Make, clause, equal, refused, together

_SOON = timedelta(seconds=0.05)
_PAUSE = 0.1  # Seconds in which a thread that was started surely waits.
_PROMPT = 2.0  # Seconds in which something that is not waited for happens, on a busy machine, too.


@clause
def _wait(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    equal(store.wait(["a", "b", "a"]), None, "wait for keys that are there")
    refused(RuntimeError, "wait for a missing key", store.wait, ["a", "c"], _SOON)
    handles = [store.clone() for _ in range(3)]
    sets = [partial(handle.set, f"d{i}", "1") for i, handle in enumerate(handles)]
    answers = together(partial(store.clone().wait, ["d0", "d1", "d2"]), *sets)
    equal(answers, [None] * 4, "wait for three keys while others set them")


@clause
def _poppers(make: Make) -> None:
    orders = [_popping_order(make()) for _ in range(3)]
    if ["1", "2", "3"] not in orders:
        raise AssertionError(f"three poppers one after the other got {orders}")


def _popping_order(store: Any) -> list[str]:
    def pop(place: int, handle: Any) -> str:
        time.sleep(place * _PAUSE)
        popped: bytes = handle.queue_pop("q")
        return popped.decode()

    def push() -> None:
        time.sleep(3 * _PAUSE)
        for element in ("1", "2", "3"):
            store.queue_push("q", element)

    return together(*(partial(pop, place, store.clone()) for place in range(3)), push)[:3]


@clause
def _timeout(make: Make) -> None:
    store = make()
    equal(store.timeout, timedelta(seconds=300), "the first timeout")
    refused(AttributeError, "assignment to timeout", setattr, store, "timeout", timedelta(seconds=1))


@clause
def _spans(make: Make) -> None:
    store = make()
    spans = {1.5: 1.5, 2: 2, timedelta(microseconds=1500): 0.0015, timedelta(microseconds=1): 1e-6}
    for span, seconds in spans.items():
        store.set_timeout(span)
        equal(store.timeout, timedelta(seconds=seconds), f"set_timeout({span!r})")
    refused(TypeError, "set_timeout(None)", store.set_timeout, None)
    store.set("a", "1")
    for span in (1, 0.5, _SOON):
        store.wait(["a"], span)
        store.barrier("b", 1, span)


@clause
def _own_timeout(make: Make) -> None:
    store = make()
    store.set_timeout(timedelta(seconds=2 * _PAUSE))
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        store.wait(["a"])

    def change() -> None:
        begun.wait()
        time.sleep(_PAUSE)
        store.set_timeout(timedelta(seconds=60))

    error, _ = together(wait, change)
    refused(RuntimeError, "a wait whose store's timeout was changed", _raise, error)


@clause
def _no_time(make: Make) -> None:
    store = make()
    store.set("a", "1")
    for seconds in (0, -1, -(10**9)):
        store.wait(["a"], timedelta(seconds=seconds))
        refused(RuntimeError, f"wait of {seconds} s", store.wait, ["b"], timedelta(seconds=seconds))
        store.set_timeout(timedelta(seconds=seconds))
        refused(RuntimeError, f"get with a timeout of {seconds} s", store.get, "b")
    store.wait(["a"], timedelta(days=100_000))
    handle = store.clone()
    late = partial(store.wait, ["c"], timedelta(days=100_000))
    equal(together(late, lambda: handle.set("c", "1")), [None, None], "a wait of 100,000 days")


@clause
def _waking(make: Make) -> None:
    writes = {
        "set": lambda store: store.set("a", "1"),
        "add": lambda store: store.add("a", 1),
        "append": lambda store: store.append("a", "1"),
        "compare_set": lambda store: store.compare_set("a", "", "1"),
        "multi_set": lambda store: store.multi_set(["a"], ["1"]),
        "queue_push": lambda store: store.queue_push("a", "1"),
    }
    for name, write in writes.items():
        store = make()
        handles = [store.clone() for _ in range(2)]
        waits = [partial(handle.wait, ["a"], timedelta(seconds=_PROMPT)) for handle in handles]
        began = SYSTEM_CLOCK.monotonic()
        answers = together(*waits, partial(_later, write, store))
        equal(answers[:2], [None, None], f"two waiters for a key that {name} makes")
        if SYSTEM_CLOCK.monotonic() - began >= _PROMPT:
            raise AssertionError(f"{name} did not wake the waiters")


@clause
def _at_the_deadline(make: Make) -> None:
    store = make()
    store.set("a", "1")
    store.wait(["a"], timedelta(milliseconds=1))
    began = SYSTEM_CLOCK.monotonic()
    refused(RuntimeError, "wait", store.wait, ["b"], _SOON)
    elapsed = SYSTEM_CLOCK.monotonic() - began
    if elapsed < _SOON.total_seconds():
        raise AssertionError(f"a wait of {_SOON.total_seconds()} s ended after {elapsed} s")


@clause
def _timeout_errors(make: Make) -> None:
    store = make()
    store.set("there", "1")
    keys = [f"missing{i}" for i in range(20)]
    error: Any = refused("DistStoreError", "wait", store.wait, ["there", *keys], _SOON)
    text = str(error)
    equal(text.startswith("Wait timeout"), True, f"the text {text[:40]!r} beginning with 'Wait timeout'")
    equal([key in text for key in (keys[0], keys[15], keys[16], "there")], [True, True, False, False], text)
    equal(getattr(error, "keys", None), tuple(keys), "keys")
    equal(getattr(error, "timeout", None), _SOON.total_seconds(), "timeout")
    if not getattr(error, "elapsed", 0.0) >= _SOON.total_seconds():
        raise AssertionError("elapsed is less than the timeout")


@clause
def _here_and_gone(make: Make) -> None:
    store = make()
    handle = store.clone()

    def come_and_go() -> None:
        time.sleep(_PAUSE)
        store.set("a", "1")
        store.delete_key("a")

    error, _ = together(partial(handle.wait, ["a"], timedelta(seconds=4 * _PAUSE)), come_and_go)
    if error is not None:  # A store whose waiters look again may miss the key.
        refused(RuntimeError, "wait", _raise, error)


def _later(write: Callable[[Any], object], store: Any) -> None:
    time.sleep(_PAUSE)
    write(store)


def _raise(error: object) -> None:
    if isinstance(error, Exception):
        raise error
