"""A store of ours as one of torch's."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import weakref
from datetime import timedelta
from typing import Any

import pytest

from pytest_elastic import errors
from pytest_elastic.errors import DistNetworkError, DistStoreError
from pytest_elastic.store import (
    HashStore,
    MockStore,
    PrefixStore,
    RemoteStore,
    StoreServer,
    barrier,
    torch_store,
)
from pytest_elastic.store._torch import as_torchs

distributed = pytest.importorskip("torch.distributed")
torch = sys.modules["torch"]


def gloo(store: Any, rank: int, world_size: int) -> Any:
    """A process group that is not the process's default one."""
    return distributed.ProcessGroupGloo(torch_store(store), rank, world_size, timedelta(seconds=60))


def collect(group: Any, rank: int) -> tuple[int, int]:
    """An all_reduce and a barrier."""
    number = torch.tensor([rank + 1])
    group.allreduce([number]).wait()
    group.barrier().wait()
    return int(number), group.size()


@pytest.mark.parametrize("size", [2, 4])
def test_gloo_between_threads(threads: Any, size: int) -> None:
    """Over a HashStore."""
    store = HashStore()
    calls = [lambda rank=rank: collect(gloo(store.clone(), rank, size), rank) for rank in range(size)]
    assert threads(*calls) == [(size * (size + 1) // 2, size)] * size
    gc.collect()  # The groups' sockets.


def rank_of_a_group(address: str, rank: int, size: int) -> dict[str, Any]:
    """What `init_process_group` and the collectives give, in a process of its own."""
    store = RemoteStore(address)
    distributed.init_process_group("gloo", store=torch_store(store), rank=rank, world_size=size)
    number, objects = torch.tensor([rank + 1]), [None] * size
    distributed.all_reduce(number)
    distributed.barrier()
    distributed.all_gather_object(objects, {"rank": rank})
    group = distributed.new_group([0, 1])
    part = torch.tensor([1])
    if rank < 2:
        distributed.all_reduce(part, group=group)
    distributed.destroy_process_group()
    return {"sum": int(number), "objects": objects, "part": int(part)}


@pytest.mark.parametrize("size", [2, 3])
def test_gloo_between_processes(server: StoreServer, fork: Any, size: int) -> None:
    """`init_process_group` over a RemoteStore; all_reduce, barrier, all_gather_object, new_group."""
    address = server.address
    children = [fork(lambda rank=rank: rank_of_a_group(address, rank, size)) for rank in range(size)]
    expected = {"sum": size * (size + 1) // 2, "objects": [{"rank": rank} for rank in range(size)]}
    for rank, child in enumerate(children):
        assert child.outcome() == expected | {"part": 2 if rank < 2 else 1}


def test_every_operation_passes_through_torchs_prefix_store() -> None:
    """C++ calls back by the names that it knows."""
    store = HashStore()
    prefixed = distributed.PrefixStore("p", torch_store(store))
    prefixed.set("k", "1")
    prefixed.multi_set(["m", "n"], ["2", "3"])
    prefixed.append("k", "1")
    assert (prefixed.get("k"), prefixed.multi_get(["m", "n"]), prefixed.add("n", 1)) == (
        b"11",
        [b"2", b"3"],
        4,
    )
    assert (prefixed.compare_set("k", "11", "x"), prefixed.check(["k", "y"])) == (b"x", False)
    assert (prefixed.num_keys(), prefixed.delete_key("k"), prefixed.num_keys()) == (3, True, 2)
    prefixed.wait(["m"], timedelta(seconds=1))
    prefixed.barrier("b", 1)
    prefixed.clone().set("from a clone", "1")
    gc.collect()
    prefixed.clone().set("from a clone", "2")
    assert prefixed.has_extended_api()
    assert store.get("p/from a clone") == b"2"


def test_it_is_one_of_torchs_stores_with_all_operations() -> None:
    """Used from Python, queues and lists, too."""
    store = torch_store(HashStore())
    assert isinstance(store, distributed.Store)
    store.queue_push("q", "1")
    store.set(key="k", value="1")
    assert (store.queue_len("q"), store.queue_pop("q"), store.list_keys()) == (1, b"1", ["k"])


def test_its_timeout_is_the_stores() -> None:
    """Set from Python or from C++."""
    store = HashStore()
    bridge = torch_store(store)
    assert bridge.timeout == timedelta(seconds=300)
    bridge.set_timeout(timedelta(seconds=7))
    assert (store.timeout, bridge.timeout) == (timedelta(seconds=7),) * 2
    distributed.PrefixStore("p", bridge).set_timeout(timedelta(seconds=0.002))
    with pytest.raises(DistStoreError):
        bridge.get("missing")
    assert store.timeout == timedelta(seconds=0.002)


def test_it_lives_as_long_as_its_store() -> None:
    """Though nobody keeps it; and no longer."""
    store = HashStore()
    prefixed = distributed.PrefixStore("p", torch_store(store))
    gc.collect()
    prefixed.set("k", "1")
    assert store.get("p/k") == b"1"
    assert torch_store(store) is torch_store(store)
    alive = weakref.ref(store)
    del store, prefixed
    gc.collect()
    assert alive() is None


def test_errors_are_torchs_and_ours() -> None:
    """Of the bridge, and through C++: torch's prefixes and its gloo; with their fields, pickled as ours."""
    store = HashStore()
    store.set_timeout(0.001)
    bridge = torch_store(store)
    prefixed = distributed.PrefixStore("p", bridge)
    short = timedelta(milliseconds=100)
    for call, name, keys in (
        (lambda: bridge.get("k"), "DistStoreError", ("k",)),
        (lambda: bridge.wait(["k"], timedelta(milliseconds=1)), "DistStoreError", ("k",)),
        (lambda: bridge.queue_pop("q", False), "QueueEmptyError", ("q",)),
        (lambda: bridge.clone().multi_get(["k", "l"]), "DistStoreError", ("k", "l")),
        (lambda: PrefixStore("p", bridge).get("k"), "DistStoreError", ("k",)),
        (lambda: torch_store(PrefixStore("p", store)).get("k"), "DistStoreError", ("k",)),
        (lambda: prefixed.get("k"), "DistStoreError", ("p/k",)),
        (lambda: prefixed.wait(["k"], timedelta(milliseconds=1)), "DistStoreError", ("p/k",)),
        (lambda: distributed.PrefixStore("q", prefixed).get("k"), "DistStoreError", ("p/q/k",)),
        (lambda: distributed.ProcessGroupGloo(bridge, 0, 2, short), "DistStoreError", ("0/1",)),
    ):
        with pytest.raises(getattr(distributed, name)) as info:
            call()
        assert isinstance(info.value, getattr(errors, name)), info.value
        assert info.value.keys == keys
        again = pickle.loads(pickle.dumps(info.value))
        assert (type(again), again.args, again.keys) == (getattr(errors, name), info.value.args, keys)
    prefixed.set("n", "x")
    with pytest.raises(ValueError, match="'p/n' is no number"):
        prefixed.add("n", 1)


def test_a_lost_server_is_torchs_error_too(server: StoreServer) -> None:
    """DistNetworkError, which is no DistStoreError in either hierarchy."""
    store = server.store()
    prefixed = distributed.PrefixStore("p", torch_store(store))
    prefixed.set("k", "1")
    server.close()
    for call in (lambda: torch_store(store).get("k"), lambda: prefixed.get("k")):
        with pytest.raises(distributed.DistNetworkError) as info:
            call()
        assert isinstance(info.value, DistNetworkError)
        assert not isinstance(info.value, distributed.DistStoreError | DistStoreError)


@pytest.mark.parametrize("kind", ["hash", "served", "prefix"])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: distributed.PrefixStore("t", one)])
def test_torchs_own_traced_barrier(server: StoreServer, threads: Any, kind: str, wrap: Any) -> None:
    """It names the ranks that are missing, as on torch's stores."""
    utils = pytest.importorskip("torch.distributed.elastic.utils.store")
    make: Any = {"hash": HashStore, "served": server.store, "prefix": lambda: PrefixStore("p", HashStore())}
    store = make[kind]()
    keep = [store.clone() for _ in range(2)]

    def call(rank: int) -> None:
        one = wrap(torch_store(keep[rank]))
        utils.barrier(
            one, 3, "b", 0.5, rank, rank_tracing_decoder=lambda rank: f"host{rank}", trace_timeout=0.1
        )

    first, second = threads(lambda: call(0), lambda: call(1))
    for error in (first, second):
        assert isinstance(error, distributed.DistStoreError), error
    assert "missing_ranks=[host2]" in str(first)
    assert "missing_ranks=[[<check rank 0 (host0) for missing rank info>]]" in str(second)


def test_a_store_of_torchs_is_returned_as_it_is() -> None:
    """There is nothing to do."""
    store = distributed.HashStore()
    assert torch_store(store) is store


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError that names the extra."""
    from pytest_elastic.store import _torch

    monkeypatch.setitem(sys.modules, "torch", None)
    _torch._bridge.cache_clear()
    with pytest.raises(ImportError, match=r"pytest-elastic\[torch\]"):
        torch_store(HashStore())


@pytest.mark.parametrize("kind", ["hash", "served", "prefix"])
def test_torchs_own_barrier_and_synchronize(server: StoreServer, threads: Any, kind: str) -> None:
    """Unmodified, over our stores."""
    utils = pytest.importorskip("torch.distributed.elastic.utils.store")
    store = {"hash": HashStore, "served": server.store, "prefix": lambda: PrefixStore("p", HashStore())}[
        kind
    ]()
    calls = [
        lambda rank=rank, one=store.clone(): (
            utils.barrier(one, 3, "b"),
            utils.synchronize(one, str(rank).encode(), rank, 3, "s"),
        )
        for rank in range(3)
    ]
    assert threads(*calls) == [(None, [b"0", b"1", b"2"])] * 3


def test_a_barrier_over_the_bridge_knows_who_is_missing() -> None:
    """It is our store underneath."""
    with pytest.raises(DistStoreError) as info:
        barrier(torch_store(HashStore()), 2, "b", 0.01, rank=1, trace_timeout=0.01)
    assert info.value.missing_ranks == [0]  # type: ignore[attr-defined]
    assert torch_store(MockStore(timeout=5)).members("k") is None


def test_the_groups_above_left_no_default_group() -> None:
    """They were other processes'."""
    assert not distributed.is_initialized()
    assert "RANK" not in os.environ


def test_an_error_that_is_also_torchs() -> None:
    """Torch's code takes it for its own; it says what it said, and pickles as ours."""
    error = as_torchs(DistStoreError("text", keys=("k",), timeout=1.0, elapsed=2.0))
    assert isinstance(error, distributed.DistStoreError)
    assert isinstance(error, DistStoreError)
    assert (str(error), error.keys, error.timeout, error.elapsed) == ("text", ("k",), 1.0, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DistStoreError
    assert (again.args, again.keys, again.elapsed) == (("text",), ("k",), 2.0)


def test_an_error_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is not loaded the error stays what it is."""
    monkeypatch.delitem(sys.modules, "torch.distributed")
    error = DistStoreError("text")
    assert as_torchs(error) is error
