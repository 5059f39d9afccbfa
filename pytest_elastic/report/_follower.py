"""Followers: errors that only say that a peer was not there.  The rank that raised one tells, by its origin.

*Rules.*
1. `"peer"`: a store's time-out or lost server (ours, torch's), a collective to which a peer did not come, or
   an error of gloo or nccl on a peer: a time-out, a connection that was lost or refused.  It is a
   consequence, also of a slow peer's later error.  So is a mismatch in a rank that called what most did.
2. `"connection"`: a lost connection of the rank's own code.  Only if a peer has ended is it a consequence.
3. An error raised `from` such a one is such a one; so is a group of nothing else.
4. A name says nothing: the `EOFError` of a file, the `BrokenPipeError` of a program are the rank's own.
"""

from __future__ import annotations

import re
from types import FrameType
from typing import Literal

from pytest_elastic.errors import CollectiveMismatch, CollectiveTimeout
from pytest_elastic.pristine import socket

Follows = Literal["", "peer", "connection"]

_STORES = frozenset({"DistStoreError", "DistNetworkError"})
_OWN_STORE_ERROR = re.compile(r"has been closed|failed to (listen|bind)|EADDRINUSE|gai error")
_PEER_TEXT = re.compile(
    # A transport's, but for its device's, which has no peer: "[…/gloo/transport/tcp/pair.cc:553] …".
    r"\[\S*gloo/transport/\w+/(?!device)\w+\.\w+:\d+\]"
    r"|Gloo connectFullMesh failed|Application timeout caused pair closure"
    r"|Connection closed by peer \[|Timed out waiting \d+ ?ms for (recv|send) operation"
    r"|failed to pass monitoredBarrier in|successfully reached monitoredBarrier, but received errors"
    r"|ncclRemoteError|Watchdog caught collective operation timeout|NCCL communicator was aborted"
    r"|(recvValue|recvVector|recvBytes|sendBytes) failed on|^Socket Timeout"
)
_TORCHS_TEXT = re.compile(r"[Cc]onnection (reset|closed|refused|was aborted)|Broken pipe|[Tt]imed? ?out")
# Modules in which a connection is read or written for the code that raises.
_CONNECTED = frozenset({"asyncio", "http", "multiprocessing.connection", "socket", "ssl"})


def follows(error: BaseException) -> Follows:
    """The kind of follower that an error is; `""` for the rank's own failure."""
    if isinstance(error, BaseExceptionGroup):
        kinds = {follows(one) for one in error.exceptions}
        return kinds.pop() if len(kinds) == 1 else ""
    return kind_of(error) or (follows(error.__cause__) if error.__cause__ is not None else "")


def kind_of(error: BaseException) -> Follows:
    if isinstance(error, CollectiveTimeout):
        return "peer"
    if isinstance(error, CollectiveMismatch):
        return "" if error.rank is None or error.rank in error.ranks else "peer"
    if is_of_store(error):
        return "" if _OWN_STORE_ERROR.search(text_of(error)) else "peer"
    if isinstance(error, ConnectionError | EOFError):
        return "connection" if is_connected(innermost_frame(error)) else ""
    if isinstance(error, RuntimeError):
        frame, text = innermost_frame(error), text_of(error)
        in_torch = frame is not None and module_of(frame).startswith("torch.distributed")
        if _PEER_TEXT.search(text) or (in_torch and _TORCHS_TEXT.search(text)):
            return "peer"
    return ""


def is_of_store(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(_PACKAGES)}
    return bool(names & _STORES) and "QueueEmptyError" not in names


_PACKAGES = ("pytest_elastic.", "torch.")


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def innermost_frame(error: BaseException) -> FrameType | None:
    frame, trace = None, error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
    return frame


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def is_connected(frame: FrameType | None) -> bool:
    """Whether the frame is one of a connection's code, or has a socket in its hands."""
    if frame is None:
        return False
    module = module_of(frame)
    if module in _CONNECTED or module.partition(".")[0] in _CONNECTED:
        return True
    local = frame.f_locals
    values = [*local.values(), *getattr(local.get("self"), "__dict__", {}).values()]
    return any(issubclass(type(value), socket.SocketType) for value in values)
