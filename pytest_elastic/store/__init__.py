"""A key-value store that ranks share, with torch's operations.

* `HashStore` for the threads of one process; `StoreServer` and `RemoteStore` for processes.
* `PrefixStore`, `MockStore`, and `recording` with `assert_ops` to look at what is called.
* `get_all`, `synchronize`, `barrier`, `store_timeout` for any store; `torch_store` gives torch one of ours.
"""

from pytest_elastic.errors import DistError, DistNetworkError, DistStoreError, QueueEmptyError
from pytest_elastic.store._api import Store
from pytest_elastic.store._arguments import Arrival, Asked
from pytest_elastic.store._client import RemoteStore
from pytest_elastic.store._collective import (
    asked_of_all,
    barrier,
    get_all,
    is_trace,
    store_timeout,
    synchronize,
)
from pytest_elastic.store._gate import Ending, Gate, Keeper, OpenGate, Request
from pytest_elastic.store._handle import Handle, timeout_error
from pytest_elastic.store._hash import HashStore
from pytest_elastic.store._inspection import inspect_process
from pytest_elastic.store._meetings import detail_of, signature
from pytest_elastic.store._mock import MockStore, assert_ops, recording
from pytest_elastic.store._operations import (
    LAST_MEMBER,
    NUM_MEMBERS,
    OPERATIONS,
    Call,
    Effect,
    barrier_keys,
    with_effect,
)
from pytest_elastic.store._prefix import PrefixStore
from pytest_elastic.store._reporter import FAILED, Reporter
from pytest_elastic.store._server import StoreServer
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._torch import as_torchs, torch_store, torchs_store

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
