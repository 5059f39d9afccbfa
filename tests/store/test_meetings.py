"""Meetings: members give and take; who differs is told at once; open receives get the first message."""

from __future__ import annotations

import json
import pickle
import threading

import pytest

from pytest_elastic.errors import CollectiveMismatch, DistStoreError
from pytest_elastic.events import CollectiveJoined, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.store import HashStore, StoreServer, StoreState, Waiter
from pytest_elastic.store._meetings import difference


def call(signature: str = "barrier\t\t\t\t", members: tuple[int, ...] = (0, 1, 2), **detail: object) -> bytes:
    detail = {
        "members": members,
        "operation": signature.split("\t")[0],
        "text": signature.replace("\t", " "),
        **detail,
    }
    return f"{signature}\n{json.dumps(detail)}".encode()


SUM, MAX = "all_reduce\t\tSUM\tfloat32\t4", "all_reduce\t\tMAX\tfloat32\t4"


@pytest.fixture(params=["level", "latched"])
def state(request: pytest.FixtureRequest) -> StoreState:
    return StoreState(wake=request.param)


def test_members_get_what_they_need(state: StoreState) -> None:
    """Each gets call and value of those it needs, in that order; the last one takes the meeting away."""
    first = state.meet("w#0", 3, 0, (2, 1), call(), b"a")
    assert isinstance(first, Waiter)
    assert state.missing(first) == ("w#0/2", "w#0/1")
    state.post("w#0", 3, 1, call(), b"b")
    assert state.missing(first) == ("w#0/2",)
    assert state.meet("w#0", 3, 2, (), call(), b"c") == []
    assert state.woken == [first]
    assert state.resume(first)
    assert first.result == [call(), b"c", call(), b"b"]
    assert state.meet("w#0", 3, -1, (0,), b"", b"") == [call(), b"a"]
    assert state.meeting_call("w#0") == b""  # It is over.


def test_equal_calls_without_values_come_as_one_or_not_at_all(state: StoreState) -> None:
    """On the wire: one's own call does not come back; a handle gives each member's."""
    for place in range(3):
        state.post("w#0", 4, place, call(), b"")
    assert state.meet("w#0", 4, -1, (0, 1), b"", b"") == [call()]
    assert state.meet("w#0", 4, 3, (0, 1), call(), b"") == []
    first = state.meet("w#1", 2, 0, (1,), call(place="t.py:1"), b"")
    assert state.meet("w#1", 2, 1, (0,), call(place="t.py:2"), b"") == [call(place="t.py:1"), b""]
    assert isinstance(first, Waiter)
    assert first.result == [call(place="t.py:2"), b""]
    first = state.meet("w#2", 2, 0, (1,), call(), b"")
    state.post("w#2", 2, 1, call(), b"")
    assert isinstance(first, Waiter)
    assert first.result == []
    store = HashStore()
    for place in (0, 1):
        store.post("w#0", 3, place, call(), b"")
    assert store.meet("w#0", 3, 2, (0, 1), (call(), b"")) == [call(), b""] * 2
    for place, given in enumerate([b"", b"", b"v"]):
        store.post("w#1", 4, place, call(), given)
    assert store.meet("w#1", 4, 3, (0, 1), (call(), b"")) == [call(), b"", call(), b""]
    assert store.meet("w#1", 4, -1, (1, 2)) == [call(), b"", call(), b"v"]


def test_keys_and_meetings_do_not_see_each_other(state: StoreState) -> None:
    """A meeting is no key, and a key of that name completes no meeting."""
    waiter = state.meet("w#0", 2, 0, (1,), call(), b"")
    assert state.num_keys() == 0
    assert not state.check(["w#0/0"])
    state.set("w#0/1", b"")
    assert not state.woken
    assert state.waiters() == [waiter]
    state.abandon(waiter)  # type: ignore[arg-type]
    assert state.waiters() == []


def test_a_mismatch_is_known_at_the_second_call_that_differs(state: StoreState) -> None:
    """Who waits, who calls and who comes later are told, each with what is known then."""
    waiter = state.meet("w#7", 3, 0, (1, 2), call(SUM, place="t.py:1"), b"")
    with pytest.raises(CollectiveMismatch) as caught:
        state.post("w#7", 3, 1, call(MAX), b"")
    assert (caught.value.group, caught.value.number, caught.value.difference) == ("w", 7, "reduction")
    assert caught.value.ranks == [0, 1]
    assert caught.value.calls[0] == "all_reduce  SUM float32 4 at t.py:1"
    assert isinstance(waiter, Waiter)
    assert isinstance(waiter.result, CollectiveMismatch)
    with pytest.raises(CollectiveMismatch, match="rank 1: ") as late:
        state.meet("w#7", 3, 2, (0, 1), call(SUM), b"")
    assert late.value.ranks == [1]
    again = pickle.loads(pickle.dumps(late.value))
    assert (str(again), vars(again)) == (str(late.value), vars(late.value))
    assert state.meeting_call("w#7") == b""


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (SUM, "barrier\t\t\t\t", "operation"),
        ("broadcast\t0\t\tint64\t4", "broadcast\t1\t\tint64\t4", "root"),
        (SUM, MAX, "reduction"),
        (SUM, SUM.replace("32", "64"), "dtype"),
        (SUM, SUM.replace("\t4", "\t8"), "size"),
        ("x", "y", "operation"),
        ("x", "x\n", "operation"),
    ],
)
def test_the_first_field_that_differs(one: str, other: str, name: str) -> None:
    assert difference([one.encode(), other.encode()]) == name


@pytest.mark.parametrize("place", [-2, 3, 0])
def test_a_place_that_is_taken_or_not_there(state: StoreState, place: int) -> None:
    """One error, and nothing has changed."""
    state.post("w#0", 3, 0, call(), b"")
    with pytest.raises(ValueError, match=f"there is no place {place} of 3, or it is taken"):
        state.post("w#0", 3, place, call(), b"")


def test_nobody_takes_from_a_meeting_that_is_not_there(state: StoreState) -> None:
    with pytest.raises(ValueError, match="nobody has come"):
        state.meet("w#0", 2, -1, (1,), b"", b"")


def test_an_open_receive_gets_the_first_message(state: StoreState) -> None:
    """That of the right destination and tag which nobody receives yet."""
    state.post("w:0>2,0#0", 2, 0, call(members=(0, 2)), b"received")
    assert state.meet("w:0>2,0#0", 2, 1, (0,), call(members=(0, 2)), b"")[1] == b"received"
    state.post("w:0>2,1#0", 2, 0, call(members=(0, 2)), b"another tag")
    sender = state.meet("w:1>2,0#0", 2, 0, (1,), call(members=(1, 2)), b"first")
    state.post("w:0>2,0#1", 2, 0, call(members=(0, 2)), b"second")
    state.post("w:*>2,0#0", 2, 1, call(members=(-1, 2)), b"")
    assert state.woken == [sender]
    assert state.meet("w:*>2,0#0", 2, -1, (0,), b"", b"") == [call(members=(1, 2)), b"first"]


def test_a_message_is_bound_to_the_receive_that_is_open(state: StoreState) -> None:
    """The receiver came first; it is done when a message comes, and so is the message."""
    receiver = state.meet("w:*>0,5#0", 2, 1, (0,), call(members=(-1, 0)), b"")
    assert state.meet("w:3>0,5#0", 2, 0, (1,), call(members=(3, 0)), b"m") == [call(members=(-1, 0)), b""]
    assert state.woken == [receiver]
    assert receiver.result == [call(members=(3, 0)), b"m"]  # type: ignore[union-attr]
    assert not state.waiters()


def test_a_message_of_another_type_fails_both_ends(state: StoreState) -> None:
    receiver = state.meet("w:*>0,5#0", 2, 1, (0,), call("message\t\t\tint64\t1", (-1, 0)), b"")
    with pytest.raises(CollectiveMismatch, match="another dtype"):
        state.meet("w:3>0,5#0", 2, 0, (1,), call("message\t\t\tint32\t1", (3, 0)), b"")
    assert isinstance(receiver.result, CollectiveMismatch)  # type: ignore[union-attr]


def test_threads_meet() -> None:
    """Over a store for threads: the answer, the mismatch, the timeout that names who is missing."""
    store, answers = HashStore(), {}

    def member(place: int) -> None:
        answers[place] = store.clone().meet("w#0", 2, place, (1 - place,), (call(), bytes([place])))

    threads = [threading.Thread(target=member, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {0: [call(), b"\1"], 1: [call(), b"\0"]}
    with pytest.raises(DistStoreError) as caught:
        store.meet("w#1", 3, 0, (1, 2), (call(), b""), timeout=0.01)
    assert caught.value.keys == ("w#1/1", "w#1/2")
    with pytest.raises(CollectiveMismatch):
        store.meet("w#1", 3, 1, (0,), (call(SUM), b""))


def test_events_of_a_served_meeting() -> None:
    """Who joins, who waits for whom, and what others are asked of a mismatch."""
    seen: list[object] = []
    with StoreServer(sink=seen.append) as server:
        one, other = server.store(label=0), server.store(label=1)
        thread = threading.Thread(target=lambda: one.meet("w#3", 2, 0, (1,), (call(members=(0, 1)), b"x")))
        thread.start()
        while not any(isinstance(event, WaitBegan) for event in seen):
            thread.join(0.01)
        other.meet("w#3", 2, 1, (), (call(members=(0, 1), shape="[4]"), b"y"))
        thread.join()
        with pytest.raises(CollectiveMismatch, match="another reduction"):
            other.post("w#4", 2, 0, call(SUM), b"")
            other.post("w#4", 2, 1, call(MAX), b"")
        one.close()
        other.close()
    first, second, *_ = [event for event in seen if isinstance(event, CollectiveJoined)]
    assert (first.rank, first.group, first.number, first.members, first.index) == (0, "w", 3, (0, 1), 0)
    assert (second.rank, second.shape, second.signature) == (1, "[4]", "barrier\t\t\t\t")
    (wait,) = [event for event in seen if isinstance(event, WaitBegan)]
    assert (wait.keys, wait.missing, wait.writers) == (("w#3/1",), ("w#3/1",), (1,))
    assert [event.how for event in seen if isinstance(event, WaitEnded)] == ["done"]
    assert [event.keys for event in seen if isinstance(event, StoreCalled)][:2] == [("w#3/0",), ("w#3/1",)]
