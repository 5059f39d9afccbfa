"""What keys, values and operations of a store do, line by line."""

from __future__ import annotations

import copy
from typing import Any

from pytest_elastic.pristine import pickle
from pytest_elastic.testing._store import Make, clause, equal, refused, together

_LONG_KEY = "k" * 60_000
_BIG = 2**63 - 1


@clause
def _keys(make: Make) -> None:
    for key in ("", " ", "a b", "\0", "ü", _LONG_KEY):
        store = make()
        store.set(key, "1")
        equal(store.get(key.encode()), b"1", f"get of the bytes of {key[:9]!r}")
    refused(ValueError, "a key that is not UTF-8", make().set, b"\xff", "1")


@clause
def _values(make: Make) -> None:
    store = make()
    text = type("Text", (str,), {})("ü")
    for value, stored in (
        ("ü", b"\xc3\xbc"),
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"x"), b"x"),
        (text, b"\xc3\xbc"),
    ):
        store.set("key", value)
        equal(store.get("key"), stored, f"value {value!r}")
    store.set("empty", b"")
    equal(store.check(["empty"]), True, "check of an empty value")


@clause
def _types(make: Make) -> None:
    store = make()
    for wrong in (1, None, 1.5, ["a"], memoryview(b"a"), "\ud800"):
        refused(TypeError, f"key {wrong!r}", store.set, wrong, "value")
        refused(TypeError, f"value {wrong!r}", store.set, "key", wrong)
    refused(TypeError, "set without a value", store.set, "key")
    refused(TypeError, "get with two keys", store.get, "key", "key")
    equal(store.check(["key"]), False, "check of a key that was not set")


@clause
def _iterables(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    for keys in (("a", "b"), {"a", "b"}, iter(["a", "b"]), {"a": 0, "b": 0}.keys()):
        equal(store.check(keys), True, f"check of a {type(keys).__name__}")
    refused(TypeError, "check of a bare str", store.check, "ab")
    refused(TypeError, "check of a mapping", store.check, {"a": 1})
    equal((store.check([]), store.wait([]), store.multi_get([])), (True, None, []), "no keys")


@clause
def _argument_names(make: Make) -> None:
    store = make()
    store.set(key="a", value="1")
    store.multi_set(keys=["n"], values=["1"])
    equal(store.get(key="a"), b"1", "get(key=)")
    equal(store.add(key="n", amount=2), 3, "add(key=, amount=)")
    equal(store.compare_set(key="a", expected="1", desired="2"), b"2", "compare_set by name")
    equal((store.wait(keys=["a"], timeout=1.0), store.check(keys=["a"])), (None, True), "wait, check by name")
    store.queue_push(key="q", value="x")
    equal(store.queue_pop(key="q", block=False), b"x", "queue_pop by name")
    store.barrier(key="b", world_size=1, timeout=1.0)


@clause
def _set(make: Make) -> None:
    store = make()
    equal((store.set("a", "1"), store.set("a", "2"), store.get("a")), (None, None, b"2"), "set twice")


@clause
def _get(make: Make) -> None:
    store = make()
    setter = store.clone()
    equal(
        together(lambda: store.get("a"), lambda: setter.set("a", "1")), [b"1", None], "get while another sets"
    )


@clause
def _add(make: Make) -> None:
    store = make()
    equal([store.add("n", 0), store.add("n", 5), store.add("n", -7)], [0, 5, -2], "add 0, 5, -7")
    equal(store.get("n"), b"-2", "get of a counter")


@clause
def _add_to_text(make: Make) -> None:
    for text, number in {
        " 5": 5,
        "+5": 5,
        "5a": 5,
        "5.9": 5,
        "0x10": 0,
        "010": 10,
        "": 0,
        "\t-3 4": -3,
    }.items():
        store = make()
        store.set("n", text)
        equal(store.add("n", 0), number, f"add to {text!r}")
    for wrong, kind in (("a5", ValueError), ("  ", ValueError), ("--5", ValueError), ("9" * 20, IndexError)):
        store = make()
        store.set("n", wrong)
        refused(kind, f"add to {wrong!r}", store.add, "n", 1)
        equal(store.get("n"), wrong.encode(), "the value after a failed add")


@clause
def _amounts(make: Make) -> None:
    store = make()
    number = type("Number", (), {"__index__": lambda self: 4})()
    equal([store.add("n", True), store.add("n", number)], [1, 5], "add True and an object with __index__")
    for wrong in (1.0, "1", None, 2**63, -(2**63) - 1):
        refused(TypeError, f"amount {wrong!r}", store.add, "n", wrong)
    store.set("n", str(_BIG))
    equal(store.add("n", 1), -_BIG - 1, "2**63 - 1 plus 1")


@clause
def _compare_set(make: Make) -> None:
    store = make()
    equal(store.compare_set("a", "x", "1"), b"x", "missing, expected x")
    equal(store.check(["a"]), False, "nothing is stored then")
    equal(store.compare_set("a", "", "1"), b"1", "missing, expected nothing")
    equal(store.compare_set("a", "x", "2"), b"1", "present and different")
    equal((store.compare_set("a", "1", "2"), store.get("a")), (b"2", b"2"), "present and equal")


@clause
def _compare_set_empty(make: Make) -> None:
    store = make()
    store.multi_set(["a", "empty"], ["1", ""])
    equal((store.compare_set("a", "", "2"), store.get("a")), (b"1", b"1"), "present, expected nothing")
    equal((store.compare_set("empty", "", "2"), store.get("empty")), (b"2", b"2"), "empty, expected nothing")


@clause
def _check(make: Make) -> None:
    store = make()
    store.set("a", "1")
    equal((store.check(["a", "a"]), store.check(["a", "b"])), (True, False), "check")


@clause
def _delete_key(make: Make) -> None:
    store = make()
    store.add("n", 5)
    equal((store.delete_key("n"), store.delete_key("n")), (True, False), "delete_key twice")
    equal(store.add("n", 1), 1, "add after delete_key")


@clause
def _append(make: Make) -> None:
    store = make()
    store.append("a", "")
    equal((store.check(["a"]), store.get("a")), (True, b""), "append of nothing")
    store.append("a", "x")
    store.append("a", "y")
    equal(store.get("a"), b"xy", "append twice")
    store.add("n", 1)
    store.append("n", "2")
    equal(store.add("n", 1), 13, "add to a counter that was appended to")


@clause
def _multi_set(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b", "a"], ["1", "2", "3"])
    equal(store.multi_get(["a", "b"]), [b"3", b"2"], "multi_set with a repeated key")
    refused(ValueError, "multi_set of 1 key and 2 values", store.multi_set, ["c"], ["1", "2"])
    equal(store.check(["c"]), False, "nothing is stored then")


@clause
def _multi_get(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    equal(store.multi_get(["b", "a", "b"]), [b"2", b"1", b"2"], "multi_get with repeats")
    setter = store.clone()
    answers = together(lambda: store.multi_get(["a", "c"]), lambda: setter.set("c", "3"))
    equal(answers, [[b"1", b"3"], None], "multi_get while another sets")


@clause
def _listing(make: Make) -> None:
    store = make()
    before = store.num_keys()
    store.multi_set(["a", "b"], ["1", "2"])
    equal((store.num_keys() - before, sorted(store.list_keys())), (2, ["a", "b"]), "num_keys, list_keys")


@clause
def _queues(make: Make) -> None:
    store = make()
    store.set("a", "value")
    for element in ("1", "2"):
        store.queue_push("a", element)
    equal(store.queue_len("a"), 2, "queue_len")
    equal((store.num_keys(), store.list_keys()), (1, ["a"]), "num_keys, list_keys beside a queue")
    equal((store.get("a"), store.compare_set("a", "", "x")), (b"value", b"value"), "the value beside a queue")
    equal([store.queue_pop("a"), store.queue_pop("a"), store.queue_len("a")], [b"1", b"2", 0], "queue_pop")
    store.queue_push("n", "7")
    equal((store.check(["n"]), store.wait(["n"])), (True, None), "check and wait for a queue")
    equal((store.delete_key("n"), store.queue_len("n")), (False, 1), "delete_key of a queue's name")
    equal(store.add("n", 1), 1, "add beside a queue")


@clause
def _empty_queues(make: Make) -> None:
    store = make()
    error = refused("QueueEmptyError", "queue_pop of nothing", store.queue_pop, "q", False)
    equal(str(error), "queue is empty", "its text")
    store.queue_push("q", "1")
    store.queue_pop("q", True)
    equal(store.check(["q"]), False, "check of an emptied queue")
    store.set_timeout(_seconds(0.05))
    refused("DistStoreError", "queue_pop that times out", store.queue_pop, "q")


@clause
def _barrier_sizes(make: Make) -> None:
    store = make()
    store.set_timeout(_seconds(0.05))
    refused(ValueError, "barrier of 0", store.barrier, "b", 0)
    refused(TypeError, "barrier of 1.5", store.barrier, "b", 1.5)
    equal(store.check(["b/num_members"]), False, "nothing is stored then")


@clause
def _barrier(make: Make) -> None:
    store = make()
    handles = [store.clone() for _ in range(3)]
    calls = [lambda handle=handle: handle.barrier("b", 3) for handle in handles]
    equal(together(*calls), [None] * 3, "three calls of barrier")
    store.barrier("b", 3)
    equal((store.get("b/num_members"), store.get("b/last_member")), (b"4", b"1"), "the keys of a barrier")


@clause
def _pickling(make: Make) -> None:
    store = make()
    equal(store.has_extended_api(), True, "has_extended_api()")
    for what, call in (("pickle", pickle.dumps), ("copy", copy.copy), ("deepcopy", copy.deepcopy)):
        refused(TypeError, what, call, store)


@clause
def _clone(make: Make) -> None:
    store = make()
    store.set_timeout(_seconds(7))
    clone = store.clone()
    equal(clone.timeout, _seconds(7), "the timeout of a new clone")
    clone.set_timeout(_seconds(9))
    clone.set("a", "1")
    equal((store.timeout, store.get("a")), (_seconds(7), b"1"), "the store after its clone was used")


def _seconds(number: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=number)
