"""Ranks that ask again and again, with time-outs that they catch, until somebody comes late."""

import os
import time

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.store import barrier, get_all, store_timeout, synchronize

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


def wait_patiently(store, keys, every=0.05, most=600):
    """The helper that everybody writes."""
    for _ in range(most):
        try:
            store.wait(keys, every)
            return
        except DistStoreError:
            pass
    raise TimeoutError(f"no {keys} after {most} tries")


def test_short_waits_for_a_late_rank(world):
    if world.rank == 1:
        time.sleep(0.4)
        world.store.set("late", "1")
    wait_patiently(world.store, ["late"])


def test_short_waits_that_end_while_the_other_rank_has_just_begun_to_wait(world):
    """Time after time: whoever has timed out is about to go on."""
    for turn in range(30):
        if world.rank == 0:
            for _ in range(3):
                with pytest.raises(DistStoreError):
                    world.store.wait(["never"], 0.002)
            world.store.set(f"go/{turn}", "1")
        else:
            world.store.wait([f"go/{turn}"], 20)


def test_short_gets_for_a_late_rank(world):
    if world.rank == 1:
        time.sleep(0.3)
        world.store.set("late", "value")
    store = world.store.clone()
    store.set_timeout(0.05)
    while True:
        try:
            assert store.get("late") == b"value"
            break
        except DistStoreError:
            pass


def test_check_and_sleep(world):
    if world.rank == 1:
        time.sleep(0.3)
        world.store.set("late", "1")
    while not world.store.check(["late"]):
        time.sleep(0.01)


def test_check_and_spin(world):
    if world.rank == 1:
        time.sleep(0.2)
        world.store.set("late", "1")
    while not world.store.check(["late"]):
        pass


def test_backoff(world):
    if world.rank == 1:
        time.sleep(0.3)
        world.store.set("late", "1")
    pause = 0.001
    while True:
        try:
            world.store.wait(["late"], pause)
            break
        except DistStoreError:
            time.sleep(pause)
            pause *= 2


def test_a_timeout_that_is_expected(world):
    with pytest.raises(DistStoreError):
        world.store.wait([f"nobody/{world.rank}"], 0.05)
    world.barrier()


def test_a_timeout_that_is_announced(world):
    with pytest.raises(DistStoreError):
        world.store.wait([f"nobody/{world.rank}"], 60, may_timeout=True)
    world.barrier()


def test_looks_of_no_time(world):
    if world.rank == 1:
        time.sleep(0.1)
        world.store.set("late", "1")
    while True:
        try:
            world.store.wait(["late"], 0)
            break
        except DistStoreError:
            time.sleep(0.005)


def test_the_stores_timeout_around_each_try(world):
    if world.rank == 0:
        time.sleep(0.3)
        world.store.set("late", "1")
    for _ in range(600):
        try:
            with store_timeout(world.store, 0.05):
                world.store.get("late")
            break
        except DistStoreError:
            pass
    world.barrier()


def test_a_fallback_after_a_timeout(world):
    """Nobody replies, so rank 0 decides; rank 1 is told."""
    if world.rank == 0:
        with pytest.raises(DistStoreError):
            world.store.wait(["reply"], 0.2)
        world.store.set("go", "fallback")
    assert world.store.get("go") == b"fallback"


def test_helpers_within_helpers(world):
    """Each has a time-out of its own and catches the inner one's."""

    def inner():
        with pytest.raises(DistStoreError):
            world.store.wait(["never"], 0.02)
        return world.store.check(["late"])

    def outer(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if inner():
                return True
        return False

    if world.rank == 1:
        time.sleep(0.2)
        world.store.set("late", "1")
    while not outer(0.1):
        pass
    world.barrier()


@pytest.mark.elastic(nprocs=3)
def test_a_barrier_of_a_subset(world):
    if world.rank < 2:
        barrier(world.store, 2, "pair", 30, rank=world.rank)
        world.store.set(f"done/{world.rank}", "1")
    else:
        world.store.wait(["done/0", "done/1"], 30)


@pytest.mark.elastic(nprocs=3)
def test_names_that_are_used_again(world):
    for turn in range(20):
        if world.rank == turn % 3:
            time.sleep(0.005)
        world.barrier("epoch")
        world.barrier("epoch")


@pytest.mark.elastic(nprocs=3)
def test_collectives_in_turn(world):
    for turn in range(5):
        assert world.gather(world.rank) == [0, 1, 2]
        assert world.broadcast(turn if world.rank == 1 else None, src=1) == turn
        world.barrier()
    assert synchronize(world.store, str(world.rank), world.rank, 3, "sync") == [b"0", b"1", b"2"]
    world.store.set(f"all/{world.rank}", "x")
    assert get_all(world.store, world.rank, "all/", 3) == [b"x"] * 3


def test_work_from_a_queue(world):
    """One gives out work and, at the end, a pill for the other."""
    if world.rank == 0:
        for number in range(20):
            world.store.queue_push("work", str(number))
            time.sleep(0.005)
        world.store.queue_push("work", "end")
    else:
        done = []
        while (piece := world.store.queue_pop("work")) != b"end":
            done.append(int(piece))
        assert done == list(range(20))
        world.store.set("count", str(len(done)))
    assert world.store.get("count") == b"20"


def test_a_lock_in_the_store(world):
    """Compare and set, with pauses between tries."""
    for _ in range(3):
        mine = str(os.getpid())
        while world.store.compare_set("lock", "", mine) != mine.encode():
            time.sleep(0.002)
        world.store.add("inside", 1)
        assert world.store.add("inside", -1) == 0
        world.store.delete_key("lock")
    world.barrier()


def test_a_leader_is_elected_and_waits_for_the_rest(world):
    leader = world.store.add("ticket", 1) == 1
    if leader:
        while world.store.add("ready", 0) < 1:
            time.sleep(0.005)
        world.store.set("start", "1")
    else:
        time.sleep(0.1)
        world.store.add("ready", 1)
    world.store.wait(["start"], 30)


def test_heartbeats(world):
    """Rank 0 watches the other's beats until they end with a last word."""
    if world.rank == 1:
        for _ in range(10):
            world.store.add("beat", 1)
            time.sleep(0.02)
        world.store.set("end", "1")
        return
    seen = 0
    while not world.store.check(["end"]):
        seen = max(seen, world.store.add("beat", 0))
        time.sleep(0.01)
    assert max(seen, world.store.add("beat", 0)) == 10


def test_a_rank_ends_early_when_its_part_is_done(world):
    if world.rank == 1:
        world.store.set("result", "42")
        return
    time.sleep(0.2)
    assert world.store.get("result") == b"42"


def test_a_key_that_is_deleted_and_written_again(world):
    for turn in range(5):
        if world.rank == 0:
            world.store.set("turn", str(turn))
            world.store.wait([f"seen/{turn}"], 30)
            world.store.delete_key("turn")
            world.store.set(f"gone/{turn}", "1")
        else:
            assert world.store.get("turn") == str(turn).encode()
            world.store.set(f"seen/{turn}", "1")
            world.store.wait([f"gone/{turn}"], 30)
