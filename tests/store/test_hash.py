"""The store of threads."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline, SystemClock
from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import HashStore


def test_takes_no_arguments() -> None:
    """There is nothing to say."""
    with pytest.raises(TypeError):
        HashStore("localhost")  # type: ignore[call-arg]


def test_additions_of_many_threads_are_all_counted(threads: Any) -> None:
    """Operations are atomic."""
    store = HashStore()
    threads(*[lambda: [store.add("n", 1) for _ in range(500)]] * 8)
    assert store.get("n") == b"4000"


def test_every_element_goes_to_one_popper(threads: Any) -> None:
    """None is lost, none comes twice."""
    store = HashStore()
    for _ in range(8):
        threads.start(lambda: [store.queue_pop("q") for _ in range(50)])
    for number in range(400):
        store.queue_push("q", str(number))
    popped = [int(element) for part in threads.join() for element in part]
    assert sorted(popped) == list(range(400))


def test_a_keyboard_interrupt_ends_a_wait(threads: Any, wait_for: Any) -> None:
    """The waiter is forgotten, and the store goes on."""
    store = HashStore()
    main = threading.get_ident()

    def interrupt() -> None:
        wait_for(lambda: store._data.bells)
        signal.pthread_kill(main, signal.SIGINT)

    threads.start(interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.wait(["k"], 10)
    assert store._data.state.waiters() == []
    assert store._data.bells == {}
    store.set("k", "1")


def test_a_clone_shares_data_and_not_the_timeout(threads: Any) -> None:
    """Each handle has its own."""
    store = HashStore()
    store.set_timeout(7)
    clone = store.clone()
    clone.set_timeout(9)
    assert (store.timeout.seconds, clone.timeout.seconds, store.clone().timeout.seconds) == (7, 9, 7)
    assert threads(lambda: clone.get("k"), lambda: store.set("k", "1"))[0] == b"1"


def test_only_those_whom_a_write_concerns_wake(threads: Any, wait_for: Any) -> None:
    """The others' bells stay silent."""
    store = HashStore()
    threads.start(lambda: store.get("a"))
    threads.start(lambda: store.get("b"))
    wait_for(lambda: len(store._data.bells) == 2)
    store.set("a", "1")
    wait_for(lambda: len(store._data.bells) == 1)
    assert [waiter.keys for waiter in store._data.bells] == [("b",)]
    store.set("b", "2")
    assert threads.join() == [b"1", b"2"]


def test_a_wait_that_comes_true_at_its_deadline_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks once more when its time is over."""
    store = HashStore()

    class LastMoment:
        def __init__(self, at: float) -> None:
            self.at = at

        def remaining(self) -> float:
            store._data.state._values["k"] = b"1"
            return 0.0

        def passed(self) -> bool:
            return store.check(["k"])

    monkeypatch.setattr("pytest_elastic.store._hash.Deadline", LastMoment)
    store.wait(["k"], 0.01)


def test_all_keys_are_waited_for_under_one_deadline(
    threads: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that came does not give the others more time."""
    store, made = HashStore(), []

    def after(at: float) -> Deadline:
        made.append(at)
        return Deadline(at)

    monkeypatch.setattr("pytest_elastic.store._hash.Deadline", after)
    threads.start(lambda: store.multi_get(["a", "b"]))
    for key in ("a", "b"):
        wait_for(lambda key=key: any(key in waiter.pending for waiter in store._data.bells))
        store.set(key, key)
    assert threads.join() == [[b"a", b"b"]]
    assert len(made) == 1


def test_a_key_of_a_megabyte() -> None:
    """As good as any other."""
    store, key = HashStore(), "k" * 2**20
    store.set(key, "1")
    assert (store.get(key), store.list_keys()) == (b"1", [key])


def test_a_timeout_leaves_no_waiter() -> None:
    """And says which keys were missing, and for how long."""
    store = HashStore()
    store.set("there", "1")
    with pytest.raises(DistStoreError, match=r"^Wait timeout after \d+ ms, missing keys: 'a', 'b'$") as info:
        store.wait(["a", "there", "b"], 0.02)
    assert (info.value.keys, info.value.timeout) == (("a", "b"), 0.02)
    assert info.value.elapsed is not None
    assert info.value.elapsed >= 0.02
    assert (store._data.state.waiters(), store._data.bells) == ([], {})


def test_the_wall_clock_does_not_matter(any_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour's step neither ends a wait nor makes it longer; nor in the server."""
    hours = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(SystemClock, "time", staticmethod(lambda: float(next(hours))))
    began = SYSTEM_CLOCK.monotonic()
    with pytest.raises(DistStoreError):
        any_store.wait(["k"], 0.05)
    assert 0.05 <= SYSTEM_CLOCK.monotonic() - began < 10


def test_no_wake_up_is_lost_between_threads(threads: Any, wait_for: Any) -> None:
    """16 waiters on 16 keys, one multi_set of all, in 30 rounds."""
    store = HashStore()
    for turn in range(30):
        keys = [f"{turn}/{i}" for i in range(16)]
        for key in keys:
            threads.start(lambda key=key: store.get(key))
        wait_for(lambda: len(store._data.bells) == 16)
        store.multi_set(keys, keys)
        assert threads.join()[-16:] == [key.encode() for key in keys]


def test_an_interrupted_popper_loses_no_element(wait_for: Any, threads: Any) -> None:
    """What it was handed goes back."""
    store = HashStore()
    threads.start(lambda: store.queue_pop("q"))
    wait_for(lambda: store._data.bells)
    (waiter,) = store._data.bells
    with store._data.lock:
        store._data.state.queue_push("q", b"1")
        store._data.state.woken.clear()
        store._data.state.abandon(waiter)
        assert store._data.state.queue_len("q") == 1
        store._data.state.queue_pop("q")
        waiter.result = b"again"
        store._data.bells[waiter].release()
    assert threads.join() == [b"again"]


def test_a_waiter_whose_thread_was_interrupted_wedges_nobody() -> None:
    """Not even before it had hung its bell; an element goes to the next one."""
    store = HashStore()
    store._data.state.get("k")
    store._data.state.queue_pop("q")
    store.set("k", "1")
    store.queue_push("q", "1")
    assert (store.get("k"), store.queue_pop("q", False)) == (b"1", b"1")
    assert store._data.state.waiters() == []


def test_an_interrupt_on_the_way_into_a_wait_leaves_no_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An element that comes later is not lost to it."""
    store = HashStore()

    def interrupt(waiter: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store._data, "hang_bell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.queue_pop("q")
    assert store._data.state.waiters() == []
    store.queue_push("q", "1")
    assert store.queue_pop("q", False) == b"1"


def test_a_bell_that_rings_may_be_rung_again() -> None:
    """Its thread woke by itself, looked, and waits for another key by now."""
    store = HashStore()
    data = store._data
    waiter: Any = data.state.wait(["a", "b"])
    bell = data.hang_bell(waiter)
    store.set("a", "1")
    assert not data.state.resume(waiter)
    store.set("b", "2")
    assert not bell.locked()
    assert data.state.resume(waiter)


def test_a_forked_child_has_the_data_and_neither_locks_nor_waiters(
    threads: Any, wait_for: Any, fork: Any
) -> None:
    """The threads that held or waited are the parent's."""
    store = HashStore()
    store.set("k", "1")
    threads.start(lambda: store.queue_pop("q"))
    wait_for(lambda: store._data.bells)

    def child() -> tuple[bytes, bytes]:
        store.queue_push("q", "child")
        return store.get("k"), store.queue_pop("q", False)

    with store._data.lock:
        forked = fork(child)
    assert forked.outcome() == (b"1", b"child")
    store.queue_push("q", "parent")
    assert threads.join() == [b"parent"]
