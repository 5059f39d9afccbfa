"""The plugin's own channel and its table."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_elastic.clock import VirtualClock
from pytest_elastic.timer import _requests as api
from pytest_elastic.timer import expires
from pytest_elastic.timer._rank_timers import PipeTimerClient, TimerTable, open_channel

from .rigs import Rank


class Near(VirtualClock):
    """A clock that stands still, near the one that clients have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()


@pytest.fixture
def clock() -> Near:
    return Near()


@pytest.fixture
def table(clock: Near) -> Iterator[TimerTable]:
    made = TimerTable(clock)
    yield made
    made.close()


Connect = Callable[..., PipeTimerClient]


@pytest.fixture
def connect(table: TimerTable) -> Iterator[Connect]:
    """Make the client of a rank, in this process."""
    theirs: list[int] = []

    def connect(rank: int) -> PipeTimerClient:
        ours, other = open_channel()
        table.attach(rank, ours)
        theirs.append(other)
        return PipeTimerClient(other)

    yield connect
    for descriptor in theirs:
        os.close(descriptor)


def scopes(found: list[Any]) -> list[tuple[int, str]]:
    return [(expiry.rank, expiry.scope) for expiry in found]


def test_an_expiry_says_all_that_a_report_needs(table: TimerTable, connect: Connect, clock: Near) -> None:
    """Rank, scope, the line that armed it, the span, and the thread."""
    line = 0
    block = expires(5, "exchange", client=connect(2))
    with block:
        line = block._where[1]
        table.read(2)
        clock.advance(6)
        (expiry,) = table.expired()
    assert (expiry.rank, expiry.scope, expiry.file, expiry.line) == (2, "exchange", __file__, line)
    assert f"{expiry.span:.3f}" == "5.000"
    assert (expiry.pid, expiry.thread) == (os.getpid(), threading.get_ident())
    assert 0 < clock.now - expiry.deadline <= 1


def test_a_direct_acquire_names_its_callers_line(table: TimerTable, connect: Connect, clock: Near) -> None:
    """Without `expires`."""
    connect(2).acquire("exchange", time.time())
    clock.advance(1)
    (expiry,) = read(table, 2)
    assert expiry.file == __file__
    assert expiry.line > 0


def read(table: TimerTable, rank: int) -> list[Any]:
    """What has expired once the rank's channel is read."""
    table.read(rank)
    return table.expired()


def test_the_kernel_has_the_request_when_acquire_returns(table: TimerTable, connect: Connect) -> None:
    """No thread, and no second call, is needed."""
    before = threading.active_count()
    client = connect(0)
    client.acquire("scope", time.time() + 5)
    assert threading.active_count() == before
    table.read(0)
    assert table.next_deadline() < math.inf
    client.release("scope")
    table.read(0)
    assert table.next_deadline() == math.inf


def test_a_channel_belongs_to_one_rank(table: TimerTable, connect: Connect, clock: Near) -> None:
    """The same scope and thread in another rank is another timer."""
    clients = [connect(rank) for rank in range(3)]
    for client in clients:
        client.acquire("scope", time.time() + 1)
    clients[1].release("scope")
    for rank in range(3):
        table.read(rank)
    clock.advance(2)
    assert scopes(table.expired()) == [(0, "scope"), (2, "scope")]


def test_the_channel_is_read_again_before_a_rank_is_given_up(
    table: TimerTable, connect: Connect, clock: Near
) -> None:
    """And what it acquired since counts as well."""
    client = connect(0)
    client.acquire("scope", time.time() + 1)
    table.read(0)
    clock.advance(2)
    for number in range(100):
        client.acquire(str(number), time.time() + 60)
    client.release("scope")
    assert table.expired() == []
    assert len(table._timers) == 100


def test_a_rank_is_named_once_and_loses_all_its_timers(
    table: TimerTable, connect: Connect, clock: Near
) -> None:
    """By its earliest deadline; the earliest rank comes first."""
    for rank, spans in ((0, (3, 2)), (1, (1, 9))):
        client = connect(rank)
        for span in spans:
            client.acquire(str(span), time.time() + span)
        table.read(rank)
    clock.advance(4)
    assert scopes(table.expired()) == [(1, "1"), (0, "2")]
    assert table.expired() == []
    assert table.next_deadline() == math.inf


def test_the_next_deadline_is_when_to_ask(table: TimerTable, connect: Connect, clock: Near) -> None:
    client = connect(0)
    for span in (30, 20):
        client.acquire(str(span), time.time() + span)
    table.read(0)
    clock.now = table.next_deadline()
    assert scopes(table.expired()) == [(0, "20")]


def test_threads_of_a_rank_have_timers_of_their_own(table: TimerTable, connect: Connect, clock: Near) -> None:
    client = connect(0)
    thread = threading.Thread(target=lambda: client.acquire("scope", time.time() + 1))
    client.acquire("scope", time.time() + 1)
    thread.start()
    thread.join()
    client.release("scope")
    clock.advance(2)
    (expiry,) = read(table, 0)
    assert expiry.thread != threading.get_ident()


def test_a_fork_that_has_ended_has_no_timer(table: TimerTable, connect: Connect, clock: Near) -> None:
    """It used its rank's channel, and left a timer armed."""
    client = connect(0)
    fork = Rank(lambda: client.acquire("forks", time.time() + 1))
    fork.end()
    client.acquire("ranks", time.time() + 2)
    clock.advance(3)
    (expiry,) = read(table, 0)
    assert (expiry.scope, expiry.pid) == ("ranks", os.getpid())
    fork.close()


def test_disarming_forgets_what_was_sent_too(table: TimerTable, connect: Connect, clock: Near) -> None:
    """Read or not."""
    client = connect(0)
    client.acquire("read", time.time() + 1)
    table.read(0)
    client.acquire("unread", time.time() + 1)
    table.disarm(0)
    clock.advance(2)
    assert read(table, 0) == []


def test_disarming_an_unknown_rank_does_nothing(table: TimerTable) -> None:
    table.disarm(7)
    table.detach(7)


def test_the_end_of_a_rank_is_seen(table: TimerTable, connect: Connect) -> None:
    """When nobody holds its end of the channel; detaching forgets its timers."""
    ours, theirs = open_channel()
    table.attach(0, ours)
    PipeTimerClient(theirs).acquire("scope", time.time() + 60)
    assert table.read(0)
    os.close(theirs)
    assert not table.read(0)
    table.detach(0)
    assert (table.channels(), table.next_deadline()) == ({}, math.inf)


def test_attaching_again_replaces_the_channel(table: TimerTable, connect: Connect) -> None:
    """The former one is closed."""
    connect(0)
    before = len(os.listdir("/proc/self/fd"))
    connect(0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert list(table.channels().values()) == [0]


@pytest.mark.parametrize("data", [b"x", b"text" * 20, b"\0" * 200, b"pet1", b"pet1" + b"\xff" * 100])
def test_garbage_is_logged_and_skipped(
    table: TimerTable, connect: Connect, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows counts."""
    client = connect(3)
    os.write(client._descriptor, data)
    client.acquire("scope", time.time() + 60)
    assert table.read(3)
    assert len(table._timers) == 1
    assert "rank 3 sent no timer request" in caplog.text


@pytest.mark.parametrize("scope", ["größe ☃", "\ud800", "", "a\nb", "\0"])
def test_any_scope_arrives_unchanged(table: TimerTable, connect: Connect, clock: Near, scope: str) -> None:
    connect(0).acquire(scope, time.time())
    clock.advance(1)
    assert scopes(read(table, 0)) == [(0, scope)]


def test_a_scope_that_is_too_long_is_refused(table: TimerTable, connect: Connect) -> None:
    """And nothing is sent."""
    with pytest.raises(RuntimeError, match="4096 bytes"):
        connect(0).acquire("x" * 4096, time.time())
    table.read(0)
    assert len(table._timers) == 0


def test_an_infinite_span_never_expires(table: TimerTable, connect: Connect, clock: Near) -> None:
    """Though it is armed."""
    connect(0).acquire("scope", math.inf)
    clock.advance(1e9)
    assert read(table, 0) == []
    assert (len(table._timers), table.next_deadline()) == (1, math.inf)


def test_a_span_that_is_over_expires_at_once(table: TimerTable, connect: Connect, clock: Near) -> None:
    """Its span is none."""
    connect(0).acquire("scope", time.time() - 10)
    (expiry,) = read(table, 0)
    assert expiry.span == 0.0


def test_timers_stand_still_while_paused(table: TimerTable, connect: Connect, clock: Near) -> None:
    """And go on with the rest of their spans."""
    connect(0).acquire("scope", time.time() + 10)
    table.read(0)
    clock.advance(4)
    table.pause()
    clock.advance(100)
    table.pause()
    assert (table.expired(), table.next_deadline()) == ([], math.inf)
    table.resume()
    table.resume()
    clock.advance(5.5)
    assert table.expired() == []
    clock.advance(1)
    assert scopes(table.expired()) == [(0, "scope")]


def test_a_timer_of_a_paused_time_has_its_whole_span(
    table: TimerTable, connect: Connect, clock: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still from its acquire on."""
    client = connect(0)
    table.pause()
    clock.advance(100)
    monkeypatch.setattr(api, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr("pytest_elastic.timer._rank_timers.SYSTEM_CLOCK", clock)
    client.acquire("scope", clock.time() + 10)
    table.read(0)
    clock.advance(50)
    table.resume()
    clock.advance(9.9)
    assert table.expired() == []
    clock.advance(0.2)
    assert scopes(table.expired()) == [(0, "scope")]


def test_an_infinite_timer_survives_a_pause(table: TimerTable, connect: Connect, clock: Near) -> None:
    connect(0).acquire("scope", math.inf)
    table.read(0)
    table.pause()
    clock.advance(5)
    table.resume()
    assert table.next_deadline() == math.inf
    assert len(table._timers) == 1


def test_no_request_is_lost(table: TimerTable) -> None:
    """8 ranks, as fast as they can; each leaves one timer armed for each pair that it released."""
    pairs = 100
    go, begin = os.pipe()
    ranks = []

    def body(client: PipeTimerClient, hold: int) -> None:
        for number in range(pairs):
            with expires(60, client=client):
                client.acquire(str(number), time.time() + 60)
        os.close(begin)
        os.read(hold, 1)

    for number in range(8):
        ours, theirs = open_channel()
        ranks.append(Rank(lambda theirs=theirs: body(PipeTimerClient(theirs), go)))  # type: ignore[misc]
        table.attach(number, ours)
        os.close(theirs)
    deadline = time.monotonic() + 20
    while len(table._timers) < 8 * pairs or any(
        timer.key.scope.startswith("/") for timer in table._timers.armed()
    ):
        assert time.monotonic() < deadline
        for number in range(8):
            table.read(number)
    os.close(begin)
    for rank in ranks:
        assert rank.end()[0] == 0
        rank.close()
    os.close(go)


def test_after_a_stall_a_rank_that_goes_on_lives(table: TimerTable, connect: Connect, clock: Near) -> None:
    """As long as the stall was: who was not run could not release."""
    client = connect(0)
    client.acquire("scope", time.time() + 1)
    table.read(0)
    clock.now = table.next_deadline() + 0.3
    assert table.expired() == []
    assert table.next_deadline() == clock.now + 0.3
    clock.advance(0.1)
    client.release("scope")
    assert read(table, 0) == []
    assert table.next_deadline() == math.inf


def test_a_stall_has_one_grace(table: TimerTable, connect: Connect, clock: Near) -> None:
    """However late the table is asked after it."""
    connect(0).acquire("scope", time.time() + 1)
    table.read(0)
    clock.now = table.next_deadline() + 100
    assert table.expired() == []
    assert table.next_deadline() == clock.now + 0.5
    clock.now = table.next_deadline() + 100
    assert scopes(table.expired()) == [(0, "scope")]


def test_a_stall_in_a_later_timer_has_its_own_grace(table: TimerTable, connect: Connect, clock: Near) -> None:
    client = connect(0)
    for span in (60, 120):
        client.acquire("scope", time.time() + span)
        table.read(0)
        clock.now = table.next_deadline() + 0.1
        assert table.expired() == []
        client.release("scope")
        assert read(table, 0) == []


def test_a_timer_that_is_past_when_it_comes_has_no_grace(
    table: TimerTable, connect: Connect, clock: Near
) -> None:
    clock.advance(5)
    connect(0).acquire("scope", time.time() + 1)
    table.read(0)
    assert table.next_deadline() == clock.now
    assert scopes(table.expired()) == [(0, "scope")]
