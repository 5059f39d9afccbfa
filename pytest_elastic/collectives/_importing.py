"""Installation at the import of torch: nothing is installed in a process that does not use it."""

from __future__ import annotations

import importlib.abc
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_elastic.collectives._rank_context import RankContext
from pytest_elastic.hang import is_library

Keep = Callable[[], Callable[[], None]]
BecomeRank = Callable[[RankContext], AbstractContextManager[Keep]]

_MODULE = "torch.distributed.distributed_c10d"
_OLDEST = (2, 10)
_SLOW = "torch._dynamo.distributed"
_AT_FIRST_USE = {
    re.compile(
        rb"\b(DistributedDataParallel|FullyShardedDataParallel|fully_shard|ZeroRedundancyOptimizer|optim)\b"
    ): _SLOW,
    re.compile(rb"\btorch\.compile\b"): "torch._dynamo.backends.common",
}
"""What torch imports at the first use of what a source names so."""


def install() -> None:
    """Have the collectives of this process seen, now or once it has imported `torch.distributed`.

    Until `use_store` has been called they run as ever.  Forked processes have it, too.
    """
    if _MODULE in sys.modules:
        _install()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def preload() -> None:
    """Put the kernels in place, and have done what torch does at the first use of its trainers and groups.

    For a process whose forks are ranks; nothing happens if it has not imported `torch.distributed`.  The
    first `DistributedDataParallel` or optimizer imports some 800 modules, the first `torch.compile` some 400
    more, each of which takes a second or two.
    """
    if _MODULE in sys.modules and _refusal() is None:
        _install_kernels()
        sources = map(_source_of_users, list(sys.modules.values()))
        named = {slow for one in sources for name, slow in _AT_FIRST_USE.items() if name.search(one)}
        for slow in sorted(named):
            importlib.import_module(slow)
        from pytest_elastic.collectives._warming import warm_up

        warm_up()


def _install_kernels() -> None:
    from pytest_elastic.collectives._install import install_kernels

    _install()
    install_kernels()


def _source_of_users(module: ModuleType) -> bytes:
    """The source of a module of the user's; `b""` of others, and where it cannot be read."""
    file = getattr(module, "__file__", None) or ""
    if not file.endswith(".py") or is_library(file):
        return b""
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


def ranks_as_threads() -> AbstractContextManager[BecomeRank]:
    """While this is entered, threads may be ranks: of what torch has once for a process, each has its own.

    Imports torch, and what its trainers and optimizers import at their first use: seconds, the first time.

    Returns:
        A context manager that gives a function: `become(context)` is entered by a thread that is this rank
        from then on, and gives a function to be called before another rank runs, whose answer is to be
        called when this one goes on.

    Raises:
        ImportError: torch is not installed, or is too old.
    """
    import torch.distributed as dist

    if not dist.is_available():
        raise ImportError("this torch was built without torch.distributed")
    if (refusal := _refusal()) is not None:
        raise ImportError(refusal)
    _install_kernels()
    importlib.import_module(_SLOW)  # A rank that does so in its thread may seem stuck, and be interrupted.
    from pytest_elastic.collectives._threaded_ranks import ranks_as_threads

    return ranks_as_threads()


def _install() -> None:
    if (refusal := _refusal()) is not None:
        warnings.warn(f"collectives are not checked: {refusal}", RuntimeWarning, stacklevel=2)
        return
    from pytest_elastic.collectives._install import install

    install()


def _refusal() -> str | None:
    """Why collectives of this torch cannot be seen; `None` if they can."""
    torch: Any = sys.modules["torch"]
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    oldest = ".".join(map(str, _OLDEST))
    return f"torch {torch.__version__} is older than {oldest}" if version < _OLDEST else None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module where others find it, and installs once that was loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _install()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
