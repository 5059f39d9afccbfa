"""What goes over a served store's connection, as bytes; no sockets here, and nothing is evaluated.

*Theory of operation.*  A frame is a 4-byte big-endian length and a body.  A body begins with a code of one
byte: an operation's in requests, 0 or an error's in answers.  Then come its numbers and the lengths or
counts of its other fields, at fixed places, then the fields' bytes one after the other.  A request that
may block starts with its timeout in seconds.  There is one answer to each request, in order.

A connection's first request is the greeting: the protocol's version and the token (empty where none is
needed).  `ADOPT` has no answer: it travels with the descriptor of a socket, which the server then serves.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pytest_elastic.errors import DistNetworkError, DistStoreError, QueueEmptyError
from pytest_elastic.store._handle import timeout_error

VERSION = 1
MAX_KEY = 64 * 2**10
MAX_KEYS = 65_536
MAX_VALUE = 16 * 2**20
MAX_FRAME = 64 * 2**20
MAX_GREETING = 4 * 2**10

_SIZE = struct.Struct(">I")
# A field is a number (f: seconds, n: 64 bits, b: truth), a text or bytes (k: key, v: value), or many of
# them (K: keys, V: values, N: numbers).
_HEADS = {"f": "d", "n": "q", "b": "?", "k": "I", "v": "I", "K": "I", "V": "I", "N": "I"}


def _limit_key(key: str) -> None:
    _limit("key", len(key) if key.isascii() else len(key.encode()), MAX_KEY)


def _limit(what: str, size: int, most: int, unit: str = " bytes") -> None:
    if size > most:
        raise ValueError(f"{what}: {size}{unit}, the limit is {most}{unit}")


class WireError(ValueError):
    """The bytes are no frame of this protocol."""


class Layout:
    """How the fields of one kind of frame lie in its bytes.

    Attributes:
        code: the first byte of the body.
        name: the operation.
        blocks: whether the first field is a timeout.
        answer: the layout of the answer.
    """

    def __init__(self, code: int, name: str, fields: str, answer: Layout | None = None) -> None:
        self.code, self.name, self.fields = code, name, fields
        self.blocks = fields.startswith("f")
        self.answer = self if answer is None else answer
        self.head = struct.Struct(">IB" + "".join(_HEADS[kind] for kind in fields))

    def pack(self, values: Sequence[Any]) -> bytes:
        """The frame; `ValueError` if it is longer than `MAX_FRAME`."""
        heads, tails = [], []
        for kind, value in zip(self.fields, values, strict=True):
            if kind in "fnb":
                heads.append(value)
                continue
            tail, head = _pack_field(kind, value)
            heads.append(head)
            tails.append(tail)
        body = b"".join(tails)
        size = self.head.size - _SIZE.size + len(body)
        _limit("frame", size, MAX_FRAME)
        return self.head.pack(size, self.code, *heads) + body

    def unpack(self, frame: bytes) -> list[Any]:
        """The fields of a whole frame.

        Raises:
            WireError: they do not fill it exactly, or are not what they should be.
        """
        try:
            heads = self.head.unpack_from(frame)
            at = self.head.size
            values = []
            for kind, head in zip(self.fields, heads[2:], strict=True):
                value = head
                if kind not in "fnb":
                    value, at = _unpack_field(kind, head, frame, at)
                values.append(value)
        except (struct.error, UnicodeDecodeError) as error:
            raise WireError(f"{self.name}: {error}") from None
        if at != len(frame):
            raise WireError(f"{self.name}: a frame of {len(frame)} bytes where its fields need {at}")
        return values


def _pack_field(kind: str, value: Any) -> tuple[bytes, int]:
    """The field's bytes, and its length or count."""
    if kind == "k":
        tail = value.encode()
        return tail, len(tail)
    if kind == "v":
        return value, len(value)
    if kind == "N":
        return struct.pack(f">{len(value)}q", *value), len(value)
    items = [item.encode() for item in value] if kind == "K" else value
    return struct.pack(f">{len(items)}I", *map(len, items)) + b"".join(items), len(items)


def _unpack_field(kind: str, head: int, frame: bytes, at: int) -> tuple[Any, int]:
    """The field that begins at this place, and where the next one does."""
    if kind in "kv":
        piece = frame[at : at + head]
        return piece.decode() if kind == "k" else piece, at + head
    if kind == "N":
        return list(struct.unpack_from(f">{head}q", frame, at)), at + 8 * head
    sizes = struct.unpack_from(f">{head}I", frame, at)
    at += 4 * head
    items: list[Any] = []
    for size in sizes:
        items.append(frame[at : at + size])
        at += size
    return [item.decode() for item in items] if kind == "K" else items, at


def _answer(fields: str) -> Layout:
    return Layout(0, "answer", fields)


_NOTHING, _TRUTH, _COUNT, _BYTES = _answer(""), _answer("b"), _answer("n"), _answer("v")

_DONE = _NOTHING.pack(())
GREETING = Layout(0, "greeting", "nv", _NOTHING)
ADOPT = Layout(255, "adopt", "")
REQUESTS = {
    layout.name: layout
    for layout in (
        Layout(1, "set", "kv", _NOTHING),
        Layout(2, "get", "fk", _BYTES),
        Layout(3, "add", "kn", _COUNT),
        Layout(4, "compare_set", "kvv", _BYTES),
        Layout(5, "wait", "fK", _NOTHING),
        Layout(6, "check", "K", _TRUTH),
        Layout(7, "delete_key", "k", _TRUTH),
        Layout(8, "append", "kv", _NOTHING),
        Layout(9, "multi_set", "KV", _NOTHING),
        Layout(10, "multi_get", "fK", _answer("V")),
        Layout(11, "num_keys", "", _COUNT),
        Layout(12, "list_keys", "", _answer("K")),
        Layout(13, "queue_push", "kv", _NOTHING),
        Layout(14, "queue_pop", "fkb", _BYTES),
        Layout(15, "queue_len", "k", _COUNT),
        Layout(16, "barrier", "fkn", _NOTHING),
        Layout(17, "arrive", "kn", _COUNT),
        Layout(18, "members", "k", _answer("N")),
    )
}
BY_CODE = {layout.code: layout for layout in REQUESTS.values()}

_TIMED_OUT = Layout(1, "timeout", "ffK")
_EMPTY = Layout(2, "empty", "vK")
_REFUSED = Layout(3, "refused", "v")
_ERRORS: dict[type[Exception], Layout] = {
    ValueError: Layout(4, "ValueError", "v"),
    IndexError: Layout(5, "IndexError", "v"),
    DistStoreError: Layout(6, "DistStoreError", "v"),
}
_ERROR_TYPES = {layout.code: (kind, layout) for kind, layout in _ERRORS.items()}


def pack_request(name: str, values: Sequence[Any]) -> bytes:
    """The frame of an operation; `ValueError` names the limit that it breaks, and its size."""
    layout = REQUESTS[name]
    for kind, value in zip(layout.fields, values, strict=True):
        if kind == "k":
            _limit_key(value)
        elif kind == "v":
            _limit("value", len(value), MAX_VALUE)
        elif kind in "KV":
            _limit("number of keys", len(value), MAX_KEYS, "")
            for item in value:
                if kind == "K":
                    _limit_key(item)
                else:
                    _limit("value", len(item), MAX_VALUE)
    return layout.pack(values)


def unpack_request(layout: Layout, frame: bytes) -> list[Any]:
    """The fields of a request; `WireError` also for more keys than are allowed, before they are read."""
    for kind, head in zip(layout.fields, _heads(layout, frame), strict=True):
        if kind in "KV" and head > MAX_KEYS:
            raise WireError(f"{layout.name}: {head} keys, more than {MAX_KEYS}")
    return layout.unpack(frame)


def pack_answer(layout: Layout, value: Any) -> bytes:
    """The answer to an operation that returned this; `ValueError` if it is too long for a frame."""
    return _DONE if layout.answer is _NOTHING else layout.answer.pack((value,))


def pack_refusal(text: str) -> bytes:
    """The last answer on a connection that the server is about to close."""
    return _REFUSED.pack((text.encode("utf-8", "replace"),))


def pack_error(error: Exception) -> bytes:
    """The answer to an operation that raised; an unknown error becomes a `DistStoreError` with its name."""
    text = str(error)
    if isinstance(error, QueueEmptyError):
        return _EMPTY.pack((text.encode(), error.keys))
    if isinstance(error, DistStoreError) and error.timeout is not None and error.elapsed is not None:
        return _TIMED_OUT.pack((error.timeout, error.elapsed, error.keys))
    layout = _ERRORS.get(type(error))
    if layout is None:
        layout, text = _ERRORS[DistStoreError], f"{type(error).__name__}: {error}"
    return layout.pack((text.encode("utf-8", "replace"),))


def unpack_answer(layout: Layout, frame: bytes) -> Any:
    """What the operation returned; `None` where it returns nothing.

    Raises:
        Exception: what the operation raised; `DistNetworkError` if the server refused the connection.
    """
    if frame[4] == 0:
        values = layout.answer.unpack(frame)
        return values[0] if values else None
    raise _unpack_error(frame)


def _unpack_error(frame: bytes) -> Exception:
    code = frame[4]
    if code == _TIMED_OUT.code:
        timeout, elapsed, keys = _TIMED_OUT.unpack(frame)
        return timeout_error(tuple(keys), timeout, elapsed)
    if code == _EMPTY.code:
        text, keys = _EMPTY.unpack(frame)
        return QueueEmptyError(text.decode(), keys=tuple(keys))
    if code == _REFUSED.code:
        return DistNetworkError(_REFUSED.unpack(frame)[0].decode())
    if code not in _ERROR_TYPES:
        raise WireError(f"an answer with the unknown code {code}")
    kind, layout = _ERROR_TYPES[code]
    return kind(layout.unpack(frame)[0].decode())


class Frames:
    """Bytes as they arrive, cut into frames (their lengths included).

    Attributes:
        limit: the longest body that may be announced.
        held: bytes of a frame that is not whole yet.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self.held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            WireError: a frame announces more than the limit, or nothing; its bytes are not waited for.
        """
        if not self.held and len(data) > 4 and _SIZE.unpack_from(data)[0] == len(data) - 4 <= self.limit:
            return [data]
        self.held += data
        frames, at = [], 0
        while len(self.held) - at >= 4:
            (size,) = _SIZE.unpack_from(self.held, at)
            if not 1 <= size <= self.limit:
                raise WireError(f"a frame of {size} bytes; the limit is {self.limit}")
            if len(self.held) - at < size + 4:
                break
            frames.append(bytes(self.held[at : at + 4 + size]))
            at += 4 + size
        del self.held[:at]
        return frames


def _heads(layout: Layout, frame: bytes) -> tuple[Any, ...]:
    try:
        return layout.head.unpack_from(frame)[2:]
    except struct.error as error:
        raise WireError(f"{layout.name}: {error}") from None
