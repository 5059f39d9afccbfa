"""Inspection of this process: what else than the calling thread may go on, and write to a store.

*Theory.*  A thread that waits for a key can be let go by whoever sets the key, by a signal whose handler
raises, and by a thread of its own process.  Which threads that may be is asked of the process itself, while
its thread waits: from outside, one that shows a progress bar looks like one that is about to set the key.

A thread *can reach* a store if one is among the objects that its code can get at: the variables of its
frames, what these refer to, and the globals that their code names, followed through functions, methods and
classes of the user.  Code of the standard library and of installed packages is followed through its objects
and not through its globals.  A search that grows too large counts as one that has found something.  This is
the reachability by which Go finds leaked goroutines (Saioc et al., "Dynamic Partial Deadlock Detection and
Recovery via Garbage Collection", ASPLOS 2025), from the other side.

Threads of some libraries are known: they belong to the library and do nothing but its work.
"""

from __future__ import annotations

import functools
import gc
import logging
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from pytest_elastic.pristine import os, signal, threading

Inspection = tuple[float, bool, bool, tuple[int, ...], tuple[int, ...]]
"""The fields of `RankInspected` but for the moment and the rank."""

# Modules whose threads are a library's own: their names, and of packages all modules below them.
_LIBRARIES = (
    "tqdm",
    "torch.utils.data._utils",
    "torch.multiprocessing",
    "torch.utils.tensorboard",
    "tensorboard",
    "tensorboardX",
    "wandb",
    "prometheus_client",
    "multiprocessing.queues",
    "multiprocessing.resource_sharer",
    "psutil",
    "mlflow",
    "comet_ml",
    "sentry_sdk",
    "ddtrace",
    "opentelemetry",
)
# Of modules whose other functions are code of tests: it writes this process's stacks when it is asked to.
_LISTENER = ("torch.testing._internal.common_distributed", "_event_listener")
_STORES = ("pytest_elastic", "torch.distributed", "torch._C._distributed_c10d")
# Every thread that was started since keeps them: they tell of an error that ends it.
_EXCEPTHOOKS = ("init_process_group.<locals>._distributed_excepthook", "ThreadErrors._take")
_MOST = 20_000  # Objects that are looked at for one thread.
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    types.BuiltinFunctionType,
    types.CodeType,
    logging.Manager,  # Of all loggers: a thread gets at its own one, and those above.
)
_OURS = __name__.partition(".")[0]
# Bound now: a test may replace what these modules have.
_getitimer, _frames = signal.getitimer, sys._current_frames
_getsignal: Any = signal._signal.getsignal  # type: ignore[attr-defined]  # That of `signal` makes enumerations of them all.
_SIGNALS = tuple(map(int, signal.valid_signals()))
_ROOTS = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def inspect_process() -> Inspection:
    """What may go on in this process while the calling thread, and others that wait in a store, do.

    Returns:
        Seconds until the interval timer's signal (0 for none), whether a timer counts processor time, whether
        a signal has a handler that may raise or write, the kernel's numbers of the threads that can reach a
        store, and of the others that are not known.
    """
    writers: list[int] = []
    strangers: list[int] = []
    for number, frame in _other_threads():
        stack = list(_stack(frame))
        modules = {_module(one) for one in stack}
        if any(_is_below(module, _LIBRARIES) for module in modules):
            continue
        if any((_module(one), one.f_code.co_name) == _LISTENER for one in stack):
            continue
        in_store = any(one.f_code.co_name == "exchange" and _module(one).startswith(_OURS) for one in stack)
        (writers if in_store or _reaches_store(stack) else strangers).append(number)
    cpu_alarm = any(_getitimer(which)[0] for which in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF))
    return _getitimer(signal.ITIMER_REAL)[0], cpu_alarm, _has_handlers(), tuple(writers), tuple(strangers)


def _other_threads() -> Iterator[tuple[int, types.FrameType]]:
    """The kernel's number and the innermost frame of all Python threads but this one."""
    frames = _frames()
    del frames[
        threading.get_ident()
    ]  # This one would refer to itself, and so keep what all of them refer to.
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        # In a fork the main thread does not know its new number (until Python 3.13): it is the process's.
        number = os.getpid() if thread is threading.main_thread() else thread.native_id
        if frame is not None and number is not None:
            yield number, frame


def _stack(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_below(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _has_handlers() -> bool:
    """Whether a signal has a handler in Python other than the interpreter's and those that are known."""
    for handler in map(_getsignal, _SIGNALS):
        if callable(handler) and handler is not signal.default_int_handler:
            function = getattr(handler, "__func__", handler)
            module = getattr(function, "__module__", None) or ""
            if not _is_below(module, (*_LIBRARIES, "signal", _OURS)):
                return True
    return False


def _reaches_store(stack: list[types.FrameType]) -> bool:
    """Whether the code of these frames can get at a store."""
    ahead: list[Any] = []
    for frame in stack:
        ahead += frame.f_locals.values()
        ahead += _named(frame.f_code, frame.f_globals)
    seen: set[int] = set()
    held: list[Any] = []  # So that no number is another object's meanwhile.
    while ahead:
        one = ahead.pop()
        if isinstance(one, _PLAIN) or id(one) in seen or _is_excepthook(one):
            continue
        if _is_store(one) or len(seen) >= _MOST:
            return True
        seen.add(id(one))
        held.append(one)
        ahead += _referents(one)
        if weakref.getweakrefcount(one):  # Whoever lets it go calls their callbacks.
            ahead += weakref.getweakrefs(one)
    return False


def _is_excepthook(one: Any) -> bool:
    return isinstance(one, types.FunctionType | types.MethodType) and one.__qualname__ in _EXCEPTHOOKS


def _is_store(one: Any) -> bool:
    module = one.__name__ if isinstance(one, types.ModuleType) else getattr(type(one), "__module__", "")
    if isinstance(one, types.FunctionType | type):
        module = one.__module__
    return isinstance(module, str) and _is_below(module, _STORES)


def _referents(one: Any) -> Iterable[Any]:
    """What the code that has this object can get at by it."""
    if isinstance(one, types.ModuleType):
        return ()  # Of a module only what is named is got at; see `_named`.
    if isinstance(one, weakref.ReferenceType):
        return (one(), one.__callback__)
    if isinstance(one, weakref.finalize):
        return one.peek() or ()
    if isinstance(one, types.FunctionType):
        content = (one.__closure__, one.__defaults__, one.__kwdefaults__, one.__dict__)
        return (*content, *_named(one.__code__, one.__globals__))
    if isinstance(one, type):
        file = getattr(sys.modules.get(one.__module__), "__file__", None) or "<built-in>"
        return (*vars(one).values(), *one.__bases__) if _is_users_file(file) else ()
    if isinstance(one, types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType):
        frame = (
            getattr(one, "gi_frame", None) or getattr(one, "cr_frame", None) or getattr(one, "ag_frame", None)
        )
        return () if frame is None else (*frame.f_locals.values(), *_named(frame.f_code, frame.f_globals))
    if isinstance(one, types.FrameType):
        return one.f_locals.values()
    return gc.get_referents(one)


def _named(code: types.CodeType, namespace: dict[str, Any]) -> Iterator[Any]:
    """The globals that code of the user names, with what it names of modules; nothing for other code."""
    if not _is_users_file(code.co_filename):
        return
    names = set(_names(code))
    for name in names:
        one = namespace.get(name)
        yield one
        if isinstance(one, types.ModuleType):
            yield from (vars(one)[attribute] for attribute in names if attribute in vars(one))


def _names(code: types.CodeType) -> Iterator[str]:
    """All names in code, and in the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@functools.lru_cache(maxsize=1024)
def _is_users_file(name: str) -> bool:
    """Whether a file is neither of the standard library nor of an installed package."""
    return not name.startswith(("<frozen", "<built-in", *_ROOTS))
