"""A named pipe and what goes through it."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

import pytest

from pytest_elastic.processes import wait_for
from pytest_elastic.timer import FileTimerClient, FileTimerRequest, FileTimerServer
from pytest_elastic.timer._requests import Origin

from .rigs import known, write

UNAVAILABLE = "^Could not send the FileTimerRequest because FileTimerServer is not available.$"


def test_a_request_in_json() -> None:
    """The five fields in their order, and not where it was made."""
    request = FileTimerRequest(12, "scope", 1.5, 9, origin=Origin(1, 2, 3.0))
    assert (request.worker_pid, request.worker_id, request.version) == (12, 12, 1)
    text = '{"version": 1, "pid": 12, "scope_id": "scope", "expiration_time": 1.5, "signal": 9}'
    assert request.to_json() == text


def test_requests_are_equal_by_value() -> None:
    assert FileTimerRequest(12, "scope", 1.5).signal == 0
    assert FileTimerRequest(12, "scope", 1.5, 9) == FileTimerRequest(12, "scope", 1.5, 9)
    assert FileTimerRequest(12, "scope", 1.5, 9) != FileTimerRequest(12, "scope", 1.5, 15)
    with pytest.raises(TypeError):
        hash(FileTimerRequest(12, "scope", 1.5))


def test_the_pipe_is_there_from_the_constructor_for_this_user_alone(path: str) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        server = FileTimerServer(path, "run")
    finally:
        os.umask(before)
    mode = os.stat(path).st_mode
    assert (stat.S_ISFIFO(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert (server._max_interval, server._daemon) == (10, True)
    server.stop()


def test_a_pipe_that_is_there_is_replaced(path: str) -> None:
    """And its former owner does not remove the new one."""
    former = FileTimerServer(path, "former")
    server = FileTimerServer(path, "run")
    former.stop()
    assert os.path.exists(path)
    server.stop()
    assert not os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_another_file_is_left_alone(path: str, kind: str, tmp_path: Path) -> None:
    make = {
        "file": lambda: Path(path).write_text("mine"),
        "directory": lambda: os.mkdir(path),
        "link": lambda: os.symlink(tmp_path / "elsewhere", path),
    }
    make[kind]()
    with pytest.raises(FileExistsError):
        FileTimerServer(path, "run")
    assert os.path.lexists(path)


def test_a_missing_directory_is_an_error(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        FileTimerServer(path + "/no/such", "run")


def test_a_request_that_comes_between_size_and_get_is_still_seen(server: FileTimerServer, path: str) -> None:
    """Or the watchdog would sleep on it."""
    client = FileTimerClient(path)
    client.release("first")
    assert server._fifo.size() == 1
    client.release("second")
    assert [request.scope_id for request in server._fifo.get(1, 0)] == ["first"]
    assert wait_for(server._fifo.fileno(), select.POLLIN, 0)


def test_a_pipe_without_clients_is_quiet(server: FileTimerServer, path: str) -> None:
    """A server that slept on it would be woken for ever, once the first client has gone."""
    FileTimerClient(path).release("scope")
    assert server._fifo.size() == 1
    assert not wait_for(server._fifo.fileno(), select.POLLIN, 0)


@pytest.mark.parametrize("scope", ["a\nb\r\n", "größe ☃ 𝄞", "\ud800", '"}{"version": 1', "\0", "", "\\n"])
def test_any_scope_arrives_unchanged(server: FileTimerServer, path: str, scope: str) -> None:
    FileTimerClient(path).acquire(scope, time.time() + 60)
    server.run_once()
    assert [request.scope_id for request in known(server)] == [scope]


def test_the_lines_around_garbage_count(
    server: FileTimerServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a line has no end of its own."""
    good = [FileTimerRequest(os.getpid(), str(number), time.time() + 60) for number in range(4)]
    lines = [request.to_json().encode() + b"\n" for request in good]
    half = lines[0][:50]
    write(path, lines[0], b"text\n", lines[1], b"\0\0\n", b'{"version": 2}\n[]\n', lines[2], half, lines[3])
    server.run_once()
    assert known(server) == good
    assert len([record for record in caplog.records if "no timer request" in record.message]) == 4


def test_a_line_is_put_together_from_its_parts(server: FileTimerServer, path: str) -> None:
    """A request that was not written by a client of ours, in two writes."""
    line = FileTimerRequest(os.getpid(), "scope", time.time() + 60).to_line()
    write(path, line[:40])
    assert server._fifo.size() == 0
    write(path, line[40:])
    assert server._fifo.size() == 1


def test_endless_garbage_is_not_kept(server: FileTimerServer, path: str) -> None:
    """A line without an end."""
    for _ in range(10):
        write(path, b"x" * 60_000)
        assert server._fifo.size() == 0
    assert len(server._fifo._rest) <= select.PIPE_BUF


def test_a_request_of_another_client_is_read(server: FileTimerServer, path: str) -> None:
    """Of one that knows nothing of origins."""
    write(path, FileTimerRequest(os.getpid(), "scope", time.time() + 60, 9).to_json().encode() + b"\n")
    server.run_once()
    (request,) = known(server)
    assert (request.origin, request.signal) == (None, 9)
