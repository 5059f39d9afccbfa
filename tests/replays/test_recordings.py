"""Recordings: events, the entries that are a view of them, files, and the order forced again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from gates import Recorder

from pytest_elastic.errors import DivergenceError
from pytest_elastic.events import BarrierJoined, ClientLeft, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.replays import Entry, Recording, load, token_of
from pytest_elastic.replays._recording import RecordedInterceptor
from pytest_elastic.store import OpenGate


def recorded(rig, *history, most=100):
    """The recording of a history: (label, name, arguments...), or a request that times out."""
    stage = rig.use(Recorder(OpenGate(), most))
    requests = {}
    for label, name, *arguments in history:
        if name == "expire":
            rig.expire(requests[label])
        else:
            requests[label] = rig.ask(label, name, *arguments)
    return stage.recording({"nprocs": 2})


HISTORY = [
    (0, "get", "a"),
    (1, "set", "a", b"1"),
    (1, "wait", ["b", "c"]),
    ("launcher", "num_keys"),
    (1, "expire"),
    (0, "set", "c", b"1"),
]
ROWS = [
    (0, "blocked", "get", ("a",)),
    (1, "applied", "set", ("a",)),
    (0, "done", "get", ("a",)),
    (1, "blocked", "wait", ("b", "c")),
    (-1, "applied", "num_keys", ()),
    (1, "timed out", "wait", ("b", "c")),
    (0, "applied", "set", ("c",)),
]


def rows(recording):
    return [(one.rank, one.how, one.name, one.keys) for one in recording.entries]


def test_a_recording_has_everything_in_order(rig):
    """Requests, and the ends of those that waited, in the store's order."""
    assert rows(recorded(rig, *HISTORY)) == ROWS


def test_a_recording_without_its_beginning_is_not_replayed(rig):
    """And it is known how many are not."""
    recording = recorded(rig, *HISTORY, most=5)
    assert (rows(recording), recording.lost) == (ROWS[-4:], 4)
    with pytest.raises(ValueError, match="the first 4 events"):
        RecordedInterceptor(recording, OpenGate())


def test_entries_are_a_view_of_events():
    """What a server tells is the same history; connections are numbered for each rank."""
    events = [
        StoreCalled(5.0, 0, 31, "get", ("a",)),
        WaitBegan(5.1, 0, 31, "get", ("a",), ("a",), 300.0),
        StoreCalled(5.2, 1, 7, "set", ("a",)),
        BarrierJoined(5.2, 1, 7, "b", 2, 1),
        WaitEnded(5.3, 0, 31, "done"),
        StoreCalled(5.4, 1, 8, "wait", ("b", "c")),
        WaitBegan(5.4, 1, 8, "wait", ("b", "c"), ("c",), 1.0),
        StoreCalled(5.5, None, 2, "num_keys", ()),
        WaitEnded(5.6, 1, 8, "jumped"),
        ClientLeft(5.7, 1, 8),
        WaitEnded(5.8, 3, 99, "gone"),
    ]
    assert Recording(tuple(events)).entries == (
        Entry(0, 0, "blocked", "get", ("a",), 0.0, ("a",)),
        Entry(1, 0, "applied", "set", ("a",), 5.2 - 5.0),
        Entry(0, 0, "done", "get", ("a",), 5.3 - 5.0),
        Entry(1, 1, "blocked", "wait", ("b", "c"), 5.4 - 5.0, ("c",)),
        Entry(-1, 0, "applied", "num_keys", (), 5.5 - 5.0),
        Entry(1, 1, "jumped", "wait", ("b", "c"), 5.6 - 5.0),
    )


def test_recordings_can_be_dumped_and_loaded(rig):
    """Any number of recordings in one text."""
    one = recorded(rig, *HISTORY)
    other = Recording((), {"nprocs": 3, "faults": "K1@4"}, 2)
    again = load(one.dump() + other.dump())
    assert again == [one, other]
    assert list(map(rows, again)) == [ROWS, []]


OLD = Path(__file__).with_name("recordings_0_1")


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("counter", "R1.7-6.2-1.tea28x2.pa0988f11"),
        ("leader", "R1.2-4-3.0-1.0-2.t4b10x3.pf08798eb"),
        ("wake_up", "R1.3-3.2-1.tdbb6x2.p7aa4d923"),
    ],
)
def test_a_file_of_version_0_1_is_the_same_recording(name, token):
    """Its rows become events whose entries are those rows, and its token is the one that was printed then."""
    text = (OLD / f"{name}.jsonl").read_text()
    (recording,) = load(text)
    header, *old = map(json.loads, text.splitlines())
    again = [
        [one.rank, one.client, one.how, one.name, list(one.keys), one.at]
        + [list(one.missing)] * bool(one.missing)
        for one in recording.entries
    ]
    assert again == old
    assert recording.header == {name: header[name] for name in header if name not in ("format", "lost")}
    assert load(recording.dump()) == [recording]
    assert token_of([recording]) == token


def test_a_file_of_version_0_1_has_all_groups_and_connections():
    """Two groups, threads, the launcher."""
    first, second = load((OLD / "threads.jsonl").read_text())
    assert [one.party for one in first.entries] == [(1, 0), (0, 0)]
    assert {one.party for one in second.entries} == {(0, 0), (0, 1), (1, 0), (1, 1), (-1, 0)}
    assert token_of([second]) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text is empty"),
        ("x", "line 1: JSONDecodeError"),
        ('{"format":"elastic-recording/3","lost":0}', "line 1: ValueError: the format must be"),
        ('{"lost":0}', "line 1: KeyError"),
        ('[0,0,"applied","set",["a"],0.1]', "line 1: IndexError"),
        ('{"format":"elastic-recording/1","lost":0}\n[0,0,"applied"]', "line 2: ValueError"),
        (
            '{"format":"elastic-recording/1","lost":0}\n[0,0,"boom","set",[],0]',
            "line 2: ValueError: an entry that is 'boom'",
        ),
        ("7", "line 1: TypeError"),
        ('{"format":"elastic-recording/2","lost":0}\n{"event":"Boom"}', "line 2: ValueError: no event"),
        ('{"format":"elastic-recording/2","faults":"Q","lost":0}', "line 1: FaultPlanError"),
    ],
)
def test_a_text_that_is_no_recording_is_one_error(text, problem):
    """One error, with the line."""
    with pytest.raises(ValueError) as caught:
        load(text)
    assert str(caught.value).startswith(f"no recording{', ' if text else ': '}{problem}")


A, B = ("set", "a", b"1"), ("set", "b", b"1")


def replaying(rig, *history):
    """A rig whose order is that of a history."""
    recording = recorded(rig, *history)
    rig.__init__()
    again = Recorder(RecordedInterceptor(recording, OpenGate()))
    rig.use(again)
    return again.following, lambda: rows(again.recording({})), rows(recording)


def test_requests_wait_for_their_turn(rig):
    """Whatever comes first, the order is the recorded one."""
    stage, seen, wanted = replaying(rig, (0, *A), (1, *B), (0, "get", "b"), (1, "get", "a"))
    rig.ask(1, *B)
    assert (seen(), stage.due() < math.inf) == ([], True)
    rig.ask(0, *A)
    rig.ask(1, "get", "a")
    assert len(seen()) == 2
    rig.ask(0, "get", "b")
    assert (seen(), stage.done, stage.due()) == (wanted, 4, math.inf)
    stage.check()


def test_waits_replay_as_they_ended(rig):
    """Blocked where they blocked, timed out when they timed out, without any clock."""
    stage, seen, wanted = replaying(rig, *HISTORY)
    rig.ask(1, *A)
    rig.ask("launcher", "num_keys")
    rig.ask(0, "get", "a")
    rig.ask(0, "set", "c", b"1")
    assert len(seen()) == 3
    waits = rig.ask(1, "wait", ["b", "c"])
    assert waits.timeless
    assert (seen(), rig.of(1)) == (wanted[:-1], ["ok", "timed out"])
    stage.rested(0)
    assert seen() == wanted[:-1]  # First it shows what it makes of it.
    stage.rested(1)
    assert seen() == wanted
    stage.check()


def test_what_comes_after_the_recording_is_free(rig):
    """Held until the recording is over; then the clock counts again."""
    stage, seen, wanted = replaying(rig, (0, "get", "a"), (1, *B))
    waits = rig.ask(0, "get", "a")
    rig.ask(1, *B)
    assert not waits.timeless
    rig.ask(1, *A)
    assert rig.of(0) == ["ok"]


def test_further_requests_wait_for_the_end_of_the_order(rig):
    """Has to wait for the others' turns."""
    stage, seen, wanted = replaying(rig, (0, *A), (1, *B))
    rig.ask(0, *A)
    rig.ask(0, "set", "late", b"1")
    assert len(seen()) == 1
    rig.ask(1, *B)
    assert seen()[:2] == wanted
    assert rig.of(0) == ["ok", "ok"]


def test_threads_are_parties_of_their_own(rig):
    """Connections of one rank have their own sequences."""
    rig.use(stage := Recorder(OpenGate()))
    rig.ask(0, *A)
    rig.ask(0, *B, client=1)
    recording = stage.recording({})
    rig.__init__()
    stage = rig.use(Recorder(RecordedInterceptor(recording, OpenGate())))
    rig.ask(0, *B, client=1)
    rig.ask(0, *A)
    assert rows(stage.recording({})) == rows(recording)
    assert [one.party for one in recording.entries] == [(0, 0), (0, 1)]


def diverged(stage, rig, label, expected, came):
    """The divergence, as that label saw it and as the check says."""
    (text,) = [note for note in rig.of(label) if note.startswith("the replay diverged")]
    assert f"expected {expected}" in text
    assert text.endswith(came)
    with pytest.raises(DivergenceError) as caught:
        stage.check()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (("get", "b"), "get('b')"),
        (A, "set('a')"),
        (("multi_set", ["b", "c"], [b"1", b"1"]), "multi_set('b', 'c')"),
    ],
)
def test_another_operation_is_a_divergence(rig, other, shown):
    """Raised where it happens, before its turn; and in all that is held."""
    stage, _, _ = replaying(rig, (0, *A), (1, *B), (2, *B))
    rig.ask(2, *B)
    rig.ask(1, *other)
    diverged(stage, rig, 1, "rank 1: set('b')", f"came     rank 1: {shown}")
    assert rig.of(2)[0].startswith(
        "held for a replay that another rank has ended: the replay diverged at step 1"
    )
    rig.ask(0, *A)
    assert rig.of(0)[0].startswith("held for a replay that another rank has ended")


def test_a_new_wait_is_a_divergence(rig):
    """The write before it had no effect this time."""
    stage, _, _ = replaying(rig, (0, *A), (1, "get", "a"))
    rig.state.set = lambda *arguments: None
    rig.ask(0, *A)
    rig.ask(1, "get", "a")
    diverged(stage, rig, 1, "rank 1: get('a')", "came, and has to wait this time")


def test_a_missing_wait_is_a_divergence(rig):
    """A key is there that was not."""
    stage, _, _ = replaying(rig, (1, "get", "a"), (0, *A))
    rig.state.set("a", b"0")
    rig.ask(1, "get", "a")
    with pytest.raises(DivergenceError, match="does not wait this time"):
        stage.check()


def test_a_wait_that_goes_on_is_a_divergence(rig):
    """A wait that had ended when recorded does not; nobody is kept waiting for it."""
    stage, _, _ = replaying(rig, (1, "get", "a"), (0, *A), (1, *B), (0, *B))
    rig.ask(1, "get", "a")
    rig.state.set = lambda *arguments: None  # A store that loses it.
    rig.ask(0, *A)
    diverged(stage, rig, 1, "rank 1: set('b')", "still waits in get('a')")


def test_a_rank_that_has_ended_is_a_divergence(rig):
    """Its turn will never come."""
    stage, _, _ = replaying(rig, (1, *A), (0, *B))
    stage.left(1)
    with pytest.raises(DivergenceError, match="ended after 0 of 2 steps; the next one: rank 1: set"):
        stage.check()
    rig.ask(0, *B)
    stage.left(1)
    diverged(stage, rig, 0, "rank 1: set('a')", "has ended")


def test_a_rank_that_does_not_come_is_a_divergence(rig, clock):
    """After ten times what it took, and some."""
    recording = Recording(
        (
            StoreCalled(7.0, 0, 0, "set", ("c",)),
            StoreCalled(12.0, 1, 1, "set", ("a",)),
            StoreCalled(12.1, 0, 0, "set", ("b",)),
        )
    )
    stage = rig.use(RecordedInterceptor(recording, OpenGate(), patience=3.0))
    rig.ask(0, "set", "c", b"1")
    assert stage.due() == math.inf  # Nobody is kept waiting.
    rig.ask(0, *B)
    assert stage.due() == 153.0
    stage.tick(clock(52))
    assert rig.of(0) == ["ok"]
    stage.tick(clock(2))
    diverged(stage, rig, 0, "rank 1: set('a')", "did not come for 54.0 s")


def test_a_request_of_a_killed_rank_is_forgotten(rig):
    """Its request is forgotten."""
    stage, _, _ = replaying(rig, (0, *A), (1, *B))
    request = rig.ask(1, *B)
    stage.ended(request, "gone")
    rig.ask(0, *A)
    assert rig.of(1) == []


def test_the_others_go_on_after_a_rank_that_timed_out_and_does_nothing(rig, clock):
    """The others go on after a second."""
    stage, seen, wanted = replaying(rig, (0, "get", "x"), (0, "expire"), (1, *A))
    rig.ask(1, *A)
    rig.ask(0, "get", "x")
    assert seen() == wanted[:-1]
    rig.gate.tick(clock(2))
    assert (seen(), rig.gate.due()) == (wanted, math.inf)


def test_a_hang_is_left_to_be_seen(rig, clock):
    """A wait that was ended since nothing else could be, has its deadline back, for a while."""
    recording = Recording(
        (
            StoreCalled(0.0, 0, 0, "get", ("x",)),
            WaitBegan(0.0, 0, 0, "get", ("x",), ("x",), 300.0),
            WaitEnded(0.1, 0, 0, "jumped"),
        )
    )
    for by_itself in (True, False):
        rig.__init__()
        stage = rig.use(RecordedInterceptor(recording, OpenGate()))
        waits = rig.ask(0, "get", "x")
        assert (waits.timeless, rig.of(0), stage.done) == (False, [], 1)
        if by_itself:
            rig._end(waits, "jumped", "jumped")
        stage.tick(clock(2))
        assert (rig.of(0), stage.done) == (["jumped" if by_itself else "timed out"], 2)
        stage.check()
