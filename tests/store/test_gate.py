"""The gate ahead of a served store: what it may do with requests, and what their clients see."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistNetworkError, DistStoreError, DivergenceError
from pytest_elastic.store import OpenGate, RemoteStore, Request, StoreServer, _client

LONG = 10.0  # Seconds; what is meant is much less.


class Script(OpenGate):
    """Keeps the requests that `keeps` says, and notes everything."""

    def __init__(self, keeps: Callable[[Request], bool] = lambda request: False) -> None:
        self.keeps = keeps
        self.seen: list[Request] = []
        self.kept: list[Request] = []
        self.notes: list[tuple[object, str, str]] = []
        self.news = threading.Condition()

    def asked(self, request: Request) -> None:
        self.seen.append(request)
        if not self.keeps(request):
            self.keeper.let(request)
            return
        self.kept.append(request)
        self._note(request.label, request.name, "kept")

    def applied(self, request: Request, blocked: bool) -> None:
        self._note(request.label, request.name, "blocked" if blocked else "applied")

    def ended(self, request: Request, how: str) -> None:
        self._note(request.label, request.name, how)

    def left(self, label: object) -> None:
        self._note(label, "", "left")

    def _note(self, *note: object) -> None:
        with self.news:
            self.notes.append(note)
            self.news.notify_all()

    def until(self, *note: object) -> None:
        with self.news:
            assert self.news.wait_for(lambda: note in self.notes, LONG), self.notes


class Guarded:
    """A server with a gate, and its clients."""

    def __init__(self, gate: Script) -> None:
        self.gate = gate
        self.server = StoreServer(gate=gate)
        self.server.start()
        self.given: list[RemoteStore] = []

    def store(self, label: object = 0) -> RemoteStore:
        self.given.append(self.server.store(label))
        return self.given[-1]

    def act(self, act: Callable[[], None]) -> None:
        """Do it in the serving thread."""
        done = threading.Event()

        def acting() -> None:
            act()
            done.set()

        self.server.loop.post(acting)
        assert done.wait(LONG)


@pytest.fixture
def guarded() -> Iterator[Callable[..., Guarded]]:
    made = []

    def make(keeps: Callable[[Request], bool] = lambda request: False) -> Guarded:
        made.append(Guarded(Script(keeps)))
        return made[-1]

    yield make
    for one in made:
        one.server.close()
        for store in one.given:  # A traceback may keep them alive for long.
            store.close()


class Doing:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call, self.value, self.error = call, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error

    def outcome(self) -> object:
        self._thread.join(LONG)
        assert not self._thread.is_alive()
        return self.value if self.error is None else self.error


def test_everything_is_told(guarded):
    """Requests and waits in the store's order; of unlabelled clients nothing."""
    one = guarded()
    store, other = one.store(0), one.store(1)
    one.store(None).set("unseen", "1")
    waiting = Doing(lambda: store.get("a"))
    one.gate.until(0, "get", "blocked")
    other.set("a", "1")
    assert waiting.outcome() == b"1"
    with pytest.raises(DistStoreError):
        store.wait(["b"], 0.01)
    with pytest.raises(ValueError, match="no number"):
        (store.set("t", "x"), store.add("t", 1))
    one.server.drop(1)
    one.gate.until(1, "", "left")
    assert one.gate.notes == [
        (0, "get", "blocked"),
        (1, "set", "applied"),
        (0, "get", "done"),
        (0, "wait", "blocked"),
        (0, "wait", "timed out"),
        (0, "set", "applied"),
        (0, "add", "applied"),
        (1, "", "left"),
    ]


def test_a_kept_request_has_no_effect_until_it_is_let_go(guarded):
    """And the others go on meanwhile."""
    one = guarded(lambda request: request.label == 0)
    kept = Doing(lambda: one.store(0).add("n", 1))
    one.gate.until(0, "add", "kept")
    assert one.store(1).add("n", 10) == 10
    one.act(lambda: one.gate.keeper.let(one.gate.kept[0]))
    assert kept.outcome() == 11


def test_a_kept_client_is_patient(guarded, monkeypatch):
    """It waits longer than for a server that is silent, and no timeout runs."""
    monkeypatch.setattr(_client, "_GRACE_OPTION", _client.struct.pack("ll", 0, 50_000))
    one = guarded(lambda request: request.label == 0)
    store = one.store(0)
    kept = Doing(lambda: store.wait(["a"], 0.01))
    one.gate.until(0, "wait", "kept")
    kept._thread.join(0.3)
    assert kept.error is None
    one.store(1).set("a", "1")
    one.act(lambda: one.gate.keeper.let(one.gate.kept[0]))
    assert (kept.outcome(), kept.error) == (None, None)


def test_something_else_instead(guarded):
    """The answer is what was done instead."""
    one = guarded(lambda request: request.label == 0)
    kept = Doing(lambda: one.store(0).add("n", 1))
    one.gate.until(0, "add", "kept")
    one.gate.kept[0].instead = lambda state: 42
    one.act(lambda: one.gate.keeper.let(one.gate.kept[0]))
    assert kept.outcome() == 42
    assert not one.store(1).check(["n"])


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "blocked"])
def test_failing(guarded, keeps):
    """An error for a request that is kept, or that is blocked; the next one is served."""
    one = guarded(lambda request: keeps and request.name == "get")
    store = one.store(0)

    def call():
        with pytest.raises(DivergenceError) as caught:
            store.get("a")
        return caught, store.add("n", 1)

    failing = Doing(call)
    one.gate.until(0, "get", "kept" if keeps else "blocked")
    request = one.gate.seen[-1]
    one.act(lambda: one.gate.keeper.fail(request, DivergenceError("there")))
    caught, total = failing.outcome()
    assert (str(caught.value), total) == ("there", 1)
    assert one.server.state.waiters() == []
    one.act(lambda: one.gate.keeper.fail(request, DivergenceError("again")))  # Nobody's by now.
    assert store.add("n", 1) == 2


def test_ending_a_client(guarded, fork):
    """Its process exits with the code, whatever it catches."""
    one = guarded(lambda request: True)
    address = one.server.pair(0)

    def child():
        try:
            RemoteStore(address).set("a", "1")
        finally:
            os._exit(99)

    process = fork(child)
    address.close()
    one.gate.until(0, "set", "kept")
    one.act(lambda: one.gate.keeper.end_client(one.gate.kept[0], 7))
    info = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (info.si_code, info.si_status) == (os.CLD_EXITED, 7)


def test_timeless_waits(guarded):
    """Only `expire` ends them, or `time` gives them their deadline back."""
    one = guarded(lambda request: True)
    store = one.store(0)

    def waiting(do):
        waits = Doing(lambda: store.clone().wait(["a"], 0.01))
        with one.gate.news:
            assert one.gate.news.wait_for(lambda: one.gate.kept, LONG)
        request = one.gate.kept.pop()
        request.timeless = True
        one.act(lambda: one.gate.keeper.let(request))
        waits._thread.join(0.1)
        assert waits._thread.is_alive()
        one.act(lambda: do(request))
        error = waits.outcome()
        assert isinstance(error, DistStoreError)
        assert (error.keys, error.timeout) == (("a",), 0.01)
        one.act(lambda: do(request))  # It has ended: nothing more.

    waiting(lambda request: one.gate.keeper.expire(request))
    waiting(lambda request: one.gate.keeper.time(request))


def test_a_client_that_goes(guarded):
    """Its request is gone, kept or blocked."""
    one = guarded(lambda request: request.name == "set")
    for number, (name, before) in enumerate([("set", "kept"), ("get", "blocked")]):
        store = one.store(number)
        Doing(lambda store=store, name=name: getattr(store, name)(*["a", "1"][: 1 + (name == "set")]))
        one.gate.until(number, name, before)
        one.server.drop(number)
        one.gate.until(number, name, "gone")
    assert one.server.state.waiters() == []


def test_hanging_up(guarded):
    """All clients, those that come later included."""
    one = guarded(lambda request: request.label == 0)
    other = one.store(1)
    other.set("a", "1")
    kept = Doing(lambda: one.store(0).set("b", "1"))
    one.gate.until(0, "set", "kept")
    one.act(lambda: one.gate.keeper.hang_up())
    assert isinstance(kept.outcome(), DistNetworkError)
    with pytest.raises(DistNetworkError):
        other.set("a", "1")


def test_ticks(guarded):
    """The gate is called when it says."""
    one = guarded()
    called = threading.Event()
    at = SYSTEM_CLOCK.monotonic() + 0.05
    due = [at]
    one.gate.due = lambda: due[0]
    one.gate.tick = lambda now: (due.__setitem__(0, float("inf")), now >= at and called.set())
    one.act(lambda: None)
    assert called.wait(LONG)


def test_another_gate(guarded):
    """Takes over from the next request on."""
    one = guarded()
    store = one.store(0)
    store.set("a", "1")
    other = Script()
    one.server.pass_to(other)
    store.set("a", "2")
    assert [len(gate.notes) for gate in (one.gate, other)] == [1, 1]


def test_connections_of_one_owner_have_numbers(guarded):
    """By the order of their first requests."""
    one = guarded(lambda request: True)
    store = one.store(0)
    for number in range(2):
        doing = Doing(lambda: store.set("a", "1"))
        with one.gate.news:
            assert one.gate.news.wait_for(lambda: one.gate.kept, LONG)
        request = one.gate.kept.pop()
        assert request.client == number
        one.act(lambda request=request: one.gate.keeper.let(request))
        doing.outcome()
