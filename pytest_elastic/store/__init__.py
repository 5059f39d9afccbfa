"""A store that ranks share: keys, values, queues, and ways to wait for them.

* `Store` is the Protocol, with torch's operations.  `HashStore` is for the threads of one process,
  `StoreServer` and `RemoteStore` for processes; both carry the same `StoreState`.
* `PrefixStore` gives keys a prefix, `MockStore` answers what you say, `recording` notes what is called, and
  `assert_ops` compares such notes.
* `get_all`, `synchronize`, `barrier` and `store_timeout` work on any store, torch's included; `torch_store`
  makes a store of ours one of torch's.
"""

from pytest_elastic.errors import DistError, DistNetworkError, DistStoreError, QueueEmptyError
from pytest_elastic.store._api import Store
from pytest_elastic.store._client import RemoteStore
from pytest_elastic.store._collective import barrier, get_all, store_timeout, synchronize
from pytest_elastic.store._gate import Ending, Gate, Keeper, OpenGate, Request
from pytest_elastic.store._hash import HashStore
from pytest_elastic.store._mock import MockStore
from pytest_elastic.store._prefix import PrefixStore
from pytest_elastic.store._recording import assert_ops, recording
from pytest_elastic.store._server import StoreServer
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._torch import torch_store

__all__ = [
    "DistError",
    "DistNetworkError",
    "DistStoreError",
    "HashStore",
    "MockStore",
    "PrefixStore",
    "QueueEmptyError",
    "RemoteStore",
    "Store",
    "StoreServer",
    "StoreState",
    "assert_ops",
    "barrier",
    "get_all",
    "recording",
    "store_timeout",
    "synchronize",
    "torch_store",
]
