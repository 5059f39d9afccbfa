"""Installation at the import of torch: nothing is installed in a process that does not use it."""

from __future__ import annotations

import importlib.abc
import importlib.util
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_elastic.hang import is_library

_MODULE = "torch.distributed.distributed_c10d"
_OLDEST = (2, 10)
_TRAINERS = re.compile(
    rb"\b(DistributedDataParallel|FullyShardedDataParallel|fully_shard|ZeroRedundancyOptimizer)\b"
)


def install() -> None:
    """Have the collectives of this process seen, now or once it has imported `torch.distributed`.

    Until `use_store` has been called they run as ever.  Forked processes have it, too.
    """
    if _MODULE in sys.modules:
        _install()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def preload() -> None:
    """Put the kernels in place, and import what torch imports at the first use of its trainers.

    For a process whose forks are ranks; nothing happens if it has not imported `torch.distributed`.  The
    first `DistributedDataParallel` imports some 800 modules, which takes each rank a second or two.
    """
    if _MODULE in sys.modules:
        from pytest_elastic.collectives._install import install_kernels

        _install()
        install_kernels()
        if any(map(_names_a_trainer, list(sys.modules.values()))):
            importlib.import_module("torch._dynamo.distributed")


def _names_a_trainer(module: ModuleType) -> bool:
    """Whether the source of a module of the user's has the name of a wrapper for models."""
    file = getattr(module, "__file__", None) or ""
    if not file.endswith(".py") or is_library(file):
        return False
    try:
        return _TRAINERS.search(Path(file).read_bytes()) is not None
    except OSError:
        return False


def _install() -> None:
    torch: Any = sys.modules["torch"]
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        text = f"collectives are not checked: torch {torch.__version__} is older than {oldest}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return
    from pytest_elastic.collectives._install import install

    install()


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
