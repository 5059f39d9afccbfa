"""The marker and fixture `process_group`: which backend of `torch.distributed`, and whether it can be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.errors import MarkerError

if TYPE_CHECKING:
    from pytest_elastic.launch import World

_PAIRS = "or 'cpu:gloo,cuda:nccl'"


def read_backend(node: pytest.Item | Any) -> str:
    """The backend of the closest marker `process_group`, or gloo; whether there is such a one is not asked.

    Raises:
        MarkerError: something in it is not allowed; without the place, which the caller knows.
    """
    mark = node.get_closest_marker("process_group")
    if mark is None:
        return "gloo"
    if len(mark.args) > 1:
        raise MarkerError(f"process_group() takes one positional argument, backend, not {len(mark.args)}")
    for key in mark.kwargs:
        if key != "backend":
            raise MarkerError(f"process_group() has no argument {key!r}; allowed is backend")
    if mark.args and mark.kwargs:
        raise MarkerError("process_group() got backend twice")
    backend = mark.kwargs.get("backend", mark.args[0] if mark.args else "gloo")
    if not isinstance(backend, str) or not _is_well_formed(backend):
        allowed = f"allowed are the name of a backend such as 'gloo', {_PAIRS}"
        raise MarkerError(f"process_group(backend={backend!r}): {allowed}")
    return backend


def _is_well_formed(backend: str) -> bool:
    """Whether it is a name, or pairs of different devices and names."""
    pairs = [pair.split(":") for pair in backend.split(",")]
    if pairs == [[backend]]:
        return bool(backend)
    devices = {pair[0] for pair in pairs}
    return all(len(pair) == 2 and all(pair) for pair in pairs) and len(devices) == len(pairs)


def open_group(node: pytest.Item | Any, world: World) -> Iterator[Any]:
    """The life of the group that the fixture gives; skips where torch or the backend cannot be had.

    A backend that nobody knows is an error only here, since a fixture may register it.
    """
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    from pytest_elastic.store import torch_store

    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    backend = read_backend(node)
    known = sorted(set(distributed.Backend.backend_list) - {distributed.Backend.UNDEFINED})
    for name in (pair.rpartition(":")[2].lower() for pair in backend.split(",")):
        if name not in known:
            path, line, _ = node.reportinfo()
            text = f"process_group(backend={backend!r}): allowed are {', '.join(map(repr, known))}, {_PAIRS}"
            pytest.fail(f"{path}:{(line or 0) + 1}: {text}", pytrace=False)
        missing = _missing(torch, name)
        if missing:
            pytest.skip(f"process_group(backend={backend!r}): {missing}")
    distributed.init_process_group(
        backend, store=torch_store(world.store), rank=world.rank, world_size=world.size
    )
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def _missing(torch: Any, name: str) -> str:
    """What the backend lacks on this machine, in words; `""` where nothing is known."""
    if not torch.distributed.is_backend_available(name):
        return f"this torch is built without {name}"
    devices = torch.distributed.Backend.backend_capability.get(name, ["cpu"])
    modules = [getattr(torch, device, None) for device in devices if device != "cpu"]
    if len(modules) < len(devices) or any(module and module.is_available() for module in modules):
        return ""
    return f"{name} needs a {' or '.join(devices).upper()} device, and there is none"
