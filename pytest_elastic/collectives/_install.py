"""Installation: a kernel for each c10d operation at the dispatcher, and the making of groups announced.

*Theory of operation.*  The kernels are at the key `BackendSelect`: it is in every call's set (any device,
any thread, in inference mode, from C++), nothing else is registered there, and `redispatch` goes on to what
is below with the GIL released; `call_boxed` would hold it, and gloo's threads would wait for it.  Torch
makes groups by two functions, which it looks up among its module's globals: so they are seen, whatever
names a user has bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed.distributed_c10d as _c10d
from torch._C._distributed_c10d import FakeProcessGroup

from pytest_elastic.collectives._c10d_table import TABLE
from pytest_elastic.collectives._creation import announced_rendezvous, created_group
from pytest_elastic.collectives._exchange import run
from pytest_elastic.collectives._message import receive, receive_any, send
from pytest_elastic.collectives._rank_context import current
from pytest_elastic.collectives._reduction import reduction_name
from pytest_elastic.collectives._torch_group import known_group
from pytest_elastic.pristine import threading

c10d: Any = _c10d
BACKEND = "elastic"
_MESSAGES: dict[str, Callable[..., Any]] = {"send": send, "recv_": receive, "recv_any_source_": receive_any}
_BELOW = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)
_lock = threading.Lock()
_library: Any = None


def install() -> None:
    """See the making of groups, and have the backend `"elastic"`; done once, the rest at the first group."""
    if getattr(c10d, "_pytest_elastic", False):
        return
    c10d._pytest_elastic = True
    c10d.rendezvous = announced_rendezvous(c10d.rendezvous)
    c10d._new_process_group_helper = created_group(c10d._new_process_group_helper, install_kernels)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    c10d.Backend.register_backend(BACKEND, _create, devices=devices)


def _create(store: Any, rank: int, size: int, timeout: Any) -> Any:
    """What stands for the backend of a carried group: operations do not get there."""
    return FakeProcessGroup._create_internal(rank, size)


def install_kernels() -> None:
    """Put the kernels in place, once."""
    global _library
    with _lock:
        if _library is None:
            library: Any = torch.library.Library
            _library = library("c10d", "IMPL")
            for name in (*TABLE, *_MESSAGES):
                operation = getattr(torch.ops.c10d, name, None)
                if operation is not None:
                    _library.impl(name, _kernel(name, operation.default), "BackendSelect", with_keyset=True)


def _kernel(name: str, operation: Any) -> Callable[..., Any]:
    at = next(number for number, one in enumerate(operation._schema.arguments) if one.name == "process_group")
    act = _message(_MESSAGES[name]) if name in _MESSAGES else _collective(name, operation)

    @functools.wraps(operation)
    def kernel(keys: Any, *arguments: Any) -> Any:
        __tracebackhide__ = True
        context = current()
        group = None if context is None else known_group(context, c10d.ProcessGroup.unbox(arguments[at]))
        if group is None:
            return operation.redispatch(keys & _BELOW, *arguments)

        def real() -> Any:
            return operation.redispatch(keys & _BELOW, *arguments)

        return act(group, real, arguments[:at] + arguments[at + 1 :])

    return kernel


def _collective(name: str, operation: Any) -> Callable[..., Any]:
    answers = len(operation._schema.returns)

    def act(group: Any, real: Any, arguments: tuple[Any, ...]) -> Any:
        __tracebackhide__ = True
        named = [reduction_name(one) if type(one) is torch.ScriptObject else one for one in arguments]
        answer = run(group, name, named, real)
        if answers == 0 or not isinstance(answer, c10d.Work):
            return None if answers == 0 else answer
        return answer.boxed() if answers == 1 else (arguments[0], answer.boxed())

    return act


def _message(exchange: Callable[..., Any]) -> Callable[..., Any]:
    def act(group: Any, real: Any, arguments: tuple[Any, ...]) -> Any:
        __tracebackhide__ = True
        answer = exchange(group, *arguments, real)
        return answer.boxed() if isinstance(answer, c10d.Work) else answer

    return act
