"""Functions that have no importable name, sent by value: lambdas and functions made in a test.

The ranks are forks of the zygote, or interpreters that collected the same tests, so every module of the
test is there already: a function travels as its code, its defaults and the contents of its closure, and
finds its globals by the name of its module.  What it closes over must pickle in turn; classes made inside
a function do not, and the error says so.  What goes into a `Parcel` may hold queues, locks, connections and
shared memory of `multiprocessing`; all else, tensors of torch among it, is copied.
"""

from __future__ import annotations

import copyreg
import importlib
import io
import marshal
import sys
from collections import ChainMap
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from pytest_elastic.pristine import pickle

_EMPTY = "an empty cell"
_SENT = ("multiprocessing", "socket", "ctypes")


def dumps(value: object, what: str = "") -> bytes:
    """Pickle `value`, functions without a name included.

    Args:
        what: it is, for the error of a value that a rank sends; what goes to the ranks needs no name.

    Raises:
        TypeError: something in it cannot be sent; the text names it.
    """
    buffer = io.BytesIO()
    try:
        pickler = _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        if get_spawning_popen() is not None:
            pickler.dispatch_table = _of_parcels()
        pickler.dump(value)
    except Exception as error:  # A `__reduce__` may raise anything.
        way = f"{what} cannot be sent from the rank" if what else "cannot be sent to the ranks"
        raise TypeError(
            f"{way}: {error} (allowed: what pickles, and functions; "
            "define classes at module level and open files in the rank)"
        ) from error
    return buffer.getvalue()


loads = pickle.loads


def _of_parcels() -> Any:
    """How `multiprocessing` sends what is its own."""
    known: Any = ForkingPickler(io.BytesIO()).dispatch_table
    ours = {kind: known[kind] for kind in known if kind.__module__.partition(".")[0] in _SENT}
    return ChainMap(ours, copyreg.dispatch_table)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return importlib.import_module, (value.__name__,)
        if isinstance(value, FunctionType) and not _has_name(value):
            arguments = (marshal.dumps(value.__code__), value.__module__, value.__name__, value.__qualname__)
            cells = tuple(_contents(cell) for cell in value.__closure__ or ())
            state = (cells, value.__defaults__, value.__kwdefaults__, value.__dict__)
            return _make, arguments, state, None, None, _fill
        return NotImplemented


def _has_name(function: FunctionType) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _contents(cell: CellType) -> Any:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return _EMPTY


def _make(code: bytes, module: str, name: str, qualname: str) -> FunctionType:
    """The function with empty cells; they are filled after it can be referred to (it may hold itself)."""
    loaded: CodeType = marshal.loads(code)
    cells = tuple(CellType() for _ in loaded.co_freevars)
    function = FunctionType(loaded, vars(importlib.import_module(module)), name, None, cells)
    function.__qualname__ = qualname
    function.__module__ = module
    return function


def _fill(function: FunctionType, state: tuple[Any, ...]) -> None:
    cells, function.__defaults__, function.__kwdefaults__, attributes = state
    for cell, contents in zip(function.__closure__ or (), cells, strict=True):
        if contents != _EMPTY:
            (cell.cell_contents,) = contents
    function.__dict__.update(attributes)
