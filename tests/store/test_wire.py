"""Frames: what is packed comes out again, and nothing else is accepted."""

from __future__ import annotations

import ast
import inspect
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_elastic.errors import DistError, DistNetworkError, DistStoreError, QueueEmptyError
from pytest_elastic.store import _wire
from pytest_elastic.store._handle import timeout_error
from pytest_elastic.store._wire import (
    ADOPT,
    GREETING,
    MAX_FRAME,
    MAX_KEY,
    MAX_KEYS,
    MAX_VALUE,
    REQUESTS,
    Frames,
    Layout,
    WireError,
    pack_answer,
    pack_error,
    pack_refusal,
    unpack_answer,
)

_BIG = bytes(MAX_VALUE)
_keys = st.text(max_size=20)
_values = st.binary(max_size=20)
_numbers = st.integers(-(2**63), 2**63 - 1)
_spans = st.floats(allow_nan=False)
REQUEST_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "set": st.tuples(_keys, _values),
    "get": st.tuples(_spans, _spans, _keys),
    "add": st.tuples(_keys, _numbers),
    "compare_set": st.tuples(_keys, _values, _values),
    "wait": st.tuples(_spans, _spans, st.lists(_keys), st.booleans(), st.lists(_numbers)),
    "check": st.tuples(st.lists(_keys)),
    "delete_key": st.tuples(_keys),
    "append": st.tuples(_keys, _values),
    "multi_set": st.tuples(st.lists(_keys), st.lists(_values)),
    "multi_get": st.tuples(_spans, _spans, st.lists(_keys), st.booleans(), st.lists(_numbers)),
    "num_keys": st.just(()),
    "list_keys": st.just(()),
    "queue_push": st.tuples(_keys, _values),
    "queue_pop": st.tuples(_spans, _spans, _keys, st.booleans()),
    "queue_len": st.tuples(_keys),
    "barrier": st.tuples(_spans, _spans, _keys, _numbers),
    "arrive": st.tuples(_keys, _numbers, _numbers),
    "members": st.tuples(_keys),
    "post": st.tuples(_keys, _numbers, _numbers, _values, _values),
    "meet": st.tuples(_spans, _spans, _keys, _numbers, _numbers, st.lists(_numbers), _values, _values),
}
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    "set": st.none(),
    "get": _values,
    "add": _numbers,
    "check": st.booleans(),
    "multi_get": st.lists(_values),
    "list_keys": st.lists(_keys),
    "members": st.lists(_numbers),
}


@given(st.data())
def test_requests_come_out_as_they_went_in(data: st.DataObject) -> None:
    """Whatever the operation and its arguments."""
    name = data.draw(st.sampled_from(sorted(REQUESTS)))
    fields = data.draw(REQUEST_FIELDS[name])
    frame = REQUESTS[name].pack(fields)
    assert struct.unpack_from(">I", frame)[0] == len(frame) - 4
    assert frame[4] == REQUESTS[name].code
    assert REQUESTS[name].unpack(frame) == list(fields)


@given(st.data())
def test_answers_come_out_as_they_went_in(data: st.DataObject) -> None:
    """Numbers, bytes, texts and lists."""
    name = data.draw(st.sampled_from(sorted(ANSWERS)))
    answer = data.draw(ANSWERS[name])
    assert unpack_answer(REQUESTS[name], pack_answer(REQUESTS[name], answer)) == answer


@pytest.mark.parametrize(
    ("name", "answer"), [("get", b""), ("multi_get", []), ("list_keys", []), ("members", []), ("meet", [])]
)
def test_empty_answers_come_out_as_they_went_in(name: str, answer: bytes | list[Any]) -> None:
    """Though their frames are alike."""
    assert unpack_answer(REQUESTS[name], pack_answer(REQUESTS[name], answer)) == answer


ERRORS: list[Exception] = [
    ValueError("no number"),
    IndexError("too big"),
    DistStoreError("bad"),
    QueueEmptyError("queue is empty", keys=("q",)),
    timeout_error(("a", "ü"), 1.5, 1.75),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_come_out_as_they_went_in(error: Exception) -> None:
    """Their type, text and fields."""
    with pytest.raises(type(error)) as info:
        unpack_answer(REQUESTS["add"], pack_error(error))
    assert type(info.value) is type(error)
    assert (info.value.args, vars(info.value)) == (error.args, vars(error))


def test_an_unknown_error_becomes_a_store_error() -> None:
    """Named in the text, so that it is not lost."""
    with pytest.raises(DistStoreError, match="KeyError: 'k'"):
        unpack_answer(REQUESTS["add"], pack_error(KeyError("k")))


def test_a_refusal_is_a_network_error() -> None:
    """With the server's reason."""
    with pytest.raises(DistNetworkError, match="wrong token"):
        unpack_answer(GREETING, pack_refusal("wrong token"))
    assert not issubclass(DistNetworkError, DistStoreError)
    assert issubclass(DistNetworkError, DistError)


def test_an_unknown_answer_is_no_frame() -> None:
    """The codes are fixed."""
    with pytest.raises(WireError, match="unknown code 99"):
        unpack_answer(GREETING, Layout(99, "odd", "").pack(()))


def test_nothing_is_evaluated() -> None:
    """The module uses nothing that turns bytes into code."""
    names = {node.id for node in ast.walk(ast.parse(inspect.getsource(_wire))) if isinstance(node, ast.Name)}
    assert not names & {"eval", "exec", "pickle", "marshal", "importlib", "__import__"}


@given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=60))
@settings(max_examples=500)
def test_garbage_is_a_wire_error(name: str, body: bytes) -> None:
    """Or, by chance, a whole request; never another error."""
    frame = struct.pack(">IB", len(body) + 1, REQUESTS[name].code) + body
    try:
        fields = REQUESTS[name].unpack(frame)
    except WireError:
        return
    assert len(fields) == len(REQUESTS[name].unpack(REQUESTS[name].pack(fields)))


@given(st.data())
def test_cut_or_lengthened_requests_are_wire_errors(data: st.DataObject) -> None:
    """Fields must fill the frame."""
    name = data.draw(st.sampled_from(sorted(REQUESTS)))
    frame = REQUESTS[name].pack(data.draw(REQUEST_FIELDS[name]))
    wrong = data.draw(st.sampled_from([frame[:-1], frame + b"\0"]))
    with pytest.raises(WireError):
        REQUESTS[name].unpack(wrong)


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("set", ("k", bytes(MAX_VALUE + 1)), "value: 16777217 bytes, the limit is 16777216 bytes"),
        ("get", (1.0, 0.0, "k" * (MAX_KEY + 1)), "key: 65537 bytes, the limit is 65536 bytes"),
        ("get", (1.0, 0.0, "ü" * (MAX_KEY // 2 + 1)), "key: 65538 bytes"),
        ("check", (["k"] * (MAX_KEYS + 1),), "keys: 65537, the limit is 65536"),
        ("check", (["k" * (MAX_KEY + 1)],), "key: 65537 bytes"),
        ("multi_set", (["k"], [bytes(MAX_VALUE + 1)]), "value: 16777217 bytes"),
        (
            "multi_set",
            (list("abcde"), [_BIG] * 5),
            "frame: 838861.. bytes, the limit is 67108864",
        ),
    ],
)
def test_beyond_the_limits_nothing_is_packed(name: str, fields: tuple[Any, ...], text: str) -> None:
    """A ValueError with the limit and the size."""
    with pytest.raises(ValueError, match=text):
        REQUESTS[name].pack(fields)


def test_at_the_limits_everything_is_packed() -> None:
    """The limits themselves are allowed."""
    REQUESTS["set"].pack(("k" * MAX_KEY, bytes(MAX_VALUE)))
    assert REQUESTS["check"].unpack(REQUESTS["check"].pack((["k"] * MAX_KEYS,))) == [["k"] * MAX_KEYS]


@pytest.mark.parametrize("name", ["check", "multi_set"])
def test_too_many_keys_are_not_read(name: str) -> None:
    """A list that announces more is refused before memory is taken for it."""
    heads = struct.pack(">I", MAX_KEYS + 1) * (1 if name == "check" else 2)
    frame = struct.pack(">IB", 1, REQUESTS[name].code) + heads + bytes(4 * (MAX_KEYS + 1))
    with pytest.raises(WireError, match="65537 keys; the limit is 65536"):
        REQUESTS[name].unpack(frame)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6), st.data())
def test_frames_may_come_in_any_pieces(bodies: list[bytes], data: st.DataObject) -> None:
    """One byte at a time, or many frames at once."""
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    frames, found = Frames(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:size])
        stream = stream[size:]
    assert ([frame[4:] for frame in found], frames.held) == (bodies, b"")


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_announces_too_much_is_refused_at_once(size: int) -> None:
    """Before its bytes come, and without their memory."""
    tracemalloc.start()
    with pytest.raises(WireError, match=f"a frame of {size} bytes; the limit is {MAX_FRAME}"):
        Frames().feed(struct.pack(">I", size))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_strangers_have_a_small_limit() -> None:
    """4 KiB before the token."""
    frames = Frames(_wire.MAX_GREETING)
    assert len(frames.feed(struct.pack(">I", 4096) + bytes(4096))) == 1
    with pytest.raises(WireError, match="4097"):
        frames.feed(struct.pack(">I", 4097) + bytes(4097))


def test_every_code_is_used_once() -> None:
    """A code means one operation."""
    codes = [layout.code for layout in (*REQUESTS.values(), GREETING, ADOPT)]
    assert len(set(codes)) == len(codes)
