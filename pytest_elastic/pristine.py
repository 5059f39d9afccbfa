"""Early binding: the standard modules that tests patch, as they were before any test could.

*Theory of operation.*  A test may put anything in the place of `time.monotonic`, `os.getpid` or
`socket.socket`, and so may a plugin in all modules at once, while this package still has to tell the time and
to talk to its peers.  Each module here is a copy of the namespace of the one of its name, made when this is
imported: pytest loads plugins before conftest files.  It is in no `sys.modules`, so whoever searches the
loaded modules for functions to replace does not find it, and it is as fast as the original.

Python's own functions of `socket` look for `socket.socket` where they were defined.  Those here look here,
and their sockets block, whatever `socket.setdefaulttimeout` says.
"""

from __future__ import annotations

import importlib
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fcntl as fcntl
    import json as json
    import os as os
    import pickle as pickle
    import select as select
    import selectors as selectors
    import signal as signal
    import socket as socket
    import struct as struct
    import threading as threading
    import time as time

MODULES = (
    "fcntl",
    "json",
    "os",
    "pickle",
    "select",
    "selectors",
    "signal",
    "socket",
    "struct",
    "threading",
    "time",
)


def _copy(name: str) -> ModuleType:
    original = importlib.import_module(name)
    copy = ModuleType(f"{__name__}.{name}", original.__doc__)
    copy.__dict__.update({key: value for key, value in vars(original).items() if not key.startswith("__")})
    globals()[name] = copy
    if name == "os":
        copy.__dict__["path"] = _copy("posixpath" if os.name == "posix" else "ntpath")
    elif name == "socket":
        _rebind(copy)
    return copy


def _rebind(copy: ModuleType) -> None:
    """Have the functions of this copy of `socket`, and the methods of its `socket`, look up names in it."""
    original: Any = copy.__dict__["socket"]

    def own(value: Any) -> Any:
        if not isinstance(value, FunctionType) or value.__module__ != original.__module__:
            return value
        function = FunctionType(
            value.__code__, copy.__dict__, value.__name__, value.__defaults__, value.__closure__
        )
        function.__kwdefaults__ = value.__kwdefaults__
        return function

    class Socket(original):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if self.gettimeout() is not None:
                self.setblocking(True)

    for kind in (original.__base__, original):
        for name, value in vars(kind).items():
            if not name.startswith("__"):
                setattr(Socket, name, own(value))
    copy.__dict__.update({name: own(value) for name, value in vars(copy).items()}, socket=Socket)


def __getattr__(name: str) -> ModuleType:
    """One that was not loaded yet: `pickle`, for one, costs a run without ranks more than all of these."""
    if name not in MODULES:
        raise AttributeError(name)
    return _copy(name)


for _name in MODULES:
    if _name in sys.modules:
        _copy(_name)
