"""Payloads: tensors as bytes, inline in a meeting's value or in the giver's shared memory.

*Theory of operation.*  A value is a list of pieces, one for each tensor.  A piece of up to 16 KiB
is its bytes.  A bigger one lies in the giver's arena: memory of a memfd, which others open by way of
`/proc` and which ends with its last user, however that ends.  A piece in an arena begins with one byte for
each member, which that member sets once it has read the piece; the owner uses the place again when all
readers have.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from pytest_elastic.collectives._rank_context import RankContext
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.pristine import os, pickle, threading
from pytest_elastic.store import as_torchs

_SEGMENT = 4 * 2**20
_ALIGN = 64
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


class Gift(NamedTuple):
    """A tensor that a member gives, and the members that read it."""

    tensor: torch.Tensor
    readers: Sequence[int]


class Piece(NamedTuple):
    """Where a tensor's bytes lie: in a segment of a process's memfd, after the flags of its readers.

    Attributes:
        segment, length: offset and length of the segment in the memfd.
        at: offset in the segment.
        flags, size: bytes of the flags, and of the tensor.
    """

    pid: int
    fd: int
    segment: int
    length: int
    at: int
    flags: int
    size: int


class Arena:
    """A process's memory for what others read: segments of one memfd.  Thread-safe."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("pytest-elastic-collectives")
        self._lock = threading.Lock()
        self._end = 0
        self._segments: dict[int, mmap.mmap] = {}
        self._used: dict[int, list[tuple[int, int, Sequence[int]]]] = {}
        self._foreign: dict[tuple[int, int, int], mmap.mmap] = {}

    def __del__(self) -> None:
        os.close(self._fd)

    def put(self, data: torch.Tensor, members: int, readers: Sequence[int]) -> Piece:
        """Copy a flat tensor of bytes to where the readers, places among the members, can see it."""
        flags = -(-members // _ALIGN) * _ALIGN
        need = flags + -(-data.numel() // _ALIGN) * _ALIGN
        with self._lock:
            segment, at = self._find(need)
            memory = self._segments[segment]
            memory[at : at + flags] = bytes(flags)
            self._used[segment].append((at, at + need, readers))
        torch.frombuffer(memory, dtype=torch.uint8, count=data.numel(), offset=at + flags).copy_(data)
        return Piece(os.getpid(), self._fd, segment, len(memory), at, flags, data.numel())

    def _find(self, need: int) -> tuple[int, int]:
        """A segment and a place in it that is free for so many bytes."""
        for segment, memory in self._segments.items():
            used = self._used[segment]
            used[:] = sorted(one for one in used if not all(memory[one[0] + reader] for reader in one[2]))
            at = 0
            for begin, end, _ in used:
                if begin - at >= need:
                    break
                at = end
            if len(memory) - at >= need:
                return segment, at
        length = -(-max(need, _SEGMENT) // mmap.PAGESIZE) * mmap.PAGESIZE
        segment, self._end = self._end, self._end + length
        os.ftruncate(self._fd, self._end)
        flags = mmap.MAP_SHARED | _POPULATE
        self._segments[segment] = mmap.mmap(self._fd, length, flags=flags, offset=segment)
        self._used[segment] = []
        return segment, 0

    def memory(self, piece: Piece) -> mmap.mmap:
        """The segment of a piece, of whichever process; it stays mapped as long as this arena."""
        if piece.pid == os.getpid():
            return self._segments[piece.segment]
        key = (piece.pid, piece.fd, piece.segment)
        with self._lock:
            if key not in self._foreign:
                try:
                    fd = os.open(f"/proc/{piece.pid}/fd/{piece.fd}", os.O_RDWR)
                except OSError as error:
                    text = f"process {piece.pid} ended before what it gave to a collective was read"
                    raise as_torchs(DistNetworkError(text)) from error
                try:
                    flags = mmap.MAP_SHARED | _POPULATE
                    self._foreign[key] = mmap.mmap(fd, piece.length, flags=flags, offset=piece.segment)
                finally:
                    os.close(fd)
            return self._foreign[key]


_arenas: dict[int, Arena] = {}
_lock = threading.Lock()


def arena() -> Arena:
    """This process's arena, made when it is needed; a fork makes its own."""
    pid = os.getpid()
    if pid not in _arenas:
        with _lock:
            if pid not in _arenas:
                _arenas.clear()
                _arenas[pid] = Arena()
    return _arenas[pid]


def pack(context: RankContext, gifts: Iterable[Gift], members: int) -> bytes:
    """The gifts as a meeting's value."""
    return pickle.dumps([_piece(context, gift, members) for gift in gifts])


def _piece(context: RankContext, gift: Gift, members: int) -> bytes | tuple[int, ...]:
    data = gift.tensor.detach()
    data = (data if data.device.type == "cpu" else data.cpu()).contiguous()
    size = data.numel() * data.element_size()
    if size <= context.inline:
        return ctypes.string_at(data.data_ptr(), size) if size else b""
    return tuple(arena().put(data.reshape(-1).view(torch.uint8), members, gift.readers))


class Parcel:
    """What a member gave, as tensors; `close` lets its owner use the memory again.

    Args:
        value: of a meeting; `b""` for nothing.
        me: the reader's place among the members.
    """

    def __init__(self, value: bytes, me: int) -> None:
        self._me = me
        self._pieces: list[Any] = pickle.loads(value) if value else []
        self._read: dict[int, Piece] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def tensor(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        """A flat tensor over the bytes of a piece; not to be used after `close`."""
        found = self._pieces[number]
        if type(found) is bytes:
            return torch.frombuffer(bytearray(found), dtype=dtype) if found else torch.empty(0, dtype=dtype)
        piece = self._read[number] = Piece(*found)
        memory, at = arena().memory(piece), piece.at + piece.flags
        data = torch.frombuffer(memory, dtype=torch.uint8, count=piece.size, offset=at)
        return data.view(dtype)

    def close(self) -> None:
        """Say that the pieces that were asked for have been read."""
        for piece in self._read.values():
            arena().memory(piece)[piece.at + self._me] = 1
        self._read.clear()
