"""`--elastic-adopt=torch`: tests of torch's `MultiProcessTestCase` run on ranks.

*Theory of operation.*  Such a test starts its processes in `setUp`, by `_start_processes`; what `join_or_run`
puts around its method joins them in pytest's process, and is the test itself in each of them.  Here each rank
runs `setUp`, takes its place where the processes would be started, and then is the test.  Both methods are
replaced in the base class while the tests are collected, before an item makes its instance, whose constructor
wraps the method.

*Rules.*  As there, rank 0's exit code decides on skips, and what another rank leaves with by `sys.exit`
counts for nothing, unless it is the code of an error.  Unlike there, `setUp` and `tearDown` run in each rank,
and a rank that dies fails the test.  A class that overrides anything of how its processes start or end is
left as it is.

Private names of torch: the module, and those in `_OWN`.
"""

from __future__ import annotations

import functools
import sys
import unittest
from collections import Counter
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest

from pytest_elastic.launch import current_world, is_rank
from pytest_elastic.pristine import os

_MODULE = "torch.testing._internal.common_distributed"
_OWN = (
    "_run", "run_test", "_start_processes", "_spawn_processes", "join_or_run", "_join_processes",
    "_check_return_codes",
)  # fmt: skip


class TorchCases:
    """The plugin of a run with `--elastic-adopt=torch`.

    Attributes:
        served: how many tests run on ranks.
        left: how many do not, by the reason.
    """

    def __init__(self) -> None:
        self._originals: dict[str, Any] = {}
        self.served, self.left = 0, Counter[str]()

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self) -> None:
        module = sys.modules.get(_MODULE)
        if module is not None and not self._originals:
            case = module.MultiProcessTestCase
            self._originals = {name: vars(case)[name] for name in _OWN}
            case._start_processes = self._start_processes()
            case.join_or_run = self._join_or_run()

    @pytest.hookimpl(tryfirst=True)
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if not self._originals or not isinstance(item, pytest.Function):
            return
        module: Any = sys.modules[_MODULE]
        if item.cls is None or not issubclass(item.cls, module.MultiProcessTestCase):
            return
        size, why = self._size(item)
        if why:
            self.left[why] += 1
        else:
            self.served += 1
            timeout = module.get_timeout(item.originalname)
            item.add_marker(pytest.mark.elastic(nprocs=size, timeout=timeout))

    def pytest_unconfigure(self) -> None:
        for name in ("_start_processes", "join_or_run") if self._originals else ():
            setattr(sys.modules[_MODULE].MultiProcessTestCase, name, self._originals[name])

    def _size(self, item: pytest.Function) -> tuple[int, str]:
        """How many ranks the test has; else why it is left as it is."""
        if item.get_closest_marker("elastic") is not None:
            return 0, "marked already"
        derived = item.cls.__mro__[: item.cls.__mro__.index(sys.modules[_MODULE].MultiProcessTestCase)]
        for name in _OWN:
            if own := next((one for one in derived if name in vars(one)), None):
                return 0, f"{own.__name__} overrides {name}"
        try:
            size = int(item.cls(item.originalname).world_size)
        except Exception as error:
            return 0, f"world_size of {item.cls.__name__}: {type(error).__name__}: {error}"
        return size, "" if size > 0 else f"{item.cls.__name__} has a world_size of {size}"

    # In a rank.  A class that is left may still call these by `super()`.

    def _start_processes(self) -> Callable[[Any, Any], None]:
        original = self._originals["_start_processes"]

        @functools.wraps(original)
        def start(case: Any, process: Any) -> None:
            if not is_rank():
                original(case, process)
                return
            world, case.own_file_name = current_world(), case.file_name
            case.file_name = world.broadcast(case.own_file_name)
            case.rank, case.processes, case.pid_to_pipe = world.rank, [], {}

        return start

    def _join_or_run(self) -> Callable[[Any, Any], Any]:
        original = self._originals["join_or_run"]

        @functools.wraps(original)
        def join_or_run(case: Any, test: Callable[[], None]) -> Any:
            wrapped = original(case, test)

            @functools.wraps(test)
            def run(case: Any) -> None:
                __tracebackhide__ = True
                if is_rank() and case.rank != case.MAIN_PROCESS_RANK:
                    run_in_rank(case, test)
                else:
                    wrapped()

            return MethodType(run, case)

        return join_or_run


def run_in_rank(case: Any, test: Callable[[], None]) -> None:
    """The test in a rank, from its beginning to what comes before `tearDown`.

    Raises:
        unittest.SkipTest: rank 0 has left with the exit code of a skip; on all ranks.
    """
    __tracebackhide__ = True
    module: Any = sys.modules[_MODULE]
    os.environ["TORCH_SHOW_CPP_STACKTRACES"] = "1"
    module.common_utils.set_rng_seed()
    code, message = 0, ""
    skips = {skip.exit_code: skip.message for skip in module.TEST_SKIPS.values()}
    try:
        test()
    except unittest.SkipTest as skip:
        code, message = module.TEST_SKIPS["generic"].exit_code, str(skip)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        message = skips.get(code, "")
        if code == case.TEST_ERROR_EXIT_CODE or (case.rank == 0 and code and not message):
            raise
    finally:
        case.file_name = case.own_file_name  # Of which `tearDown` removes one in each rank.
    current_world().barrier("before tearDown")  # Others may still need what rank 0 removes.
    code, message = current_world().broadcast((code, message))
    if code:
        raise unittest.SkipTest(message)
    if case.destroy_pg_upon_exit:
        try:
            module.c10d.destroy_process_group()
        except (AssertionError, ValueError):
            pass  # The test has done so itself.
