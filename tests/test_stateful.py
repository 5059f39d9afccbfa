"""The state machine that compares two stores."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pytest_elastic.stateful import StoreMachine
from pytest_elastic.store import HashStore, PrefixStore, StoreServer

EXAMPLES = int(os.environ.get("ELASTIC_STORE_EXAMPLES", "15"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def compare(make_store: Any, make_reference: Any = HashStore, limits: settings = SETTINGS) -> None:
    class Machine(StoreMachine):
        def make_store(self) -> Any:
            return make_store()

        def make_reference(self) -> Any:
            return make_reference()

    run_state_machine_as_test(Machine, settings=limits)


def test_hash_store_is_as_torchs() -> None:
    """The reference: torch's HashStore finds no difference."""
    distributed = pytest.importorskip("torch.distributed")
    compare(HashStore, distributed.HashStore)


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_remote_store_is_as_a_hash_store(prefixed: bool) -> None:
    """The same answers and the same errors."""
    servers: list[StoreServer] = []
    stores: list[Any] = []

    def make() -> Any:
        close()
        servers.append(StoreServer())
        servers[-1].start()
        stores.append(servers[-1].store())
        return PrefixStore("p", stores[-1]) if prefixed else stores[-1]

    def close() -> None:
        for one in (*stores, *servers):
            one.close()
        stores.clear()
        servers.clear()

    compare(make)
    close()


def test_a_prefix_store_is_as_a_hash_store() -> None:
    """Over a store of its own."""
    compare(lambda: PrefixStore("p", HashStore()))


class OffByOne(HashStore):
    """Counts wrongly from 3 on."""

    def add(self, key: Any, amount: int) -> int:
        total = super().add(key, amount)
        return total if total < 3 else total + 1


class Impatient(HashStore):
    """Has the wrong error."""

    def get(self, key: Any) -> bytes:
        if not self.check([key]):
            raise KeyError(key)
        return super().get(key)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (OffByOne, r"add\(.*\): returned \d+, the reference returned \d+"),
        (Impatient, r"get\(.*\): raised KeyError, the reference raised DistStoreError"),
    ],
)
def test_a_difference_is_found(kind: type, text: str) -> None:
    """In an answer, and in an error."""
    limits = settings(SETTINGS, max_examples=500, phases=[Phase.generate])  # The shortest example may wait.
    with pytest.raises(AssertionError, match=text):
        compare(kind, limits=limits)


def test_a_machine_must_say_what_to_test() -> None:
    """The store is the subclass's to give."""
    with pytest.raises(NotImplementedError, match="make_store"):
        StoreMachine()
