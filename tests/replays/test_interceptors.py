"""Interceptors: what faults signal, keep, delay and lose, and when; what jitter delays."""

from __future__ import annotations

import math
import signal

import pytest

from pytest_elastic.faults import delay, drop, exit, kill, late_join, resume, server_gone, stop
from pytest_elastic.replays._interceptors import FaultInterceptor, JitterInterceptor
from pytest_elastic.store import OpenGate

K, S, C = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@pytest.fixture
def faulty(rig):
    """A rig with a plan; its signals in `.sent`, lines to be found in `.lines`."""

    def make(plan):
        rig.sent, rig.lines = [], []

        def lines():
            found, rig.lines = rig.lines, []
            return found

        rig.stage = rig.use(FaultInterceptor(plan, lambda *what: rig.sent.append(what), lines, OpenGate()))
        return rig

    return make


def test_a_killed_ranks_request_has_no_effect(faulty):
    """It has no effect; the ones before it had."""
    rig = faulty(kill(rank=1, op=2))
    rig.ask(1, "set", "a", b"1")
    rig.ask(1, "set", "b", b"1")
    assert (rig.sent, rig.state.list_keys(), rig.of(1)) == ([(1, K)], ["a"], ["ok"])


def test_a_rank_is_killed_before_it_joins_a_collective(faulty):
    """It has not come: the others wait."""
    rig = faulty(kill(rank=1, collective="world#1"))
    for number in (0, 1):
        rig.ask(0, "post", f"world#{number}", 2, 0, b"x", b"")
        rig.ask(1, "post", f"world#{number}", 2, 1, b"x", b"")
    assert (rig.sent, rig.of(1)) == ([(1, K)], ["ok"])


def test_a_kill_at_another_ranks_operation(faulty):
    """Who triggers it goes on; what the victim still asks is kept."""
    rig = faulty(kill(rank=1, op=1, of=0))
    rig.ask(0, "set", "a", b"1")
    rig.ask(1, "set", "b", b"1")
    assert (rig.sent, rig.state.list_keys()) == ([(1, K)], ["a"])


def test_an_exit_is_the_answer_to_a_request(faulty):
    """The answer ends the client; a second thread of it, too."""
    rig = faulty(exit(rank=1, code=7, op=2))
    rig.ask(1, "set", "a", b"1")
    rig.ask(1, "set", "b", b"1")
    rig.ask(1, "set", "c", b"1", client=1)
    assert (rig.of(1), rig.state.list_keys(), rig.sent) == (["ok", "exit 7", "exit 7"], ["a"], [])


def test_an_exit_ends_a_wait(faulty):
    """It does not wait any more."""
    rig = faulty(exit(rank=1, code=0, op=1, of=0))
    rig.ask(1, "get", "a")
    rig.ask(0, "set", "a", b"1")
    assert (rig.of(1), rig.of(0), rig.state.waiters()) == (["exit 0"], ["ok"], [])


def test_a_stopped_rank_goes_on_after_its_time(faulty, clock):
    """The request has its effect when the rank goes on."""
    rig = faulty(stop(rank=1, op=1, seconds=2.0))
    rig.ask(1, "set", "a", b"1")
    assert (rig.sent, rig.of(1), rig.stage.due()) == ([(1, S)], [], 102.0)
    rig.stage.tick(clock(1.9))
    assert rig.sent == [(1, S)]
    rig.stage.tick(clock(0.2))
    assert (rig.sent, rig.of(1), rig.stage.due()) == ([(1, S), (1, C)], ["ok"], math.inf)


def test_a_stopped_rank_goes_on_when_another_one_says(faulty):
    """When another rank says."""
    rig = faulty(stop(rank=1, op=1) | resume(rank=1, key="go", of=0))
    rig.ask(1, "set", "a", b"1")
    rig.ask(0, "set", "x", b"1")
    assert rig.of(1) == []
    rig.ask(0, "set", "go", b"1")
    assert (rig.sent, rig.of(1)) == ([(1, S), (1, C)], ["ok"])


def test_a_rank_may_be_killed_while_it_is_stopped(faulty):
    """Its request is never applied."""
    rig = faulty(stop(rank=1, op=1) | kill(rank=1, op=1, of=0) | resume(rank=1, op=2, of=0))
    rig.ask(1, "set", "a", b"1")
    rig.ask(0, "check", ["a"])
    rig.ask(0, "check", ["a"])
    assert (rig.sent, rig.state.list_keys()) == ([(1, S), (1, K), (1, C)], [])


def test_the_longest_delay_counts(faulty, clock):
    """The longest of those that are due at one operation."""
    rig = faulty(delay(rank=0, key="a*", by=0.2) | late_join(rank=0, by=0.5) | delay(rank=1, op=1, by=0.1))
    rig.ask(0, "set", "a1", b"1")
    rig.ask(1, "set", "b", b"1")
    rig.stage.tick(clock(0.1))
    assert (rig.of(0), rig.of(1)) == ([], ["ok"])
    rig.stage.tick(clock(0.4))
    assert rig.of(0) == ["ok"]


def test_a_dropped_write_has_an_answer_and_no_effect(faulty):
    """No effect, and the answer of one that had."""
    rig = faulty(drop(rank=0, op=1))
    rig.ask(0, "set", "a", b"1")
    rig.ask(0, "set", "b", b"1")
    assert (rig.of(0), rig.state.list_keys()) == (["ok", "ok"], ["b"])


def test_the_server_goes_before_the_operation(faulty):
    """The request that triggers it has no effect."""
    rig = faulty(server_gone(op=2))
    rig.ask(0, "set", "a", b"1")
    assert not rig.hung_up
    rig.ask(1, "set", "b", b"1")
    assert (rig.hung_up, rig.state.list_keys()) == (True, ["a"])


@pytest.mark.parametrize(
    ("plan", "after"),
    [(kill(rank=1, line="ready"), [(1, K)]), (server_gone(line="ready", of=1), [])],
)
def test_lines_are_looked_for(faulty, clock, plan, after):
    """Every now and then, until the last one has come."""
    rig = faulty(plan)
    rig.stage.tick(clock(0))
    rig.lines = [(1, "getting ready"), (0, "ready")]
    assert rig.stage.due() < math.inf
    rig.stage.tick(clock(1))
    assert (rig.sent, rig.hung_up, rig.stage.due()) == (after, not after, math.inf)


def test_lines_count_before_the_next_operation(faulty):
    """What a rank wrote before it asks is known then."""
    rig = faulty(kill(rank=1, line="ready"))
    rig.lines = [(1, "ready")]
    rig.ask(1, "set", "a", b"1")
    assert (rig.sent, rig.state.list_keys()) == ([(1, K)], [])


def test_the_launcher_is_no_rank(faulty):
    """Its operations trigger nothing."""
    rig = faulty(server_gone(op=1))
    rig.ask("launcher", "set", "a", b"1")
    assert (rig.of("launcher"), rig.hung_up) == (["ok"], False)


def spans(rig, clock, seed):
    """By how much each of 40 requests of two ranks is late."""
    stage = rig.use(JitterInterceptor(seed, 2, OpenGate()))
    found = []
    for number in range(40):
        rig.notes.clear()
        now = clock(0)
        rig.ask(number % 2, "add", "n", 1)
        found.append(0.0 if rig.notes else round(stage.due() - now, 6))
        stage.tick(clock(1))
        assert (rig.of(number % 2), stage.due()) == (["ok"], math.inf)
    return found


def test_a_seed_is_one_jitter(rig, clock):
    """The same one twice, another one for another seed."""
    one, again, other = (spans(rig, clock, seed) for seed in ("1/0", "1/0", "2/0"))
    assert one == again
    assert one != other


def test_jitter_delays_some_requests(rig, clock):
    """By less than 10 ms, in each of some seeds; in some a rank is always late."""
    found = [spans(rig, clock, seed) for seed in range(20)]
    assert all(0 < max(late) < 0.01 for late in found)
    starved = [late for late in found if min(late[::2]) > 0 or min(late[1::2]) > 0]
    assert 0 < len(starved) < 20
