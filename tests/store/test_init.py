"""The part as a whole: its names, its imports, and the tests that torch has for its own."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from pytest_elastic import logging, store


def test_the_names() -> None:
    """All there, and nothing else."""
    names = "Store StoreState HashStore PrefixStore StoreServer RemoteStore MockStore recording assert_ops"
    names += " store_timeout get_all synchronize barrier torch_store"
    errors = "DistError DistStoreError DistNetworkError QueueEmptyError"
    assert sorted(store.__all__) == sorted([*names.split(), *errors.split()])
    assert all(hasattr(store, name) for name in store.__all__)
    assert callable(logging.get_logger)


def test_the_errors() -> None:
    """Torch's hierarchy."""
    assert store.DistError.__mro__[1:] == (*store.DistError.__mro__[1:2], *RuntimeError.__mro__)
    assert issubclass(store.DistStoreError, store.DistError)
    assert issubclass(store.DistNetworkError, store.DistError)
    assert issubclass(store.QueueEmptyError, store.DistStoreError)


@pytest.mark.parametrize(
    "error",
    [
        store.DistError("text"),
        store.DistNetworkError("text"),
        store.DistStoreError("text", keys=("a", "b"), timeout=1.0, elapsed=2.0),
        store.QueueEmptyError("text", keys=("a",)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle_with_their_fields(error: Exception) -> None:
    """Those that `barrier` adds, too."""
    vars(error)["missing_ranks"] = [1]
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, vars(copy)) == (type(error), error.args, vars(error))


def test_importing_it_is_light() -> None:
    """Neither torch, pytest nor hypothesis, nor what is slow to import."""
    code = """if True:
        import sys, pytest_elastic.store, pytest_elastic.logging
        heavy = {"torch", "pytest", "hypothesis", "psutil", "asyncio", "tempfile", "multiprocessing", "ssl"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("kind", [store.HashStore, store.RemoteStore, store.PrefixStore, store.MockStore])
def test_every_store_has_the_protocols_operations(kind: type) -> None:
    """Under the same names."""
    operations = {name for name in vars(store.Store) if not name.startswith("_")}
    assert operations <= set(dir(kind))
