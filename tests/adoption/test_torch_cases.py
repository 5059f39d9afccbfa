"""Tests of torch's `MultiProcessTestCase` on ranks: the same outcomes as in the processes that they start."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("expecttest") is None,
    reason="torch, or expecttest, which torch's test cases need, is not installed",
)
UNCACHED = ("-p", "no:cacheprovider")  # Else it is measured what a fresh interpreter takes.

CASES = """
import os, sys
import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcessTestCase, TEST_SKIPS, skip_if_lt_x_gpu

class Base(MultiProcessTestCase):
    world_size = 3

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def tearDown(self):
        super().tearDown()
        if os.path.exists(self.file_name):
            os.remove(self.file_name)

    def begin(self):
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)

class Cases(Base):
    def test_passes(self):
        self.begin()
        total = torch.tensor([self.rank])
        dist.all_reduce(total)
        self.assertEqual(total.item(), 3)

    def test_fails(self):
        self.begin()
        self.assertNotEqual(self.rank, 1)

    @skip_if_lt_x_gpu(2)
    def test_needs_devices(self):
        raise ValueError("no devices")

    def test_rank_0_skips(self):
        if self.rank == 0:
            self.skipTest("not here")

    def test_another_rank_skips(self):
        if self.rank == 1:
            sys.exit(TEST_SKIPS["small_worldsize"].exit_code)

    def test_another_rank_leaves(self):
        if self.rank == 2:
            sys.exit(5)

    def test_rank_0_leaves(self):
        if self.rank == 0:
            sys.exit(5)

    def test_leaves_like_an_error(self):
        if self.rank == 1:
            sys.exit(MultiProcessTestCase.TEST_ERROR_EXIT_CODE)

    def test_one_rank_comes_to_no_barrier(self):
        self.begin()
        if self.rank != 1:
            dist.barrier()

class Two(Base):
    @property
    def world_size(self):
        return 2

    def test_size(self):
        self.begin()
        assert dist.get_world_size() == 2

class Own(Base):
    @classmethod
    def _run(cls, rank, name, file, pipe, **more):
        case = cls(name)
        case.rank, case.file_name = rank, file
        case.run_test(name, pipe)

    def test_own(self):
        self.begin()
        dist.barrier()

class None_(Base):
    world_size = 0

    def test_none(self):
        raise ValueError("no rank")
"""


def test_outcomes_are_those_of_processes(run_with_libraries):
    """Passes, failures and skips, whichever rank they come from; what is left is counted, with the reason."""
    ranks = run_with_libraries(CASES, "--elastic-adopt=torch", *UNCACHED)
    # Torch itself waits without end for the traceback of such a process.
    processes = run_with_libraries(
        CASES, "--elastic-adopt=processes", *UNCACHED, "-k", "not like_an_error", seconds=120
    )
    names = ("passed", "failed", "skipped")
    found, expected = ([one.parseoutcomes().get(name, 0) for name in names] for one in (ranks, processes))
    assert found == [6, 4, 2], ranks.stdout.str()
    assert expected == [6, 3, 2], processes.stdout.str()
    ranks.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_fails - rank 1: AssertionError: *",
            "  cause: *ranks 0, 2 are in barrier #0 of group world *",
            "adopted: 10 tests of MultiProcessTestCase on ranks",
            "adopted: 1 test of it left as they are: Own overrides _run",
            "adopted: 1 test of it left as they are: None_ has a world_size of 0",
            "adopted: 3 processes of 1 test, *",
        ]
    )


def test_torchs_class_is_as_it_was_after_the_run(run_with_libraries):
    """And other classes of `unittest` are not looked at."""
    code = """
    import atexit, unittest
    from torch.testing._internal.common_distributed import MultiProcessTestCase

    def look():
        methods = MultiProcessTestCase._start_processes, MultiProcessTestCase.join_or_run
        print("torch's:", [hasattr(one, "__wrapped__") for one in methods])

    atexit.register(look)

    class Plain(unittest.TestCase):
        def test_plain(self):
            look()
    """
    result = run_with_libraries(code, "--elastic-adopt=torch", *UNCACHED, "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*torch's: [[]True, True[]]*", "torch's: [[]False, False[]]"])
