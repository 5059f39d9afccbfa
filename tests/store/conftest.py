"""Stores of every kind, and threads and processes that use them."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_elastic.errors import DistNetworkError
from pytest_elastic.store import HashStore, PrefixStore, RemoteStore, StoreServer
from pytest_elastic.store._wire import GREETING, VERSION, Frames, unpack_answer

LONG = 30.0  # Seconds that nothing in these tests takes, on the slowest machine.


class Server(StoreServer):
    """A server that knows the stores that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[RemoteStore] = []

    def store(self, label: object = None) -> RemoteStore:
        self.given.append(super().store(label))
        return self.given[-1]


@pytest.fixture
def server() -> Iterator[StoreServer]:
    """A served store."""
    with Server() as server:
        yield server
        for store in server.given:  # A traceback may keep them alive for long.
            store.close()


@pytest.fixture(params=["hash", "pair", "unix", "tcp", "prefix over hash", "prefix over pair"])
def any_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty store of ours, of each kind in turn."""
    kind = request.param
    if "hash" in kind:
        store: Any = HashStore()
        yield PrefixStore("prefix", store) if "prefix" in kind else store
        return
    with StoreServer.over_tcp() if kind == "tcp" else StoreServer() as server:
        store = server.store() if "pair" in kind else RemoteStore(server.address, server.token)
        yield PrefixStore("prefix", store) if "prefix" in kind else store
        store.close()


class Threads:
    """Calls in threads of their own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.outcomes: list[Any] = []

    def start(self, call: Callable[[], object]) -> int:
        """Start one; its number."""
        number = len(self.outcomes)
        self.outcomes.append(None)

        def run() -> None:
            try:
                self.outcomes[number] = call()
            except Exception as error:
                self.outcomes[number] = error

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        return number

    def outcome(self, number: int) -> Any:
        """What this one returned or raised; waits for it."""
        self._threads[number].join(LONG)
        assert not self._threads[number].is_alive(), "a thread did not end"
        return self.outcomes[number]

    def join(self) -> list[Any]:
        """What each returned or raised, in the order of their start."""
        return [self.outcome(number) for number in range(len(self._threads))]

    def __call__(self, *calls: Callable[[], object]) -> list[Any]:
        """Start these together and join them."""
        first = len(self.outcomes)
        for call in calls:
            self.start(call)
        return self.join()[first:]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Run calls at the same time."""
    threads = Threads()
    yield threads
    threads.join()


class Child:
    """A forked process that makes one call."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads.
            self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(write, pickle.dumps(_outcome(call)))
            finally:
                os._exit(0)
        os.close(write)
        self._ended = False

    def outcome(self) -> Any:
        """What the call returned or raised; `None` if the process was killed."""
        data = b""
        while piece := os.read(self._read, 65536):
            data += piece
        self.end()
        return pickle.loads(data) if data else None

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it, if it is there, and reap it."""
        if not self._ended:
            self._ended = True
            self.kill()
            os.waitpid(self.pid, 0)
            os.close(self._read)


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:
        return error


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], object]], Child]]:
    """Make a call in a forked process."""
    children: list[Child] = []

    def start(call: Callable[[], object]) -> Child:
        children.append(Child(call))
        return children[-1]

    yield start
    for child in children:
        child.end()


def _wait_for(condition: Callable[[], object], seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.001)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Wait until a condition holds: `wait_for(condition, seconds)`."""
    return _wait_for


@pytest.fixture
def waiting(server: StoreServer) -> Callable[[int], None]:
    """Wait until the server has exactly so many blocked operations."""

    def blocked() -> int:
        try:
            return len(server.state.waiters())
        except RuntimeError:  # The server changed it meanwhile.
            return -1

    return lambda number: _wait_for(lambda: blocked() == number)


class Raw:
    """A client that speaks the protocol by hand, or badly."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(LONG)
        self._frames = Frames()
        self._answers: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.end.sendall(data)

    def greet(self, version: int = VERSION, token: str = "") -> None:
        self.send(GREETING.pack((version, token.encode())))

    def answer(self) -> bytes:
        """The next frame; `b""` if the server hung up."""
        while not self._answers:
            try:
                data = self.end.recv(65536)
            except ConnectionResetError:
                return b""
            if not data:
                return b""
            self._answers += self._frames.feed(data)
        return self._answers.pop(0)

    def refusal(self) -> str:
        """Why the server hangs up, which it must do."""
        with pytest.raises(DistNetworkError) as info:
            unpack_answer(GREETING, self.answer())
        assert self.answer() == b""
        return str(info.value)


@pytest.fixture
def raw(server: StoreServer) -> Iterator[Callable[..., Raw]]:
    """A client by hand: `raw()` has greeted, `raw(greeted=False)` has not."""
    made: list[Raw] = []

    def connect(server: StoreServer = server, greeted: bool = True) -> Raw:
        family, where = socket.AF_UNIX, server.address.removeprefix("unix:")
        end = socket.socket(family)
        end.connect(where)
        made.append(Raw(end))
        if greeted:
            made[-1].greet()
            assert unpack_answer(GREETING, made[-1].answer()) is None
        return made[-1]

    yield connect
    for client in made:
        client.end.close()


SERVER = """
import sys
from pytest_elastic.store import StoreServer
server = StoreServer()
server.start()
print(server.address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server_process() -> Iterator[Any]:
    """A server in a process of its own, which ends with its standard input; it prints its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()
