"""Inside a rank everything of pytest works; the rank finds itself by fixtures and environment."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# Not importorskip: pytester forgets the modules that a test imported, and torch cannot be imported twice.
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def test_readme_ring(run):
    """The first example of the README."""
    run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=4, timeout=30)
        def test_ring(world, shared_tmp_path, monkeypatch):
            world.store.set(f"ring/{world.rank}", str(world.rank))
            left = world.store.get(f"ring/{(world.rank - 1) % world.size}")
            assert int(left) == (world.rank - 1) % world.size
            world.barrier("done")
        """
    ).assert_outcomes(passed=1)


def test_environment(run):
    """Existing code finds itself; `env=` adds to it; nothing of it is left in pytest."""
    run(
        """
        import os, pytest

        @pytest.mark.elastic(nprocs=3, env={"EXTRA": "1"})
        def test_it(rank, world_size, world):
            names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR EXTRA".split()
            assert [os.environ[name] for name in names] == [str(rank)] * 2 + ["3"] * 2 + ["127.0.0.1", "1"]
            assert len(set(world.gather(os.environ["MASTER_PORT"]))) == 1
            assert len(set(world.gather(os.environ["TORCHELASTIC_RUN_ID"]))) == 1

        def test_after():
            assert not {"RANK", "EXTRA", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & set(os.environ)
        """
    ).assert_outcomes(passed=2)


def test_paths(run):
    """`tmp_path` is private to each rank, `shared_tmp_path` is one for all, and each test has its own."""
    run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=4)
        @pytest.mark.parametrize("again", [1, 2])
        def test_it(world, tmp_path, shared_tmp_path, again):
            assert len(set(world.gather(str(tmp_path)))) == 4
            assert len(set(world.gather(str(shared_tmp_path)))) == 1
            assert list(shared_tmp_path.iterdir()) == []
            world.barrier("looked")
            (shared_tmp_path / str(world.rank)).touch()
            world.barrier("written")
            assert len(list(shared_tmp_path.iterdir())) == 4
        """
    ).assert_outcomes(passed=2)


def test_collectives(run):
    """`gather`, `broadcast` and `barrier` over any object, again and again, by name or without."""
    run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=3)
        def test_it(world):
            for turn in range(5):
                assert world.gather((world.rank, turn)) == [(r, turn) for r in range(3)]
                assert world.broadcast({"from": world.rank}, src=turn % 3) == {"from": turn % 3}
                world.barrier()
                world.barrier("named", timeout=10)
            with pytest.raises(ValueError, match="src must be a rank, 0 to 2, not 3"):
                world.broadcast(1, src=3)
        """
    ).assert_outcomes(passed=1)


def test_a_barrier_names_who_is_missing(run):
    """A barrier's own timeout is the test's error, at its line, with the missing ranks."""
    result = run(
        """
        import pytest
        from pytest_elastic.errors import DistStoreError

        @pytest.mark.elastic(nprocs=3)
        def test_it(world):
            if world.rank != 1:
                with pytest.raises(DistStoreError) as caught:
                    world.barrier("lonely", timeout=0.3)
                assert caught.value.missing_ranks == [1]
        """
    )
    result.assert_outcomes(passed=1)


def test_fixture_scopes(run):
    """Fixtures of every scope are set up and torn down in each rank, once per test."""
    run(
        """
        import os, pytest

        scopes = ["function", "class", "module", "package", "session"]
        for scope in scopes:
            def make(scope=scope):
                @pytest.fixture(scope=scope, name="f_" + scope)
                def fixture():
                    yield os.getpid()
                return fixture
            globals()["f_" + scope] = make()

        class TestIt:
            def test_one(self, rank, f_function, f_class, f_module, f_package, f_session):
                assert {f_function, f_class, f_module, f_package, f_session} == {os.getpid()}

            def test_two(self, rank, f_session):
                assert f_session == os.getpid()
        """
    ).assert_outcomes(passed=2)


def test_rank_fixtures_in_fixtures_of_higher_scope(run):
    """A session fixture may ask for the rank."""
    run(
        """
        import pytest

        @pytest.fixture(scope="session")
        def seed(rank, world_size, world): return 100 * world_size + rank

        @pytest.mark.elastic(nprocs=2)
        def test_it(seed, rank): assert seed == 200 + rank
        """
    ).assert_outcomes(passed=1)


def test_builtin_fixtures(run):
    """capsys, capfd, caplog, monkeypatch, tmp_path, recwarn and record_property in a rank."""
    run(
        """
        import logging, os, warnings, pytest

        def test_capsys(rank, capsys):
            print("rank", rank)
            assert capsys.readouterr().out == f"rank {rank}\\n"

        def test_capfd(rank, capfd):
            os.system(f"echo {rank}")
            assert capfd.readouterr().out == f"{rank}\\n"

        def test_caplog(rank, caplog):
            logging.getLogger("x").warning("from %s", rank)
            assert caplog.messages == [f"from {rank}"]

        def test_monkeypatch(rank, monkeypatch):
            monkeypatch.setattr(os, "getcwd", lambda: f"/{rank}")
            assert os.getcwd() == f"/{rank}"

        def test_patched_no_more(rank):
            assert os.getcwd() != f"/{rank}"

        def test_recwarn(rank, recwarn):
            warnings.warn("x")
            assert len(recwarn) == 1

        def test_raises(rank):
            with pytest.raises(ZeroDivisionError):
                1 / 0
        """
    ).assert_outcomes(passed=7)


def test_unittest_testcase(run):
    """Methods of a TestCase, with setUp, skips and failures."""
    result = run(
        """
        import os, unittest, pytest

        @pytest.mark.elastic(nprocs=2)
        class TestIt(unittest.TestCase):
            def setUp(self): self.rank = int(os.environ["RANK"])
            def test_passes(self): self.assertIn(self.rank, (0, 1))
            def test_fails(self): self.assertEqual(self.rank, 0)
            def test_skips(self): self.skipTest("no")
            @unittest.expectedFailure
            def test_expected(self): self.fail("known")
        """
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1, xfailed=1)


def test_assert_details(run):
    """Rewritten asserts explain themselves, with pytest's own comparison details."""
    result = run("def test_it(rank):\n    assert {'a': 1, 'b': rank} == {'a': 1, 'b': 9}\n")
    result.stdout.fnmatch_lines(["E*Differing items:", "E*{'b': [01]} != {'b': 9}"])


def test_a_rank_may_use_processes(run):
    """Children, pools and locks of multiprocessing work in a rank and leave nothing behind."""
    run(
        """
        import multiprocessing, pytest

        def square(x): return x * x

        @pytest.mark.elastic(nprocs=2)
        @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
        def test_it(rank, method):
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
        """,
        "-W", "error",
    ).assert_outcomes(passed=3)  # fmt: skip


def test_nothing_listens(run):
    """No process of the run listens on TCP before a test asks for it; MASTER_PORT is free to bind."""
    run(
        """
        import os, socket, psutil, pytest

        @pytest.mark.elastic(nprocs=2)
        def test_it(world):
            pytest_process = psutil.Process(psutil.Process(psutil.Process().ppid()).ppid()).parent()
            family = [pytest_process, *pytest_process.children(recursive=True)]
            listening = [c for p in family for c in p.net_connections("tcp") if c.status == "LISTEN"]
            assert listening == []
            world.barrier()
            if world.rank == 0:
                socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"]))).close()
        """
    ).assert_outcomes(passed=1)


def test_ranks_do_not_read_the_terminal(run):
    """stdin is at end of file."""
    run("import sys\ndef test_it(rank): assert sys.stdin.read() == ''").assert_outcomes(passed=1)


@needs_torch
def test_gloo_by_environment(run_with_libraries):
    """`init_process_group("gloo")` finds everything in the environment."""
    run_with_libraries(
        """
        import pytest, torch
        import torch.distributed as dist

        @pytest.mark.elastic(nprocs=4, timeout=60)
        def test_it(rank):
            dist.init_process_group("gloo")
            total = torch.tensor([float(rank)])
            dist.all_reduce(total)
            assert total.item() == 6
            dist.destroy_process_group()
        """
    ).assert_outcomes(passed=1)


@needs_torch
def test_after_openmp(run_with_libraries):
    """An ordinary torch test that used its threads before does not make the ranks of the next one hang."""
    run_with_libraries(
        """
        import pytest, torch

        def work(): return (torch.ones(1 << 20) @ torch.ones(1 << 20)).item()

        def test_before(): assert work() == 1 << 20

        @pytest.mark.elastic(nprocs=2, timeout=20)
        def test_ranks(rank): assert work() == 1 << 20
        """
    ).assert_outcomes(passed=2)


@needs_torch
def test_openmp_at_import(run_with_libraries):
    """Neither does a test module that used them while it was imported."""
    run_with_libraries(
        """
        import pytest, torch
        torch.ones(1 << 20).add_(1)

        @pytest.mark.elastic(nprocs=2, timeout=20)
        def test_ranks(rank): assert torch.ones(1 << 20).add_(1).sum().item() == 2 << 20
        """
    ).assert_outcomes(passed=1)


def test_a_flood_of_output_blocks_nobody(run):
    """Ranks write to files: 20 MB per rank do not fill a pipe of ours."""
    code = "def test_it(rank):\n    for _ in range(20):\n        print('x' * 1_000_000)\n"
    run(code, "-W", "error").assert_outcomes(passed=1)


def test_many_ranks(run):
    """64 ranks on two cores."""
    run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=64)
        def test_it(world): assert sum(world.gather(world.rank)) == 2016
        """
    ).assert_outcomes(passed=1)


def test_no_signal_handler_stays(run):
    """Pytest's own process keeps its handlers: Ctrl-C stays Ctrl-C during and after tests on ranks."""
    run(
        """
        import signal, time, pytest
        before = {number: signal.getsignal(number) for number in (1, 2, 3, 15)}

        @pytest.mark.elastic(nprocs=2)
        def test_ranks(rank):
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

        def test_after(elastic):
            elastic.run(lambda rank, n: rank, nprocs=2)
            group = elastic.start(lambda rank, n: time.sleep(100), nprocs=2)
            assert {number: signal.getsignal(number) for number in (1, 2, 3, 15)} == before
            group.close(timeout=0)
            assert {number: signal.getsignal(number) for number in (1, 2, 3, 15)} == before
        """
    ).assert_outcomes(passed=2)


def test_process_group(run_with_libraries):
    """The fixture gives a gloo group over the ranks' own store; without torch it is a skip with the reason."""
    result = run_with_libraries(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2, timeout=60)
        def test_it(process_group, rank):
            import torch
            total = torch.tensor([rank + 1.0])
            torch.distributed.all_reduce(total)
            assert total.item() == 3
            assert torch.distributed.get_world_size(process_group) == 2
        """
    )
    result.assert_outcomes(**({"passed": 1} if find_spec("torch") else {"skipped": 1}))


def test_store_fixtures(run):
    """`mock_store` and `hash_store` are for any test."""
    run(
        """
        def test_mock(mock_store):
            assert mock_store.get("key") == b"value"
            assert mock_store.ops == [("get", "key")]

        def test_hash(hash_store):
            hash_store.set("key", "value")
            assert hash_store.get("key") == b"value"
        """
    ).assert_outcomes(passed=2)
