"""The watch over a plan, and the answers of lost writes."""

from __future__ import annotations

import pytest

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.faults import (
    WRITES,
    FaultPlan,
    Watch,
    delay,
    drop,
    exit,
    kill,
    late_join,
    lost_answer,
    resume,
    server_gone,
    stop,
)
from pytest_elastic.store import StoreState


def fired(plan, history):
    """The steps (from 1) of a history at which faults of the plan fire, with their texts."""
    watch = Watch(plan)
    found = []
    for step, (rank, *what) in enumerate(history, 1):
        due = watch.called(rank, *what) if len(what) == 2 else watch.wrote(rank, *what)
        found += [(step, str(fault)) for fault in due]
    return found


SETS = [
    (0, "set", ["a1"]),
    (1, "set", ["b"]),
    (0, "get", ["b"]),
    (1, "wait", ["a1", "a2"]),
    (0, "set", ["a2"]),
]


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (kill(rank=0, op=2), [3]),
        (kill(rank=1, op=3), []),
        (kill(rank=1, op=2, of=0), [3]),
        (exit(rank=0, code=1, key="a*"), [1]),
        (kill(rank=0, key="a*", nth=2), [5]),
        (kill(rank=1, key="a2"), [4]),
        (delay(rank=1, op=1, by=1), [2]),
        (late_join(rank=1, by=1), [2]),
        (server_gone(op=4), [4]),
        (server_gone(op=3, of=0), [5]),
        (server_gone(key="b", nth=2), [3]),
        (drop(rank=0, key="*", nth=2), [5]),
        (drop(rank=0, op=2), []),
        (stop(rank=0, op=1) | resume(rank=0, op=2, of=1), [1, 4]),
        (resume(rank=0, key="b", of=1) | resume(rank=0, key="a?", of=1) | stop(rank=0, op=2), [3, 4]),
        (kill(rank=0, op=1) | kill(rank=0, op=1), [1, 1]),
    ],
)
def test_when_faults_fire(plan, steps):
    """At the operation that the trigger names, once."""
    assert [step for step, _ in fired(plan, SETS)] == steps


@pytest.mark.parametrize(
    ("arrival", "prefix"),
    [
        (("add", ["epoch3/num_members"]), "epoch3"),
        (("arrive", ["world/barrier/epoch3/1/num_members"]), "epoch3"),
        (("barrier", ["epoch3"]), "epoch3"),
        (("barrier", ["epoch3"]), "epoch?"),
    ],
)
def test_every_arrival_at_a_barrier_is_a_trigger(arrival, prefix):
    """Every way to arrive at a barrier is one, by its prefix or by the name given to `world.barrier`."""
    history = [(0, "set", ["epoch3"]), (0, "wait", ["epoch3/last_member"]), (0, *arrival)]
    assert fired(kill(rank=0, barrier=prefix), history) == [(3, str(kill(rank=0, barrier=prefix)))]


def test_another_barrier_is_none():
    """Nothing fires at it."""
    assert fired(kill(rank=0, barrier="epoch3"), [(0, "barrier", ["epoch33"])]) == []


@pytest.mark.parametrize(("name", "step"), [("1[0,2]#3", 4), ("*#3", 4), ("1[[]0,2]#*", 1)])
def test_every_call_of_a_group_is_a_trigger(name, step):
    """By its name or a pattern, whether it waits or not; a step of it, and the wait for it, are none."""
    calls = [("post", ["1[0,2]#2/0"]), ("meet", ["1[0,2]#3/2/0"]), ("meet", []), ("meet", ["1[0,2]#3/0"])]
    found = fired(kill(rank=0, collective=name), [(0, *call) for call in calls])
    assert [number for number, _ in found] == [step]


def test_lines_of_output_are_triggers():
    """A part of a line of the rank's output, by number."""
    history = [(0, "step 1"), (1, "step 2"), (0, "  step 2 of 3"), (0, "step 2 again")]
    assert [step for step, _ in fired(kill(rank=0, line="step 2"), history)] == [3]
    assert [step for step, _ in fired(kill(rank=0, line="step", nth=3), history)] == [4]


def test_faults_move_from_pending_to_fired():
    """Faults move from one to the other, in order."""
    plan = kill(rank=0, op=2) | delay(rank=0, op=1, by=1)
    watch = Watch(plan)
    watch.called(0, "set", ["a"])
    assert (list(map(str, watch.fired)), list(map(str, watch.pending))) == (["D0@1=1s"], ["K0@2"])


def test_a_plan_that_fired_is_no_error():
    """So is the empty one."""
    watch = Watch(kill(rank=0, op=1))
    watch.called(0, "set", ["a"])
    watch.check()
    Watch(FaultPlan()).check()


@pytest.mark.parametrize(
    ("plan", "story"),
    [
        (
            kill(rank=1, op=9),
            "kill(rank=1, op=9) never fired: rank 1 did 2 operations, the last one wait('a1', 'a2')",
        ),
        (kill(rank=2, op=1), "rank 2 did 0 operations"),
        (kill(rank=0, key="c*"), "rank 0 did 3 operations, 0 of 1 matches among the keys 'a1', 'b', 'a2'"),
        (kill(rank=0, key="a*", nth=3), "2 of 3 matches among the keys"),
        (kill(rank=0, barrier="x"), "0 of 1 matches among the barriers (none)"),
        (kill(rank=0, collective="x"), "0 of 1 matches among the collectives (none)"),
        (kill(rank=0, line="x"), "rank 0 did 3 operations and wrote 0 lines, 0 of 1 matches"),
        (drop(rank=0, op=2), "operation 2 of rank 0 writes nothing that could be dropped"),
        (server_gone(op=9), "the ranks did 5 operations"),
    ],
)
def test_what_never_fired_is_an_error(plan, story):
    """It says which trigger, and what was seen."""
    watch = Watch(plan)
    for step in SETS:
        watch.called(*step)
    with pytest.raises(UnfiredFaultError) as caught:
        watch.check()
    assert story in str(caught.value)
    assert [fault for fault, _ in caught.value.unfired] == [repr(plan)]


LOST = [
    ("set", "a", b"9"),
    ("add", "a", 5),
    ("add", "new", 5),
    ("arrive", "a", 1),
    ("compare_set", "a", b"1", b"2"),
    ("compare_set", "a", b"7", b"2"),
    ("compare_set", "new", b"", b"2"),
    ("delete_key", "a"),
    ("delete_key", "new"),
    ("append", "a", b"x"),
    ("multi_set", ["a", "b"], [b"1", b"2"]),
    ("queue_push", "q", b"1"),
    ("barrier", "a", 1),
]


def a_state():
    state = StoreState()
    state.set("a", b"1")
    state.queue_push("q", b"0")
    return state


def contents(state):
    return {key: state.get(key) for key in state.list_keys()}, state.queue_len("q"), len(state.waiters())


@pytest.mark.parametrize("operation", LOST, ids=str)
def test_a_lost_write_has_its_answer_and_no_effect(operation):
    """The caller hears what it would hear, and the state does not change."""
    state, other = a_state(), a_state()
    before = contents(state)
    answer = lost_answer(state, operation)
    assert contents(state) == before
    assert answer == other.apply(operation)


def test_every_write_is_among_the_cases():
    """No write is forgotten in the cases."""
    assert {name for name, *_ in LOST} == WRITES


def test_a_lost_write_fails_as_it_would():
    """An `add` to what is no number fails as it would."""
    state = StoreState()
    state.set("a", b"x")
    with pytest.raises(ValueError, match="no number"):
        lost_answer(state, ("add", "a", 1))
