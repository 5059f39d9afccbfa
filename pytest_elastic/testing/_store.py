"""The contract of stores: `check_store`, and the clauses that it checks, one point each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.pristine import pickle, threading, time
from pytest_elastic.testing._clauses import Clauses, Make, equal, refused, together

_LONG_KEY = "k" * 60_000
_BIG = 2**63 - 1
_SOON = timedelta(seconds=0.05)
_PAUSE = 0.1  # Seconds after which a thread that was started surely waits.
PROMPT = 2.0  # Seconds within which an event that needs no waiting happens, on a busy machine, too.

CLAUSES = Clauses()
clause = CLAUSES.add


def check_store(make_store: Make) -> None:
    """Check a kind of store against the contract: keys, values, operations and timeouts.

    Blocks for some seconds, and 10 more if clauses block for ever; their threads are left behind.

    Args:
        make_store: returns a new, empty store at each call, from any thread; its `clone()` must share the
            data.

    Raises:
        AssertionError: some clauses do not hold; the message has a line for each, such as
            `add counts from 0: add 0, 5, -7: [1, 6, -1], expected [0, 5, -2]`.

        def test_my_store_keeps_the_contract():
            check_store(MyStore)
    """
    if found := CLAUSES.complaints(make_store):
        raise AssertionError("\n".join(f"{title}: {text}" for title, text in found.items()))


@clause("a key is any text or its UTF-8 bytes")
def keys(make: Make) -> None:
    for key in ("", " ", "a b", "\0", "ü", _LONG_KEY):
        store = make()
        store.set(key, "1")
        equal(store.get(key.encode()), b"1", f"get of the bytes of {key[:9]!r}")
    refused(ValueError, "a key that is not UTF-8", make().set, b"\xff", "1")


@clause("a value is text or bytes")
def values(make: Make) -> None:
    store = make()
    text = type("Text", (str,), {})("ü")
    pairs = (("ü", b"\xc3\xbc"), (text, b"\xc3\xbc"), (b"\xff\0", b"\xff\0"), (bytearray(b"x"), b"x"))
    for value, stored in pairs:
        store.set("key", value)
        equal(store.get("key"), stored, f"value {value!r}")
    store.set("empty", b"")
    equal(store.check(["empty"]), True, "check of an empty value")


@clause("other types of keys and values are a TypeError")
def types(make: Make) -> None:
    store = make()
    for wrong in (1, None, 1.5, ["a"], memoryview(b"a"), "\ud800"):
        refused(TypeError, f"key {wrong!r}", store.set, wrong, "value")
        refused(TypeError, f"value {wrong!r}", store.set, "key", wrong)
    refused(TypeError, "set without a value", store.set, "key")
    refused(TypeError, "get with two keys", store.get, "key", "key")
    equal(store.check(["key"]), False, "check of a key that was not set")


@clause("several keys are any iterable")
def iterables(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    for keys in (("a", "b"), {"a", "b"}, iter(["a", "b"]), {"a": 0, "b": 0}.keys()):
        equal(store.check(keys), True, f"check of a {type(keys).__name__}")
    refused(TypeError, "check of a bare str", store.check, "ab")
    refused(TypeError, "check of a mapping", store.check, {"a": 1})
    equal((store.check([]), store.wait([]), store.multi_get([])), (True, None, []), "no keys")


@clause("arguments can be given by name")
def argument_names(make: Make) -> None:
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


@clause("set replaces the value")
def set_value(make: Make) -> None:
    store = make()
    equal((store.set("a", "1"), store.set("a", "2"), store.get("a")), (None, None, b"2"), "set twice")


@clause("get waits for its key")
def get(make: Make) -> None:
    store = make()
    setter = store.clone()
    answers = together(lambda: store.get("a"), lambda: setter.set("a", "1"))
    equal(answers, [b"1", None], "get while another sets")


@clause("add counts from 0")
def add(make: Make) -> None:
    store = make()
    equal([store.add("n", 0), store.add("n", 5), store.add("n", -7)], [0, 5, -2], "add 0, 5, -7")
    equal(store.get("n"), b"-2", "get of a counter")


@clause("add reads the number that a value begins with")
def add_to_text(make: Make) -> None:
    numbers = {" 5": 5, "+5": 5, "5a": 5, "5.9": 5, "0x10": 0, "010": 10, "": 0, "\t-3 4": -3}
    for text, number in numbers.items():
        store = make()
        store.set("n", text)
        equal(store.add("n", 0), number, f"add to {text!r}")
    for wrong, kind in (("a5", ValueError), ("  ", ValueError), ("--5", ValueError), ("9" * 20, IndexError)):
        store = make()
        store.set("n", wrong)
        refused(kind, f"add to {wrong!r}", store.add, "n", 1)
        equal(store.get("n"), wrong.encode(), "the value after a failed add")


@clause("an amount of add is a 64-bit integer")
def amounts(make: Make) -> None:
    store = make()
    number = type("Number", (), {"__index__": lambda self: 4})()
    equal([store.add("n", True), store.add("n", number)], [1, 5], "add True and an object with __index__")
    for wrong in (1.0, "1", None, 2**63, -(2**63) - 1):
        refused(TypeError, f"amount {wrong!r}", store.add, "n", wrong)
    store.set("n", str(_BIG))
    equal(store.add("n", 1), -_BIG - 1, "2**63 - 1 plus 1")


@clause("compare_set replaces only the expected value")
def compare_set(make: Make) -> None:
    store = make()
    equal(store.compare_set("a", "x", "1"), b"x", "missing, expected x")
    equal(store.check(["a"]), False, "nothing is stored then")
    equal(store.compare_set("a", "", "1"), b"1", "missing, expected nothing")
    equal(store.compare_set("a", "x", "2"), b"1", "present and different")
    equal((store.compare_set("a", "1", "2"), store.get("a")), (b"2", b"2"), "present and equal")


@clause("compare_set that expects nothing replaces only an empty value")
def compare_set_empty(make: Make) -> None:
    store = make()
    store.multi_set(["a", "empty"], ["1", ""])
    equal((store.compare_set("a", "", "2"), store.get("a")), (b"1", b"1"), "present, expected nothing")
    equal((store.compare_set("empty", "", "2"), store.get("empty")), (b"2", b"2"), "empty, expected nothing")


@clause("check tells whether all keys exist")
def check(make: Make) -> None:
    store = make()
    store.set("a", "1")
    equal((store.check(["a", "a"]), store.check(["a", "b"])), (True, False), "check")


@clause("delete_key tells whether the key existed")
def delete_key(make: Make) -> None:
    store = make()
    store.add("n", 5)
    equal((store.delete_key("n"), store.delete_key("n")), (True, False), "delete_key twice")
    equal(store.add("n", 1), 1, "add after delete_key")


@clause("append extends the value")
def append(make: Make) -> None:
    store = make()
    store.append("a", "")
    equal((store.check(["a"]), store.get("a")), (True, b""), "append of nothing")
    store.append("a", "x")
    store.append("a", "y")
    equal(store.get("a"), b"xy", "append twice")
    store.add("n", 1)
    store.append("n", "2")
    equal(store.add("n", 1), 13, "add to a counter that was appended to")


@clause("multi_set sets several keys in order")
def multi_set(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b", "a"], ["1", "2", "3"])
    equal(store.multi_get(["a", "b"]), [b"3", b"2"], "multi_set with a repeated key")
    refused(ValueError, "multi_set of 1 key and 2 values", store.multi_set, ["c"], ["1", "2"])
    equal(store.check(["c"]), False, "nothing is stored then")


@clause("multi_get waits for all its keys")
def multi_get(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    equal(store.multi_get(["b", "a", "b"]), [b"2", b"1", b"2"], "multi_get with repeats")
    setter = store.clone()
    answers = together(lambda: store.multi_get(["a", "c"]), lambda: setter.set("c", "3"))
    equal(answers, [[b"1", b"3"], None], "multi_get while another sets")


@clause("num_keys and list_keys see every key")
def listing(make: Make) -> None:
    store = make()
    before = store.num_keys()
    store.multi_set(["a", "b"], ["1", "2"])
    equal((store.num_keys() - before, sorted(store.list_keys())), (2, ["a", "b"]), "num_keys, list_keys")


@clause("a queue is separate from the value of its name")
def queues(make: Make) -> None:
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


@clause("queue_pop of an empty queue waits or fails")
def empty_queues(make: Make) -> None:
    store = make()
    error = refused("QueueEmptyError", "queue_pop of nothing", store.queue_pop, "q", False)
    equal(str(error), "queue is empty", "its text")
    store.queue_push("q", "1")
    store.queue_pop("q", True)
    equal(store.check(["q"]), False, "check of an emptied queue")
    store.set_timeout(timedelta(seconds=0.05))
    refused("DistStoreError", "queue_pop that times out", store.queue_pop, "q")


@clause("a barrier has a positive number of ranks")
def barrier_sizes(make: Make) -> None:
    store = make()
    store.set_timeout(timedelta(seconds=0.05))
    refused(ValueError, "barrier of 0", store.barrier, "b", 0)
    refused(TypeError, "barrier of 1.5", store.barrier, "b", 1.5)
    equal(store.check(["b/num_members"]), False, "nothing is stored then")


@clause("a barrier ends when the last rank arrives")
def barrier(make: Make) -> None:
    store = make()
    handles = [store.clone() for _ in range(3)]
    calls = [lambda handle=handle: handle.barrier("b", 3) for handle in handles]
    equal(together(*calls), [None] * 3, "three calls of barrier")
    store.barrier("b", 3)
    equal((store.get("b/num_members"), store.get("b/last_member")), (b"4", b"1"), "the keys of a barrier")


@clause("a store cannot be pickled or copied")
def pickling(make: Make) -> None:
    store = make()
    equal(store.has_extended_api(), True, "has_extended_api()")
    for what, call in (("pickle", pickle.dumps), ("copy", copy.copy), ("deepcopy", copy.deepcopy)):
        refused(TypeError, what, call, store)


@clause("a clone shares the data and has its own timeout")
def clone(make: Make) -> None:
    store = make()
    store.set_timeout(timedelta(seconds=7))
    clone = store.clone()
    equal(clone.timeout, timedelta(seconds=7), "the timeout of a new clone")
    clone.set_timeout(timedelta(seconds=9))
    clone.set("a", "1")
    equal((store.timeout, store.get("a")), (timedelta(seconds=7), b"1"), "the store after its clone was used")


@clause("wait returns when all keys exist")
def wait(make: Make) -> None:
    store = make()
    store.multi_set(["a", "b"], ["1", "2"])
    equal(store.wait(["a", "b", "a"]), None, "wait for keys that are there")
    refused(RuntimeError, "wait for a missing key", store.wait, ["a", "c"], _SOON)
    handles = [store.clone() for _ in range(3)]
    sets = [partial(handle.set, f"d{i}", "1") for i, handle in enumerate(handles)]
    answers = together(partial(store.clone().wait, ["d0", "d1", "d2"]), *sets)
    equal(answers, [None] * 4, "wait for three keys while others set them")


@clause("waiting poppers are served in order")
def poppers(make: Make) -> None:
    orders = [_popping_order(make()) for _ in range(3)]
    if ["1", "2", "3"] not in orders:
        raise AssertionError(f"three poppers one after the other got {orders}")


def _popping_order(store: Any) -> list[str]:
    def pop(place: int, handle: Any) -> str:
        time.sleep(place * _PAUSE)
        popped: bytes = handle.queue_pop("q")
        return popped.decode()

    def push() -> None:
        time.sleep(3 * _PAUSE)
        for element in ("1", "2", "3"):
            store.queue_push("q", element)

    return together(*(partial(pop, place, store.clone()) for place in range(3)), push)[:3]


@clause("the timeout is 300 s at first and changed by set_timeout only")
def timeout(make: Make) -> None:
    store = make()
    equal(store.timeout, timedelta(seconds=300), "the first timeout")
    refused(AttributeError, "assignment to timeout", setattr, store, "timeout", timedelta(seconds=1))


@clause("a timeout is a number of seconds or a timedelta")
def spans(make: Make) -> None:
    store = make()
    spans = {1.5: 1.5, 2: 2, timedelta(microseconds=1500): 0.0015, timedelta(microseconds=1): 1e-6}
    for span, seconds in spans.items():
        store.set_timeout(span)
        equal(store.timeout, timedelta(seconds=seconds), f"set_timeout({span!r})")
    refused(TypeError, "set_timeout(None)", store.set_timeout, None)
    store.set("a", "1")
    for span in (1, 0.5, _SOON):
        store.wait(["a"], span)
        store.barrier("b", 1, span)


@clause("a wait keeps the timeout that it began with")
def own_timeout(make: Make) -> None:
    store = make()
    store.set_timeout(timedelta(seconds=2 * _PAUSE))
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        store.wait(["a"])

    def change() -> None:
        begun.wait()
        time.sleep(_PAUSE)
        store.set_timeout(timedelta(seconds=60))

    error, _ = together(wait, change)
    refused(RuntimeError, "a wait whose store's timeout was changed", _raise, error)


@clause("a timeout may be 0, negative or very long")
def no_time(make: Make) -> None:
    store = make()
    store.set("a", "1")
    for seconds in (0, -1, -(10**9)):
        store.wait(["a"], timedelta(seconds=seconds))
        refused(RuntimeError, f"wait of {seconds} s", store.wait, ["b"], timedelta(seconds=seconds))
        store.set_timeout(timedelta(seconds=seconds))
        refused(RuntimeError, f"get with a timeout of {seconds} s", store.get, "b")
    store.wait(["a"], timedelta(days=100_000))
    handle = store.clone()
    late = partial(store.wait, ["c"], timedelta(days=100_000))
    equal(together(late, lambda: handle.set("c", "1")), [None, None], "a wait of 100,000 days")


@clause("every write wakes all waiters for its key")
def waking(make: Make) -> None:
    writes = {
        "set": lambda store: store.set("a", "1"),
        "add": lambda store: store.add("a", 1),
        "append": lambda store: store.append("a", "1"),
        "compare_set": lambda store: store.compare_set("a", "", "1"),
        "multi_set": lambda store: store.multi_set(["a"], ["1"]),
        "queue_push": lambda store: store.queue_push("a", "1"),
    }
    for name, write in writes.items():
        store = make()
        handles = [store.clone() for _ in range(2)]
        waits = [partial(handle.wait, ["a"], timedelta(seconds=PROMPT)) for handle in handles]
        began = SYSTEM_CLOCK.monotonic()
        answers = together(*waits, partial(_later, write, store))
        equal(answers[:2], [None, None], f"two waiters for a key that {name} makes")
        if SYSTEM_CLOCK.monotonic() - began >= PROMPT:
            raise AssertionError(f"{name} did not wake the waiters")


@clause("a wait never ends before its deadline")
def at_the_deadline(make: Make) -> None:
    store = make()
    store.set("a", "1")
    together(partial(store.wait, ["a"], timedelta(milliseconds=1)))  # Too short on a busy machine, perhaps.
    began = SYSTEM_CLOCK.monotonic()
    refused(RuntimeError, "wait", store.wait, ["b"], _SOON)
    elapsed = SYSTEM_CLOCK.monotonic() - began
    if elapsed < _SOON.total_seconds():
        raise AssertionError(f"a wait of {_SOON.total_seconds()} s ended after {elapsed} s")


@clause("a timeout's error has the missing keys and the time")
def timeout_errors(make: Make) -> None:
    store = make()
    store.set("there", "1")
    keys = [f"missing{i}" for i in range(20)]
    error: Any = refused("DistStoreError", "wait", store.wait, ["there", *keys], _SOON)
    text = str(error)
    equal(text.startswith("Wait timeout"), True, f"the text {text[:40]!r} beginning with 'Wait timeout'")
    equal([key in text for key in (keys[0], keys[15], keys[16], "there")], [True, True, False, False], text)
    equal(getattr(error, "keys", None), tuple(keys), "keys")
    equal(getattr(error, "timeout", None), _SOON.total_seconds(), "timeout")
    if not getattr(error, "elapsed", 0.0) >= _SOON.total_seconds():
        raise AssertionError("elapsed is less than the timeout")


@clause("a key that is set and deleted wakes a waiter or is missed")
def here_and_gone(make: Make) -> None:
    store = make()
    handle = store.clone()

    def come_and_go() -> None:
        time.sleep(_PAUSE)
        store.set("a", "1")
        store.delete_key("a")

    error, _ = together(partial(handle.wait, ["a"], timedelta(seconds=4 * _PAUSE)), come_and_go)
    if error is not None:  # A store whose waiters look again may miss the key.
        refused(RuntimeError, "wait", _raise, error)


def _later(write: Callable[[Any], object], store: Any) -> None:
    time.sleep(_PAUSE)
    write(store)


def _raise(error: object) -> None:
    if isinstance(error, Exception):
        raise error
