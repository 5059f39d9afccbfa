"""The simulated store is a store: every operation, our collectives, and torch's own."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest

from pytest_elastic.errors import DistStoreError, QueueEmptyError
from pytest_elastic.launch import World
from pytest_elastic.simulator import HangUntilTimeout, simulate
from pytest_elastic.store import OPERATIONS, PrefixStore, StoreState, barrier, recording, synchronize


def alone(function, **named):
    """What it returns as the only rank."""
    return simulate(lambda rank, world_size, store: function(store), ranks=1, **named).check().results[0]


def test_every_operation(crew):
    """Each answers what the state machine says."""

    def work(store):
        store.set("k", "v")
        store.multi_set(["a", "b"], ["1", "2"])
        store.append("a", "0")
        store.queue_push("q", "x")
        store.barrier("alone", 1)
        store.wait(["k", "q"], timedelta(seconds=1))
        return (
            (
                store.get("k"),
                store.add("b", 3),
                store.compare_set("k", "v", "w"),
                store.multi_get(["a", "k"]),
            ),
            (store.check(["k", "none"]), store.delete_key("k"), store.num_keys(), sorted(store.list_keys())),
            (store.queue_len("q"), store.queue_pop("q"), store.queue_len("q"), store.has_extended_api()),
        )

    assert alone(work) == (
        (b"v", 5, b"w", [b"10", b"w"]),
        (False, True, 4, ["a", "alone/last_member", "alone/num_members", "b"]),
        (1, b"x", 0, True),
    )


def test_operations_are_steps_of_the_state():
    """Each step is an operation that the state machine has."""

    def work(rank, world_size, store):
        synchronize(store, b"", rank, world_size, "p/")
        barrier(store, world_size, "b", rank=rank)

    names = {step.name for step in simulate(work, ranks=2).check().steps}
    assert {"set", "multi_get", "arrive", "wait"} <= names <= OPERATIONS.keys()
    assert all(hasattr(StoreState, name) for name in names)


def test_errors_of_operations(crew):
    """What the state refuses is the rank's exception, and it goes on."""

    def work(store):
        with pytest.raises(QueueEmptyError):
            store.queue_pop("q", block=False)
        store.set("text", "text")
        with pytest.raises(ValueError, match="is no number"):
            store.add("text", 1)
        with pytest.raises(TypeError):
            store.set("k", None)
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.copy(store)
        return store.add("n", 1)

    assert alone(work) == 1


def test_poppers_are_served_in_their_order(crew):
    """An element goes to the popper that came first."""

    def work(rank, world_size, store):
        if rank < 2:
            return store.queue_pop("q")
        store.queue_push("q", "first")
        return store.queue_push("q", "second")

    assert simulate(work, ranks=3).check().results == [b"first", b"second", None]
    assert simulate(work, "E1.3.l.0-1").check().results == [b"second", b"first", None]


def test_clones_have_timeouts_of_their_own():
    """A clone shares the data, not the timeout."""

    def work(store):
        clone = store.clone()
        clone.set_timeout(timedelta(seconds=2))
        clone.set("k", "v")
        return store.get("k"), store.timeout, clone.timeout

    assert alone(work) == (b"v", timedelta(seconds=300), timedelta(seconds=2))


def test_wrappers_run_on_it(crew):
    """A prefix, a recording, and the world of a group."""

    def work(rank, world_size, store):
        prefixed = PrefixStore("p", recording(store))
        prefixed.set(f"{rank}", f"{rank}")
        prefixed.wait([f"{r}" for r in range(world_size)])
        world = World(rank, world_size, store)
        world.barrier()
        assert world.broadcast("x" if rank == 1 else None, src=1) == "x"
        return world.gather(rank), sorted(prefixed.list_keys())

    assert simulate(work, ranks=3).check().results == [([0, 1, 2], ["0", "1", "2"])] * 3


def test_recorded_operations():
    """A recording sees what it sees of any store."""

    def work(store):
        recorded = recording(store)
        barrier(recorded, 1, "b")
        return [call[0] for call in recorded.ops]

    assert alone(work) == ["timeout", "set_timeout", "add", "set", "wait", "set_timeout"]


def test_our_barrier_names_the_missing():
    """A barrier that times out knows who came, on every rank."""

    def work(rank, world_size, store):
        if rank == 1:
            return None
        with pytest.raises(DistStoreError) as info:
            barrier(store, world_size, "b", 5, rank=rank, trace_timeout=1)
        return info.value.missing_ranks

    assert simulate(work, ranks=3, may_timeout=True).check().results == [[1], None, [1]]


class TestTorchsOwn:
    """Torch's collectives, unmodified."""

    @pytest.fixture(autouse=True)
    def theirs(self):
        self.store = pytest.importorskip("torch.distributed.elastic.utils.store")

    def test_they_run(self, crew):
        """Values go round and everybody passes, with torch's functions on our store."""

        def work(rank, world_size, store):
            values = self.store.synchronize(store, f"{rank}".encode(), rank, world_size, "p/")
            self.store.barrier(store, world_size, "b", rank=rank)
            return values

        assert simulate(work, ranks=3).check().results == [[b"0", b"1", b"2"]] * 3

    def test_a_missing_rank_is_named_by_rank_0(self):
        """Torch's tracing runs through, since it takes our timeouts for its own."""

        def work(rank, world_size, store):
            if rank < 2:
                self.store.barrier(store, world_size, "b", 5, rank, str, 1)

        execution = simulate(work, ranks=3, may_timeout=True)
        assert "missing_ranks=[2]" in str(execution.errors[0])
        assert "check rank 0 (0) for missing rank info" in str(execution.errors[1])

    def test_a_missing_rank_0_costs_the_others_twice(self):
        """With rank 0 missing they wait for the barrier and then for its findings, and know no name."""

        def work(rank, world_size, store):
            if rank > 0:
                self.store.barrier(store, world_size, "b", 300, rank, str, 10)

        execution = simulate(work, ranks=3, may_timeout=True)
        assert execution.now == 600.0
        assert "missing_ranks" not in str(execution.errors[1])

    def test_a_failed_barrier_leaves_its_timeout(self):
        """The store keeps the short timeout after an error."""

        def work(rank, world_size, store):
            if rank == 0:
                with pytest.raises(DistStoreError):
                    self.store.barrier(store, world_size, "b", 5)
                return store.timeout

        assert simulate(work, ranks=2, may_timeout=True).check().results[0] == timedelta(seconds=5)

    def test_its_hang_is_known_at_once(self):
        """A barrier that somebody does not join."""

        def work(rank, world_size, store):
            if rank > 0:
                self.store.barrier(store, world_size, "b")

        assert isinstance(simulate(work, ranks=3).verdict, HangUntilTimeout)
