"""Rigs and servers that tests start, and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.timer import FileTimerServer, TimerServer, configure

from .queues import WakingQueue
from .rigs import Events, FileRig, LocalRig, PipeRig, Rig, Started


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[[str], Rig]]:
    """Make the rig of that name, and verify at the end that it still works and nobody else died."""
    made: list[Rig] = []

    def make(name: str) -> Rig:
        made.append({"L": LocalRig, "P": PipeRig}[name]() if name in "LP" else FileRig(tmp_path))
        made[-1].begin()
        return made[-1]

    try:
        yield make
        for rig in made:
            rig.verify()
    finally:
        for rig in made:
            rig.finish()


@pytest.fixture(params=["L", "F", "P"])
def rig(request: pytest.FixtureRequest, make_rig: Callable[[str], Rig]) -> Rig:
    """A rig of each kind."""
    return make_rig(request.param)


@pytest.fixture(autouse=True)
def no_client() -> Iterator[None]:
    """No test leaves a client behind, nor a process that thinks it is a rank."""
    yield
    configure(None)


@pytest.fixture
def started() -> Iterator[Started]:
    """Start a server for this test."""
    made: list[TimerServer] = []

    def start(server: TimerServer) -> Any:
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.stop()
        if isinstance(server._queue, WakingQueue):
            server._queue.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "timer.fifo")


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def server(path: str, events: Events) -> Iterator[FileTimerServer]:
    """A server that is not started, and tells what happens."""
    made = FileTimerServer(path, "run", 60, log_event=lambda name, request: events.append((name, request)))
    yield made
    made.stop()
