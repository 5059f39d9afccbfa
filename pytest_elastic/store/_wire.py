"""What goes over a served store's connection, as bytes; no sockets here, and nothing is evaluated.

*Theory of operation.*  A frame is a 4-byte big-endian length and a body.  A body begins with a code of one
byte: an operation's in requests, 0 or an error's in answers.  Then come its numbers and the lengths or
counts of its other fields, at fixed places, then the fields' bytes one after the other.  A request that
may block starts with its timeout and with what is left until the process's interval timer goes off, both in
seconds, and one for many keys ends with what the caller knows of the wait, for those who look on.  There is
one answer to each request, in order.

A connection's first request is the greeting: the protocol's version and the token (empty where none is
needed).  `ADOPT` has no answer: it travels with the descriptor of a socket, which the server then serves as
another connection; it says whether its thread is in the middle of a call over one that it has already.
Before an answer `HELD` may come: the request is kept by the server's gate, for as long as it takes.  So may
`INSPECT`, which a client that waits answers at once, by an `INSPECTED` to which there is no answer.  The
answer `exit` ends the client's process, which is how faults are injected.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from pytest_elastic.errors import (
    CollectiveMismatch,
    DistNetworkError,
    DistStoreError,
    DivergenceError,
    QueueEmptyError,
)
from pytest_elastic.pristine import json, os, struct
from pytest_elastic.store._handle import timeout_error
from pytest_elastic.store._operations import OPERATIONS, Operation

VERSION = 3
MAX_KEY = 64 * 2**10
MAX_KEYS = 65_536
MAX_VALUE = 16 * 2**20
MAX_FRAME = 64 * 2**20
MAX_GREETING = 4 * 2**10

Text = TypeVar("Text", str, bytes)
Unpack = Callable[[bytes, int, int], tuple[Any, int]]

_SIZE = struct.Struct(">I")


class WireError(ValueError):
    """The bytes are no frame of this protocol."""


class Field:
    """A part of a frame whose length varies; its place among the numbers holds its length or count."""

    def __init__(self, pack: Callable[[Any], tuple[bytes, int]], unpack: Unpack) -> None:
        self.pack, self.unpack = pack, unpack


class Layout:
    """How the fields of one kind of frame lie in its bytes.

    Attributes:
        code: the first byte of the body.
        name: the operation.
        blocks: whether the first two fields are a timeout and an alarm.
        declares: whether the last two fields are what the caller knows of the wait (`Asked`): whether it may
            time out, and the writers.
        answer: the layout of the answer.
    """

    def __init__(self, code: int, name: str, fields: str, answer: Layout | None = None) -> None:
        self.code, self.name = code, name
        self.blocks = fields.startswith("ff")
        self.declares = fields.endswith("bN")
        self.answer = self if answer is None else answer
        numbers = "".join(_NUMBERS.get(letter, "I") for letter in fields)
        self._head, self._numbers = struct.Struct(f">IB{numbers}"), struct.Struct(f">5x{numbers}")
        self._least = self._head.size - _SIZE.size
        places = [(i, _FIELDS[letter]) for i, letter in enumerate(fields) if letter in _FIELDS]
        self._pack = [(place, field.pack) for place, field in places]
        self._unpack = [(place, field.unpack) for place, field in places]

    def pack(self, values: Iterable[Any]) -> bytes:
        """The frame.

        Raises:
            ValueError: it, or a field, is longer than is allowed; the text has the limit and the length.
        """
        heads = list(values)
        body = b""
        for place, pack in self._pack:
            part, heads[place] = pack(heads[place])
            body = body + part if body else part
        size = self._least + len(body)
        if size > MAX_FRAME:
            raise _too_long("frame", size, MAX_FRAME)
        return self._head.pack(size, self.code, *heads) + body

    def unpack(self, frame: bytes) -> list[Any]:
        """The fields of a whole frame.

        Raises:
            WireError: they do not fill it exactly, or are not what they should be.
        """
        try:
            values = list(self._numbers.unpack_from(frame))
            at = self._numbers.size
            for place, unpack in self._unpack:
                values[place], at = unpack(frame, at, values[place])
        except (struct.error, UnicodeDecodeError) as error:
            raise WireError(f"{self.name}: {error}") from None
        if at != len(frame):
            raise WireError(f"{self.name}: a frame of {len(frame)} bytes where its fields need {at}")
        return values


def _too_long(what: str, size: int, most: int, unit: str = " bytes") -> ValueError:
    return ValueError(f"{what}: {size}{unit}, the limit is {most}{unit}")


def _pack_key(key: str) -> tuple[bytes, int]:
    part = key.encode()
    if len(part) > MAX_KEY:
        raise _too_long("key", len(part), MAX_KEY)
    return part, len(part)


def _pack_value(value: bytes) -> tuple[bytes, int]:
    if len(value) > MAX_VALUE:
        raise _too_long("value", len(value), MAX_VALUE)
    return value, len(value)


def _pack_keys(keys: Sequence[str]) -> tuple[bytes, int]:
    if len(keys) > MAX_KEYS:
        raise _too_long("keys", len(keys), MAX_KEYS, "")
    return _pack_all([key.encode() for key in keys], "key", MAX_KEY)


def _pack_values(values: Sequence[bytes]) -> tuple[bytes, int]:
    return _pack_all(values, "value", MAX_VALUE)


def _pack_all(parts: Sequence[bytes], what: str = "", most: int = MAX_FRAME) -> tuple[bytes, int]:
    sizes = list(map(len, parts))
    if sizes and max(sizes) > most:
        raise _too_long(what, max(sizes), most)
    return struct.pack(f">{len(sizes)}I", *sizes) + b"".join(parts), len(sizes)


def _unpack_bytes(frame: bytes, at: int, size: int) -> tuple[bytes, int]:
    return frame[at : at + size], at + size


def _unpack_text(frame: bytes, at: int, size: int) -> tuple[str, int]:
    return frame[at : at + size].decode(), at + size


def _unpack_all(frame: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    sizes = struct.unpack_from(f">{count}I", frame, at)
    return _cut(frame, at + 4 * count, sizes)


def _unpack_texts(frame: bytes, at: int, count: int) -> tuple[list[str], int]:
    sizes = struct.unpack_from(f">{count}I", frame, at)
    at += 4 * count
    end = at + sum(sizes)
    text = frame[at:end].decode()
    if text.isascii():  # Characters lie where the bytes do.
        return _cut(text, 0, sizes)[0], end
    return [part.decode() for part in _cut(frame, at, sizes)[0]], end


def _cut(whole: Text, at: int, sizes: Iterable[int]) -> tuple[list[Text], int]:
    """The pieces of these sizes, and where they end."""
    parts = []
    for size in sizes:
        end = at + size
        parts.append(whole[at:end])
        at = end
    return parts, at


def _unpack_values(frame: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    if count > MAX_KEYS:
        raise WireError(f"{count} values; the limit is {MAX_KEYS}")
    return _unpack_all(frame, at, count)


def _unpack_keys(frame: bytes, at: int, count: int) -> tuple[list[str], int]:
    if count > MAX_KEYS:
        raise WireError(f"{count} keys; the limit is {MAX_KEYS}")
    return _unpack_texts(frame, at, count)


def _pack_numbers(numbers: Sequence[int]) -> tuple[bytes, int]:
    if not numbers:
        return b"", 0
    return struct.pack(f">{len(numbers)}q", *numbers), len(numbers)


def _unpack_numbers(frame: bytes, at: int, count: int) -> tuple[list[int], int]:
    return list(struct.unpack_from(f">{count}q", frame, at)), at + 8 * count


# Numbers, by letter: seconds, 64 bits, truth.
_NUMBERS = {"f": "d", "n": "q", "b": "?"}
# Other fields, by letter.  Requests have limits: key, value, keys, values.  Answers have not: bytes, list of
# bytes, texts, numbers.
_FIELDS = {
    "k": Field(_pack_key, _unpack_text),
    "v": Field(_pack_value, _unpack_bytes),
    "K": Field(_pack_keys, _unpack_keys),
    "V": Field(_pack_values, _unpack_values),
    "B": Field(lambda value: (value, len(value)), _unpack_bytes),
    "L": Field(_pack_all, _unpack_all),
    "T": Field(lambda texts: _pack_all([text.encode() for text in texts]), _unpack_texts),
    "N": Field(_pack_numbers, _unpack_numbers),
}


def _answer(fields: str) -> Layout:
    return Layout(0, "answer", fields)


_NOTHING = _answer("")
_DONE = _NOTHING.pack(())

GREETING = Layout(0, "greeting", "nv", _NOTHING)
ADOPT = Layout(255, "adopt", "b")
INSPECTED = Layout(254, "inspected", "fbbNN")
_ANSWERS = {letter: _answer(letter) for letter in "bnBLTN"} | {"": _NOTHING}
_LIST = _ANSWERS["L"]
_NO_LIST = _LIST.pack(([],))  # What a meeting answers to calls that are alike.


def _request(operation: Operation) -> Layout:
    """The layout of an operation's requests: times first where it blocks, declarations last."""
    fields = ("ff" if operation.blocks else "") + operation.arguments + ("bN" if operation.declares else "")
    return Layout(operation.code, operation.name, fields, _ANSWERS[operation.answer])


REQUESTS = {name: _request(operation) for name, operation in OPERATIONS.items()}

_TIMED_OUT = Layout(1, "timeout", "ffT")
_EMPTY = Layout(2, "empty", "BT")
_REFUSED = Layout(3, "refused", "B")
_ERRORS: dict[type[Exception], Layout] = {
    ValueError: Layout(4, "ValueError", "B"),
    IndexError: Layout(5, "IndexError", "B"),
    DistStoreError: Layout(6, "DistStoreError", "B"),
    DivergenceError: Layout(7, "DivergenceError", "B"),
}
_EXIT = Layout(8, "exit", "n")
_MISMATCH = Layout(9, "mismatch", "B")
NOTES = 16  # The least code of what may come before an answer.
HELD = Layout(NOTES, "held", "").pack(())
INSPECT = Layout(NOTES + 1, "inspect", "").pack(())
_ERROR_TYPES = {layout.code: (kind, layout) for kind, layout in _ERRORS.items()}


def pack_answer(layout: Layout, value: Any) -> bytes:
    """The answer to an operation that returned this; `ValueError` if it is too long for a frame."""
    if isinstance(value, Exception):
        return pack_error(value)
    if layout.answer is _NOTHING:
        return _DONE
    return _NO_LIST if value == [] and layout.answer is _LIST else layout.answer.pack((value,))


def pack_refusal(text: str) -> bytes:
    """The last answer on a connection that the server is about to close."""
    return _REFUSED.pack((text.encode("utf-8", "replace"),))


def pack_error(error: Exception) -> bytes:
    """The answer to an operation that raised; an unknown error becomes a `DistStoreError` with its name."""
    text = str(error)
    if isinstance(error, QueueEmptyError):
        return _EMPTY.pack((text.encode(), error.keys))
    if isinstance(error, CollectiveMismatch):
        return _MISMATCH.pack((json.dumps(error.fields).encode(),))
    if isinstance(error, DistStoreError) and error.timeout is not None and error.elapsed is not None:
        return _TIMED_OUT.pack((error.timeout, error.elapsed, error.keys))
    layout = _ERRORS.get(type(error))
    if layout is None:
        layout, text = _ERRORS[DistStoreError], f"{type(error).__name__}: {error}"
    return layout.pack((text.encode("utf-8", "replace"),))


def pack_exit(code: int) -> bytes:
    """The answer that ends the client's process with this exit code."""
    return _EXIT.pack((code,))


def unpack_answer(layout: Layout, frame: bytes) -> Any:
    """What the operation returned; `None` where it returns nothing.

    Raises:
        Exception: what the operation raised; `DistNetworkError` if the server refused the connection.
    """
    __tracebackhide__ = True
    if frame == _NO_LIST and layout.answer is _LIST:
        return []
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
    if code == _MISMATCH.code:
        return CollectiveMismatch.of(json.loads(_MISMATCH.unpack(frame)[0]))
    if code == _REFUSED.code:
        return DistNetworkError(_REFUSED.unpack(frame)[0].decode())
    if code == _EXIT.code:
        _end_process(_EXIT.unpack(frame)[0])
    if code not in _ERROR_TYPES:
        raise WireError(f"an answer with the unknown code {code}")
    kind, layout = _ERROR_TYPES[code]
    return kind(layout.unpack(frame)[0].decode())


def _end_process(code: int) -> NoReturn:
    """What was written is kept; nothing else is done at this end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


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
        with memoryview(self.held) as held:
            while len(held) - at >= 4:
                (size,) = _SIZE.unpack_from(held, at)
                if not 1 <= size <= self.limit:
                    raise WireError(f"a frame of {size} bytes; the limit is {self.limit}")
                if len(held) - at < size + 4:
                    break
                frames.append(bytes(held[at : at + 4 + size]))
                at += 4 + size
        del self.held[:at]
        return frames
