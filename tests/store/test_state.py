"""The state machine alone: no thread, no time."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.errors import QueueEmptyError
from pytest_elastic.store import StoreState, _state
from pytest_elastic.store._state import Waiter


@pytest.fixture(params=["level", "latched"])
def state(request: pytest.FixtureRequest) -> StoreState:
    return StoreState(request.param)


def blocked(answer: object) -> Waiter:
    assert isinstance(answer, Waiter)
    assert not answer.done
    return answer


def woken(state: StoreState) -> list[Waiter]:
    """Take the woken ones, as a carrier does, and resume them; those that are done."""
    waiters, state.woken = state.woken, []
    return [waiter for waiter in waiters if state.resume(waiter)]


def test_is_pure() -> None:
    """The module imports nothing that could wait, tell the time or talk."""
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(_state)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"__future__", "re", "collections", "typing", "pytest_elastic"}


def test_knows_two_ways_to_wake() -> None:
    """Anything else is refused."""
    assert StoreState().wake == "latched"
    with pytest.raises(ValueError, match="wake must be 'level' or 'latched', not 'edge'"):
        StoreState("edge")  # type: ignore[arg-type]


def test_apply_takes_operations_as_data(state: StoreState) -> None:
    """A name and arguments; a blocked one is its client's waiter."""
    assert state.apply(("add", "n", 2)) == 2
    waiter = blocked(state.apply(("wait", ["n", "a"]), client="rank 1"))
    assert (waiter.name, list(waiter.keys), waiter.client) == ("wait", ["n", "a"], "rank 1")
    assert state.waiters() == [waiter]
    assert repr(waiter) == "<wait of 'rank 1' for ['n', 'a']>"


@pytest.mark.parametrize("name", ["woken", "_block", "resume", "nothing", 5])
def test_apply_refuses_what_is_no_operation(state: StoreState, name: object) -> None:
    """The methods for carriers are not operations."""
    with pytest.raises(ValueError, match=f"a store has no operation {name!r}"):
        state.apply((name, "key"))


def test_set_overwrites_whatever_was_there(state: StoreState) -> None:
    """A value, a counter, or nothing."""
    for value in (b"1", b"", b"text"):
        assert state.set("k", value) is None  # type: ignore[func-returns-value]
        assert state.get("k") == value
    state.add("n", 7)
    state.set("n", b"x")
    assert state.get("n") == b"x"


def test_get_waits_for_the_key(state: StoreState) -> None:
    """And for no other; what it gets is what was set."""
    waiter = blocked(state.get("k"))
    state.set("other", b"0")
    assert woken(state) == []
    state.set("k", b"1")
    assert woken(state) == [waiter]
    assert waiter.result == b"1"


@pytest.mark.parametrize(
    ("present", "expected", "answer", "after"),
    [
        (b"old", b"old", b"new", b"new"),  # Present and equal.
        (b"old", b"x", b"old", b"old"),  # Present and different.
        (None, b"", b"new", b"new"),  # Missing, nothing expected.
        (None, b"x", b"x", None),  # Missing, something expected.
        (b"old", b"", b"old", b"old"),  # An empty expectation is no wildcard.
        (b"", b"", b"new", b"new"),  # But the empty value's own.
    ],
)
def test_compare_set(
    state: StoreState, present: bytes | None, expected: bytes, answer: bytes, after: bytes | None
) -> None:
    """What it returns and what is then there; it wakes if it stored."""
    if present is not None:
        state.set("k", present)
    waiter = state.get("k")
    assert state.compare_set("k", expected, b"new") == answer
    assert state.check(["k"]) == (after is not None)
    assert (state.get("k") if after is not None else None) == after
    if isinstance(waiter, Waiter):
        assert woken(state) == ([waiter] if after == b"new" else [])


def test_check_looks_at_values_and_queues(state: StoreState) -> None:
    """Now; repeats are fine; nobody waits."""
    state.set("k", b"")
    state.queue_push("q", b"")
    assert state.check(["k", "q", "k"])
    assert not state.check(["k", "missing"])
    state.queue_pop("q")
    assert not state.check(["q"])
    assert state.waiters() == []


def test_append(state: StoreState) -> None:
    """At the end, also of nothing and of a counter's digits; it wakes who waits for the key."""
    waiter = blocked(state.get("k"))
    assert state.append("k", b"") is None  # type: ignore[func-returns-value]
    assert woken(state) == [waiter]
    state.append("k", b"\xff")
    state.append("k", b"y")
    assert state.get("k") == b"\xffy"
    state.add("n", 1)
    state.append("n", b"2")
    assert state.add("n", 1) == 13


@pytest.mark.parametrize(
    "text", ["5", "+5", " \t\n\v\f\r5", "5a", "5.9", "05", "0" * 5000 + "5", "5\0", "5_0"]
)
def test_reads_numbers_as_c_does(state: StoreState, text: str) -> None:
    """White space, a sign, and digits up to the first other character."""
    state.set("n", text.encode())
    assert state.add("n", 0) == 5
    assert state.get("n") == b"5"


@pytest.mark.parametrize("value", [b"a5", b" ", b"--5", b"\xff", b"-", b"\x005", "٥".encode(), b"\x1c5"])
def test_refuses_text_without_digits(state: StoreState, value: bytes) -> None:
    """A ValueError that names key and value; nothing changed."""
    state.set("n", value)
    with pytest.raises(ValueError, match="'n' is no number: b") as info:
        state.add("n", 1)
    assert repr(value) in str(info.value)
    assert state.get("n") == value


@pytest.mark.parametrize("value", [b"9223372036854775808", b"-9223372036854775809", b"9" * 5000])
def test_refuses_numbers_beyond_64_bits(state: StoreState, value: bytes) -> None:
    """An IndexError whose text stays short; nothing changed."""
    state.set("n", value)
    with pytest.raises(IndexError, match="'n' does not fit 64 bits") as info:
        state.add("n", 1)
    assert len(str(info.value)) < 200
    assert state.get("n") == value


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_sums_wrap(first: int, second: int) -> None:
    """As signed 64-bit numbers."""
    state = StoreState()
    assert state.add("n", first) == first
    expected = (first + second + 2**63) % 2**64 - 2**63
    assert state.add("n", second) == expected
    assert state.get("n") == b"%d" % expected


def test_level_needs_all_keys_at_once() -> None:
    """A key that went before the last came is waited for again."""
    state = StoreState("level")
    waiter = blocked(state.wait(["a", "b"]))
    state.set("a", b"1")
    assert woken(state) == []
    state.delete_key("a")
    state.set("b", b"1")
    assert woken(state) == []
    assert state.missing(waiter) == ("a",)
    state.set("a", b"1")
    assert woken(state) == [waiter]


def test_latched_needs_each_key_once() -> None:
    """A key that was there since the call counts although it went."""
    state = StoreState("latched")
    waiter = blocked(state.wait(["a", "b"]))
    state.set("a", b"1")
    state.delete_key("a")
    assert state.missing(waiter) == ("b",)
    state.set("b", b"1")
    assert woken(state) == [waiter]


def test_queues_exist_for_wait(state: StoreState) -> None:
    """An element pushed ends a wait."""
    waiter = blocked(state.wait(["q"]))
    state.queue_push("q", b"1")
    assert woken(state) == [waiter]
    assert state.queue_len("q") == 1


def test_multi_set_shows_all_at_once() -> None:
    """A level waiter for the first key finds the last one, too."""
    state = StoreState("level")
    waiter = blocked(state.multi_get(["a", "b"]))
    state.multi_set(["a", "b", "a"], [b"1", b"2", b"3"])
    assert woken(state) == [waiter]
    assert waiter.result == [b"3", b"2"]


def test_a_key_that_was_seen_counts(state: StoreState) -> None:
    """Although it is gone when the others come."""
    state.set("a", b"1")
    waiter = blocked(state.multi_get(["a", "b", "a"]))
    state.delete_key("a")
    assert state.missing(waiter) == ("b",)
    state.set("b", b"2")
    assert woken(state) == [waiter]
    assert waiter.result == [b"1", b"2", b"1"]


def test_queues_do_not_end_a_get(state: StoreState) -> None:
    """Get and multi_get wait for values only."""
    getter, many = blocked(state.get("k")), blocked(state.multi_get(["k"]))
    state.queue_push("k", b"element")
    assert (woken(state), state.missing(getter)) == ([], ("k",))
    state.set("k", b"value")
    assert woken(state) == [getter, many]
    assert (getter.result, many.result) == (b"value", [b"value"])


def test_values_do_not_end_a_pop(state: StoreState) -> None:
    """A blocked pop waits for an element, a value of that name or not."""
    popper = blocked(state.queue_pop("k"))
    state.set("k", b"value")
    assert (woken(state), state.missing(popper)) == ([], ("k",))
    state.queue_push("k", b"element")
    assert woken(state) == [popper]
    assert popper.result == b"element"


def test_an_emptied_queue_is_gone(state: StoreState) -> None:
    """Check and wait do not see it, and a pop that does not block raises."""
    state.queue_push("q", b"1")
    assert state.queue_pop("q", False) == b"1"
    assert not state.check(["q"])
    blocked(state.wait(["q"]))
    with pytest.raises(QueueEmptyError, match=r"^queue is empty$") as info:
        state.queue_pop("q", False)
    assert info.value.keys == ("q",)


def test_poppers_are_served_in_order(state: StoreState) -> None:
    """One element each; the rest stays."""
    poppers = [blocked(state.queue_pop("q")) for _ in range(3)]
    for element in (b"1", b"2"):
        state.queue_push("q", element)
    assert woken(state) == poppers[:2]
    assert [popper.result for popper in poppers] == [b"1", b"2", None]
    assert (state.queue_len("q"), state.waiters()) == (0, [poppers[2]])


def test_a_push_wakes_waiters_and_one_popper() -> None:
    """Latched waiters all saw the element, though a popper has it."""
    state = StoreState("latched")
    popper, waiters = blocked(state.queue_pop("q")), [blocked(state.wait(["q"])) for _ in range(2)]
    state.queue_push("q", b"1")
    assert woken(state) == [popper, *waiters]


WRITES: dict[str, Any] = {
    "set": ("set", "k", b"1"),
    "add": ("add", "k", 1),
    "append": ("append", "k", b"1"),
    "compare_set": ("compare_set", "k", b"", b"1"),
    "multi_set": ("multi_set", ["x", "k"], [b"1", b"1"]),
    "queue_push": ("queue_push", "k", b"1"),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_wakes_all_waiters(state: StoreState, write: str) -> None:
    """No write forgets anybody."""
    waiters = [blocked(state.wait(["k"])) for _ in range(3)]
    state.apply(WRITES[write])
    assert woken(state) == waiters
    assert state.waiters() == []


def test_a_compare_set_that_stores_nothing_wakes_nobody(state: StoreState) -> None:
    """Nothing was written."""
    blocked(state.wait(["k"]))
    assert state.compare_set("k", b"x", b"1") == b"x"
    assert state.woken == []


def test_level_may_miss_what_latched_sees() -> None:
    """A key that is set and deleted before the waiter is resumed."""
    seen = {}
    for wake in ("level", "latched"):
        state = StoreState(wake)
        waiter = blocked(state.wait(["k"]))
        state.set("k", b"1")
        state.delete_key("k")
        seen[wake] = woken(state) == [waiter]
    assert seen == {"level": False, "latched": True}


def test_a_latched_get_has_the_value_that_released_it() -> None:
    """Not a later one."""
    state = StoreState("latched")
    waiter = blocked(state.get("k"))
    state.set("k", b"1")
    state.set("k", b"2")
    assert woken(state) == [waiter]
    assert waiter.result == b"1"


def test_missing_names_each_key_once_in_the_order_asked(state: StoreState) -> None:
    """And not those that are there."""
    state.set("b", b"1")
    state.queue_push("q", b"1")
    waiter = blocked(state.wait(["c", "b", "a", "q", "c"]))
    assert state.missing(waiter) == ("c", "a")


def test_an_abandoned_waiter_leaves_nothing(state: StoreState) -> None:
    """No record, and no wake-up."""
    for waiter in (state.wait(["a", "b"]), state.get("a"), state.queue_pop("a"), state.multi_get(["a", "b"])):
        state.abandon(blocked(waiter))
    state.set("a", b"1")
    state.queue_push("a", b"1")
    assert (state.waiters(), state.woken, state.queue_len("a")) == ([], [], 1)


def test_an_element_goes_back_to_the_head_of_the_queue(state: StoreState) -> None:
    """If its popper is abandoned before it was told; the next popper gets it first."""
    first, second = blocked(state.queue_pop("q")), blocked(state.queue_pop("q"))
    state.queue_push("q", b"1")
    assert woken(state) == [first]
    state.abandon(first)
    assert woken(state) == [second]
    assert second.result == b"1"
    state.abandon(second)
    state.queue_push("q", b"2")
    assert [state.queue_pop("q", False), state.queue_pop("q", False)] == [b"1", b"2"]


def test_a_barrier_is_three_operations_in_one(state: StoreState) -> None:
    """It counts, releases and waits."""
    waiter = blocked(state.barrier("b", 2))
    assert state.missing(waiter) == ("b/last_member",)
    assert state.barrier("b", 2) is None
    assert woken(state) == [waiter]
    assert state.barrier("b", 2) is None
    assert (state.get("b/num_members"), state.get("b/last_member")) == (b"3", b"1")


def test_arrivals_are_remembered_until_the_counter_goes(state: StoreState) -> None:
    """In their order, as long as the count that they made."""
    assert (state.members("n"), state.arrive("n", 2), state.arrive("n", 0)) == ([], 1, 2)
    state.members("n").append(9)
    assert state.members("n") == [2, 0]
    state.delete_key("n")
    assert state.members("n") == []


def test_a_waiter_that_was_registered_by_half_can_be_abandoned(state: StoreState) -> None:
    """An interrupt hits anywhere, and must not become another error."""
    waiter = blocked(state.queue_pop("q"))
    waiter.pending["never registered"] = None
    state.abandon(waiter)
    assert (waiter.pending, state.waiters()) == ({}, [])
    state.queue_push("q", b"1")
    assert (state.woken, state.queue_len("q")) == ([], 1)


def test_a_notify_storm_loses_nobody(state: StoreState) -> None:
    """64 waiters on 64 keys, one multi_set of all, each woken once, 1,000 times."""
    keys = [f"key{i}" for i in range(64)]
    for _ in range(1000):
        waiters = [blocked(state.wait([key])) for key in keys]
        state.multi_set(keys, [b"1"] * 64)
        assert woken(state) == waiters
        for key in keys:
            state.delete_key(key)
    assert state.waiters() == []


def test_a_wait_for_many_keys_is_not_quadratic() -> None:
    """65,536 keys set one by one release their waiter with one look at each."""
    state = StoreState("latched")
    keys = [str(i) for i in range(65_536)]
    waiter = blocked(state.wait(keys))
    for key in keys:
        state.set(key, b"")
    assert woken(state) == [waiter]
