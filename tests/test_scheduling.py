"""The order of alternatives, and schedules as delays from the default."""

from __future__ import annotations

import pytest
from simulator.programs import count_by_hand, exchange

from pytest_elastic.scheduling import (
    DefaultScheduler,
    FollowingScheduler,
    default_choice,
    delays_of,
    keys_of,
    ring_order,
)
from pytest_elastic.simulator import Decision, Setting, Simulation, SparseScheduler, Step

CALLS = [Step(rank, "call", "set", (f"k{rank}", b"")) for rank in range(4)]
EXPIRE = Step(1, "expire", "wait", (("k",),))


@pytest.mark.parametrize(
    ("steps", "last", "order"),
    [
        (CALLS, -1, [0, 1, 2, 3]),
        (CALLS, 2, [2, 3, 0, 1]),
        ([CALLS[0], CALLS[3]], 2, [1, 0]),
        ([CALLS[0], CALLS[1]], 3, [0, 1]),
        ([CALLS[0], CALLS[2], EXPIRE], 1, [1, 0, 2]),
        ([EXPIRE], 3, [0]),
        ([EXPIRE, EXPIRE._replace(rank=2)], 2, [0, 1]),
    ],
)
def test_the_ring(steps, last, order):
    """The rank that ran last comes first, then the ring, then time."""
    assert ring_order(steps, last) == order
    assert default_choice(steps, last) == order[0]


def choices(scheduler, count=6):
    """What it chooses where ranks 0 to 2 can always go on."""
    chosen, last = [], -1
    for number in range(count):
        last = scheduler.choose(Decision(CALLS[:3], last, number))
        chosen.append(last)
    return chosen


@pytest.mark.parametrize(
    ("delays", "chosen"),
    [
        ((), [0, 0, 0, 0, 0, 0]),
        (((0, 1),), [1, 1, 1, 1, 1, 1]),
        (((1, 1),), [0, 1, 1, 1, 1, 1]),
        (((2, 2),), [0, 0, 2, 2, 2, 2]),
        (((1, 1), (0, 1), (1, 1)), [0, 1, 2, 2, 0, 0]),
        (((1, 3),), [0, 0, 0, 0, 0, 0]),
        (((1, 5),), [0, 2, 2, 2, 2, 2]),
    ],
)
def test_delays(delays, chosen):
    """After `gap` decisions the `shift`-th alternative is taken, round and round."""
    assert choices(SparseScheduler(delays)) == chosen


def test_where_there_is_one_step_nothing_is_counted():
    """A delay waits for a decision that has an alternative."""
    scheduler = SparseScheduler([(1, 1)])
    assert scheduler.choose(Decision(CALLS[:2], -1, 0)) == 0
    assert scheduler.choose(Decision(CALLS[:1], 0, 1)) == 0
    assert scheduler.choose(Decision(CALLS[:2], 0, 1)) == 1


@pytest.mark.parametrize("delays", [(), ((1, 1),), ((0, 2), (3, 1)), ((0, 1), (0, 1), (0, 1))])
@pytest.mark.parametrize("function", [exchange, count_by_hand])
def test_delays_of_an_execution_lead_there_again(delays, function):
    """What a run took from its schedule is the schedule that gives the same run."""
    with Simulation(function, Setting(3)) as simulation:
        once = simulation.run(SparseScheduler(delays))
        again = simulation.run(SparseScheduler(once.delays))
        followed = simulation.run(FollowingScheduler([(step.rank, step.kind) for step in once.steps]))
    assert once.steps == again.steps == followed.steps
    assert once.delays == again.delays == followed.delays


def test_delays_of_the_default_are_none():
    """The default schedule is the empty one."""
    with Simulation(exchange, Setting(4)) as simulation:
        assert simulation.run(DefaultScheduler()).delays == ()
    assert delays_of([(CALLS[:2], 0), (CALLS[:2], 0), (CALLS[:2], 1)]) == ((2, 1),)


def test_following_and_then_the_default():
    """After the sequence the default goes on."""
    with Simulation(exchange, Setting(2)) as simulation:
        execution = simulation.run(FollowingScheduler([(1, "call"), (0, "call")]))
    assert execution.delays == ((0, 1), (0, 1))
    assert execution.verdict is None


def test_following_what_cannot_happen():
    """A sequence that the program does not have is an error, not another execution."""
    with Simulation(exchange, Setting(2)) as simulation:
        with pytest.raises(LookupError, match=r"\(1, 'resume'\) is not enabled"):
            simulation.run(FollowingScheduler([(1, "resume")]))
        assert simulation.run(DefaultScheduler()).verdict is None


@pytest.mark.parametrize(
    ("name", "arguments", "keys"),
    [
        ("set", ("k", b"v"), ("k",)),
        ("wait", (("a", "b"),), ("a", "b")),
        ("multi_set", (("a",), (b"",)), ("a",)),
        ("barrier", ("b", 3), ("b/num_members", "b/last_member")),
        ("num_keys", (), None),
        ("list_keys", (), None),
        ("sleep", (1.0,), ()),
        ("acquire", ("scope", 5.0), ()),
    ],
)
def test_keys(name, arguments, keys):
    """What an operation touches."""
    assert keys_of(name, arguments) == keys
    assert Step(0, "call", name, arguments).keys == keys


def test_steps_read_well():
    """A step says who does what, and long values are cut."""
    assert str(Step(2, "call", "set", ("k", b"v"))) == "rank 2: set('k', b'v')"
    assert str(Step(1, "resume", "wait", (("k",),))) == "rank 1: resume of wait(['k'])"
    assert str(Step(1, "sleep", "sleep", (1.0,))) == "rank 1: sleep(1.0)"
    assert len(str(Step(2, "call", "set", ("k", b"v" * 1000)))) < 70
