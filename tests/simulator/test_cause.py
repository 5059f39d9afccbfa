"""The cause of a failed execution is that of the report on real ranks."""

from __future__ import annotations

import time

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.faults import delay, drop, exit, kill, server_gone, stop
from pytest_elastic.simulator import HangUntilTimeout, RankFailed, explore, simulate
from pytest_elastic.store import barrier
from pytest_elastic.timer import expires


def come(rank, world_size, store):
    """All but rank 1 come to a second barrier."""
    barrier(store, world_size, "a", rank=rank)
    if rank != 1:
        barrier(store, world_size, "b", rank=rank)


def cross(rank, world_size, store):
    """Each waits for what the other would write next."""
    store.wait([f"{1 - rank}"])
    store.set(f"{rank}", "1")


def fail(rank, world_size, store):
    """Rank 1 fails before what the others wait for."""
    if rank == 1:
        raise ValueError("no data")
    barrier(store, world_size, "a", rank=rank)


def look(rank, world_size, store):
    """Rank 0 deletes what nobody has read."""
    if rank == 0:
        store.set("a", "1")
        store.delete_key("a")
        store.set("b", "1")
    else:
        store.wait(["b"])
        store.wait(["a"])


@pytest.mark.parametrize("wake", ["latched", "level"])
@pytest.mark.parametrize(
    ("function", "ranks", "expected"),
    [
        (come, 3, ("CountMismatch", (1,), "rank 1 passed after 1 barrier; ranks 0, 2 are at number 2")),
        (cross, 2, ("Deadlock", (0, 1), "ranks 0-1 wait for each other")),
        (fail, 3, ("MissingRank", (1,), "rank 1 failed before joining \"a\"")),
        (look, 2, ("DoomedWait", (1,), "deleted it before rank 1 waited for it")),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_the_wait_graph(function, ranks, wake, expected):
    """Which ranks are to blame, and why, in a note."""
    verdict = simulate(function, ranks=ranks, wake=wake).verdict
    verdict_name, culprits, cause = expected
    assert (verdict.diagnosis.verdict, verdict.diagnosis.ranks) == (verdict_name, culprits)
    assert cause in verdict.__notes__[0]


def test_what_is_found_has_it_too():
    """After shrinking."""
    with pytest.raises(HangUntilTimeout) as caught:
        explore(come, ranks=2)
    assert caught.value.diagnosis.ranks == (1,)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (kill(rank=1, op=1), ("Exited", (1,))),
        (exit(rank=1, code=7, op=2), ("Exited", (1,))),
        (delay(rank=1, op=1, by=5) | kill(rank=1, op=2), ("Exited", (1,))),
        (drop(rank=0, key="b/*"), ("MissingRank", (1,))),
        (delay(rank=0, op=2, by=5), ("CountMismatch", (1,))),
    ],
    ids=str,
)
def test_faults_are_taken_into_account(faults, expected):
    """What a fault kept from being done was not done."""
    diagnosis = simulate(come, faults=faults, ranks=3).verdict.diagnosis
    assert (diagnosis.verdict, diagnosis.ranks) == expected


def test_a_kill_at_a_line_comes_after_the_operation():
    """Rank 1 had joined."""

    def write(rank, world_size, store):
        barrier(store, world_size, "a", rank=rank)
        print("step 1")
        if rank != 1:
            barrier(store, world_size, "b", rank=rank)
        store.wait(["never"])

    diagnosis = simulate(write, faults=kill(rank=1, line="step 1"), ranks=2).verdict.diagnosis
    assert (diagnosis.verdict, diagnosis.ranks) == ("Exited", (1,))


def test_a_timeout_that_was_handled_is_over():
    """Only the wait at the end counts; a sleep is none."""

    def patient(rank, world_size, store):
        with pytest.raises(DistStoreError):
            store.wait(["never"], 2.0, may_timeout=True)
        time.sleep(1)
        if rank == 0:
            store.wait(["box"])

    diagnosis = simulate(patient, ranks=2).verdict.diagnosis
    assert (diagnosis.verdict, diagnosis.keys) == ("DoomedWait", ("box",))


def test_a_timer_that_ends_a_rank_is_the_cause():
    """By its name."""

    def slow(rank, world_size, store):
        if rank == 1:
            with expires(after=2, scope="exchange"):
                time.sleep(9)
        barrier(store, world_size, "a", rank=rank)

    diagnosis = simulate(slow, ranks=2).verdict.diagnosis
    assert (diagnosis.verdict, diagnosis.ranks) == ("Exited", (1,))
    assert "timer exchange expired" in diagnosis.cause


def test_where_nobody_waits_there_is_none():
    """A failure is its own cause; of a lost store, and of a rank that may go on, nothing is said."""
    assert simulate(lambda rank, world_size, store: 1 // rank, ranks=2).verdict.diagnosis is None
    gone = simulate(come, faults=server_gone(op=3), ranks=3).verdict
    assert isinstance(gone, RankFailed)
    assert gone.diagnosis is None
    assert simulate(come, faults=stop(rank=1, op=1), ranks=3).verdict.diagnosis is None
