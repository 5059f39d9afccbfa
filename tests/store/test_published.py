"""Code that was written against torch's module, with its imports changed and nothing else.

It brings a mock of its own, which knows seven operations and no optional arguments, and its base class is
`unittest`'s.
"""

# ruff: noqa: PT009, PT027 - that it is `unittest`'s is the point.

from __future__ import annotations

import datetime
import unittest
from multiprocessing.pool import ThreadPool
from typing import Any
from unittest import mock

import pytest_elastic.store as dist
import pytest_elastic.store as store_util
from pytest_elastic.logging import get_logger

LAST = "<val_ignored>"


class SmallMock:
    """As little of a store as the functions need; answers with text."""

    seconds = 1234

    def __init__(self) -> None:
        self.ops: list[tuple[Any, ...]] = []

    @property
    def timeout(self) -> datetime.timedelta:
        self.ops.append(("timeout",))
        return datetime.timedelta(seconds=self.seconds)

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        self.ops.append(("set_timeout", timeout))

    def set(self, key: str, value: str) -> None:
        self.ops.append(("set", key, value))

    def get(self, key: str) -> str:
        self.ops.append(("get", key))
        return "value"

    def multi_get(self, keys: list[str]) -> list[str]:
        self.ops.append(("multi_get", keys))
        return ["value" for _ in keys]

    def add(self, key: str, val: int) -> int:
        self.ops.append(("add", key, val))
        return 3

    def wait(self, keys: list[str]) -> None:
        self.ops.append(("wait", keys))


def timeout_ops(seconds: float) -> list[tuple[Any, ...]]:
    return [("timeout",), ("set_timeout", datetime.timedelta(seconds=seconds))]


def gather_ops(prefix: str) -> list[tuple[Any, ...]]:
    return [
        ("multi_get", [f"{prefix}{rank}" for rank in range(3)]),
        ("add", f"{prefix}/finished/num_members", 1),
        ("set", f"{prefix}/finished/last_member", LAST),
    ]


def arrival_ops(prefix: str) -> list[tuple[Any, ...]]:
    return [("add", f"{prefix}/num_members", 1), ("set", f"{prefix}/last_member", LAST)]


class StoreFunctions(unittest.TestCase):
    """The functions, by what they call and by what they do."""

    def setUp(self) -> None:
        self.store: Any = SmallMock()

    def test_get_all_of_rank_0(self) -> None:
        """Waits for the others."""
        store_util.get_all(self.store, 0, "test/store", 3)
        wait = ("wait", ["test/store/finished/last_member"])
        self.assertListEqual(self.store.ops, [*gather_ops("test/store"), wait])

    def test_get_all_of_another_rank(self) -> None:
        """Does not."""
        store_util.get_all(self.store, 1, "test/store", 3)
        self.assertListEqual(self.store.ops, gather_ops("test/store"))

    def test_synchronize(self) -> None:
        """Sets the data between the timeouts."""
        data = b"data0"
        store_util.synchronize(self.store, data, 0, 3, key_prefix="test/store")
        expected = [
            *timeout_ops(300),
            ("set", "test/store0", data),
            *gather_ops("test/store"),
            ("wait", ["test/store/finished/last_member"]),
            timeout_ops(SmallMock.seconds)[1],
        ]
        self.assertListEqual(self.store.ops, expected)

    def test_barrier(self) -> None:
        """Arrives between the timeouts."""
        store_util.barrier(self.store, 3, key_prefix="test/store")
        expected = [
            *timeout_ops(300),
            *arrival_ops("test/store"),
            ("wait", ["test/store/last_member"]),
            timeout_ops(SmallMock.seconds)[1],
        ]
        self.assertListEqual(self.store.ops, expected)

    def test_synchronize_between_threads_that_share_a_store(self) -> None:
        """Everybody gets everything."""
        store = dist.HashStore()

        def run(rank: int) -> list[bytes]:
            return store_util.synchronize(store, f"data{rank}", rank, 4, key_prefix="test/store")

        with ThreadPool(4) as pool:
            found = pool.map(run, range(4))
        self.assertListEqual(found, [[b"data0", b"data1", b"data2", b"data3"]] * 4)

    def test_barrier_between_threads_that_share_a_store(self) -> None:
        """Everybody leaves."""
        store = dist.HashStore()
        with ThreadPool(4) as pool:
            left = pool.map(lambda rank: store_util.barrier(store, 4, key_prefix="test/store"), range(4))
        self.assertEqual(left, [None] * 4)

    def test_a_barrier_that_times_out_is_traced(self) -> None:
        """Rank 0 names the missing, the others point at rank 0."""
        store = dist.HashStore()

        def run(rank: int) -> str:
            try:
                self.trace(store, rank, barrier_timeout=0.1, trace_timeout=0.01)
            except Exception as error:
                return str(error)
            return ""

        with ThreadPool(2) as pool:
            texts = pool.map(run, range(2))
        self.assertIn("missing_ranks=[Rank 2 host]", texts[0])
        self.assertIn("check rank 0 (Rank 0 host) for missing rank info", texts[1])

    def test_the_operations_of_tracing_on_rank_0(self) -> None:
        """Its own trace, and the gate after it waited for the others'."""
        error = dist.DistStoreError("test")
        with mock.patch.object(self.store, "wait", side_effect=[error, None, None]) as wait:
            with self.assertRaises(dist.DistStoreError):
                self.trace(self.store, 0, barrier_timeout=1, trace_timeout=0.1)
        self.assertEqual(wait.call_count, 3)
        traces = [("set", "test/store0/TRACE", LAST), ("set", "test/store/TRACING_GATE", LAST)]
        self.assertListEqual(self.store.ops, [*timeout_ops(1), *arrival_ops("test/store"), *traces])

    def test_the_operations_of_tracing_on_rank_1(self) -> None:
        """Its own trace; it waits for the gate."""
        error = dist.DistStoreError("test")
        with mock.patch.object(self.store, "wait", side_effect=[error, None]) as wait:
            with self.assertRaises(dist.DistStoreError):
                self.trace(self.store, 1, barrier_timeout=1, trace_timeout=0.1)
        self.assertEqual(wait.call_count, 2)
        trace = ("set", "test/store1/TRACE", LAST)
        self.assertListEqual(self.store.ops, [*timeout_ops(1), *arrival_ops("test/store"), trace])

    def trace(self, store: Any, rank: int, **timeouts: float) -> None:
        store_util.barrier(
            store,
            3,
            key_prefix="test/store",
            rank=rank,
            rank_tracing_decoder=lambda number: f"Rank {number} host",
            **timeouts,
        )


class Loggers(unittest.TestCase):
    """`get_logger`, with and without a name."""

    def test_names_tell_loggers_apart(self) -> None:
        """As they do in `logging`."""
        self.assertNotEqual(get_logger("name1").name, get_logger("name2").name)
        self.assertEqual(get_logger("test.module").name, "test.module")

    def test_no_name_means_this_module(self) -> None:
        """Left out or `None`."""
        self.assertEqual((get_logger().name, get_logger(None).name), (__name__, __name__))
