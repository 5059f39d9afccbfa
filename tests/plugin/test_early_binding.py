"""What tests and plugins put in the place of Python's functions and streams is theirs alone."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

import pytest_elastic
from pytest_elastic import pristine


def used_functions() -> dict[str, list[str]]:
    """Module -> the functions of it that the package calls somewhere."""
    text = "\n".join(path.read_text() for path in Path(pytest_elastic.__file__).parent.rglob("*.py"))
    found = defaultdict(list)
    for module, name in sorted(set(re.findall(rf"\b({'|'.join(pristine.MODULES)})\.([a-z_0-9]+)\b", text))):
        value = getattr(getattr(pristine, module), name, None)
        if callable(value) and name != "get_ident":  # Which `threading.current_thread` looks up.
            found[module].append(name)
    return dict(found)


def test_a_test_may_replace_whatever_its_rank_uses(run):
    """No function that this package calls is its own while the body runs: the ranks meet and report all the same."""
    used = used_functions()
    assert {"monotonic", "sleep"} <= set(used["time"])
    assert {"getpid", "close"} <= set(used["os"])
    result = run(
        f"""
        import importlib, os, pickle, pytest, socket, time

        USED = {used}

        def refuse(*arguments, **named):
            raise AssertionError("looked up late")

        @pytest.mark.elastic(nprocs=2)
        def test_all(world, monkeypatch):
            for module, names in USED.items():
                for name in names:
                    monkeypatch.setattr(importlib.import_module(module), name, refuse)
            world.barrier()
            assert world.gather(world.rank) == [0, 1]
            world.store.set(f"{{world.rank}}", "1")
            with pytest.raises(AssertionError, match="looked up late"):
                time.monotonic()

        @pytest.mark.elastic(nprocs=2)
        def test_dumps(world, monkeypatch):
            world.barrier()
            monkeypatch.setattr("pickle.dumps", lambda *arguments, **named: b"x")
            monkeypatch.setattr(os, "getpid", lambda: 7)
            assert world.rank == 0, "said by rank 1"

        @pytest.mark.elastic(nprocs=2)
        def test_order(world, shared_tmp_path, monkeypatch):
            world.barrier()
            if world.rank == 1:
                monkeypatch.setattr(time, "monotonic", lambda: 5e9)
                (shared_tmp_path / "raised").touch()
                raise ValueError("the cause")
            while not (shared_tmp_path / "raised").exists():
                pass
            time.sleep(0.2)
            monkeypatch.setattr(time, "monotonic", lambda: 5.0)
            raise RuntimeError("a later failure")
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED *::test_dumps - rank*: AssertionError: said by rank 1*",
            "FAILED *::test_order - rank*: ValueError: the cause",
        ]
    )


def test_clocks_and_sockets_of_a_whole_session_may_be_others(run):
    """A frozen clock in all loaded modules, sockets that may not be made, and a default timeout of theirs."""
    result = run(
        """
        import pytest, time

        def test_plain(): pass

        @pytest.mark.elastic(nprocs=2)
        def test_late(world, shared_tmp_path):
            time.sleep(0.4 * world.rank)
            world.barrier()

        @pytest.mark.elastic(nprocs=2, timeout=1)
        def test_hangs(rank):
            while rank == 1: pass

        def test_controller(elastic):
            assert elastic.run(lambda rank, size: rank, nprocs=2) == [0, 1]
        """,
        "--elastic-artifacts=none",
        conftest="""
        import pytest, socket, sys, time

        socket.setdefaulttimeout(0.1)

        def refuse(*arguments, **named):
            raise RuntimeError("no sockets here")

        @pytest.fixture(scope="session", autouse=True)
        def others():
            fakes = {id(getattr(time, name)): (lambda value=getattr(time, name)(): value)
                     for name in ("time", "monotonic", "perf_counter")}
            sleep = time.sleep
            with pytest.MonkeyPatch.context() as patch:
                for module in list(sys.modules.values()):
                    if (getattr(module, "__name__", "") or "").startswith(("threading", "queue", "_pytest")):
                        continue
                    for name, value in list(vars(module).items()):
                        if id(value) in fakes:
                            patch.setattr(module, name, fakes[id(value)])
                real = socket.socket
                patch.setattr(socket, "socket", type("Guarded", (socket.socket,), {"__new__": refuse}))
                for name in ("connect", "send", "recv", "sendall", "close"):
                    patch.setattr(real, name, refuse, raising=False)
                yield
        """,
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_hangs - rank 1 *"])


def test_executors_that_are_left_open_do_not_keep_a_rank(run):
    """A rank ends as an interpreter does: executors are shut down, finalizers and `logging` have their turn."""
    result = run(
        """
        import concurrent.futures, logging.handlers, multiprocessing, pytest, tempfile, weakref

        THREADS = concurrent.futures.ThreadPoolExecutor(2)
        KEPT, OURS = [], tempfile.TemporaryDirectory()
        tempfile.TemporaryDirectory().cleanup()

        @pytest.mark.elastic(nprocs=2)
        def test_threads(rank):
            assert THREADS.submit(int, "3").result() == 3

        @pytest.mark.elastic(nprocs=2)
        def test_processes(rank):
            KEPT.append(concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")))
            assert KEPT[0].submit(int, "3").result() == 3

        def test_controller(elastic):
            def function(rank, size):
                KEPT.append(concurrent.futures.ThreadPoolExecutor(1))
                return KEPT[-1].submit(abs, -1).result()

            assert elastic.run(function, nprocs=2, timeout=20) == [1, 1]

        @pytest.mark.elastic(nprocs=1)
        def test_what_the_end_does(pytestconfig):
            KEPT.append(tempfile.TemporaryDirectory(dir=pytestconfig.rootpath, prefix="left"))
            target = logging.FileHandler(pytestconfig.rootpath / "said")
            KEPT.append(logging.handlers.MemoryHandler(100, target=target))
            KEPT[-1].emit(logging.makeLogRecord({"msg": "the last word", "levelno": logging.INFO}))

        def test_what_the_end_did(pytestconfig):
            assert not list(pytestconfig.rootpath.glob("left*"))
            assert (pytestconfig.rootpath / "said").read_text() == "the last word\\n"
            assert __import__("os").path.isdir(OURS.name)  # Which is this process's to remove.
        """
    )
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
def test_a_stream_that_was_bound_at_import_is_the_ranks(run, capture):
    """A handler of `logging` that holds `sys.stderr` as it was when the test's module was imported."""
    result = run(
        """
        import logging, sys, pytest

        log = logging.getLogger("mine")
        log.propagate = False
        log.addHandler(logging.StreamHandler(sys.stderr))
        OUT = sys.stdout

        @pytest.mark.elastic(nprocs=2)
        def test_it(rank):
            log.warning("line of rank %s", rank)
            print("printed by", rank, file=OUT, end="")
            assert rank == 5
        """,
        f"--capture={capture}",
    )
    result.assert_outcomes(failed=1)
    for rank in range(2):
        result.stdout.fnmatch_lines([f"*Captured stdout ?rank {rank}? call*", f"printed by {rank}"])
        result.stdout.fnmatch_lines([f"*Captured stderr ?rank {rank}? call*", f"line of rank {rank}"])
    assert result.outlines.count("line of rank 1") == 1


def test_the_stacks_of_faulthandler_timeout_are_the_ranks(run):
    """They are in what the rank wrote, and hangs are known as ever."""
    result = run(
        """
        import pytest, time

        @pytest.mark.elastic(nprocs=2)
        def test_it(rank):
            until = time.monotonic() + 60
            while "in test_it" not in open("/proc/self/fd/2").read():
                assert time.monotonic() < until

        @pytest.mark.elastic(nprocs=2)
        def test_hang(world):
            if world.rank == 1:
                world.barrier()
        """,
        "--override-ini=faulthandler_timeout=0.2",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*cause: rank 0 passed without joining*"])


def test_no_two_ranks_draw_the_same_numbers(run):
    """Nor do two tests; seeds that were set at import give the same numbers in every run and start method."""
    code = """
        import random, sys, types, pytest

        try:
            import numpy.random
        except ImportError:
            numpy = None
        {seeds}

        def draw():
            return random.random(), numpy.random.rand() if numpy else random.random()

        @pytest.mark.elastic(nprocs=2, start_method="{method}")
        @pytest.mark.parametrize("number", range(2))
        def test_it(world, number, pytestconfig):
            drawn = world.gather(draw())
            assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]
            if world.rank == 0:
                with open(pytestconfig.rootpath / "drawn", "a") as file:
                    print(drawn, file=file)
    """
    drawn = []
    for seeds, method in (
        ("", "fork"),
        ("random.seed(5); numpy and numpy.random.seed(5)", "fork"),
        ("random.seed(5); numpy and numpy.random.seed(5)", "spawn"),
    ):
        result = run(code.format(seeds=seeds, method=method))
        result.assert_outcomes(passed=2)
        lines = Path("drawn").read_text().splitlines()
        Path("drawn").unlink()
        assert len(set(lines)) == 2
        drawn.append(lines)
    assert drawn[0][0] != drawn[1][0] == drawn[2][0]  # Fresh interpreters are kept for the second test.


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "reap"])
def test_sigchld_is_the_tests_own_business(run, handler):
    """Ignored, or handled by something that reaps whatever it finds: exits are known, and ranks have it so, too."""
    result = run(
        """
        import os, pytest, signal

        @pytest.mark.elastic(nprocs=2)
        def test_passes(world):
            world.barrier()
            assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL

        @pytest.mark.elastic(nprocs=2)
        def test_dies(rank):
            rank == 1 and os._exit(3)

        @pytest.mark.elastic(nprocs=1, start_method="spawn")
        def test_spawned(world):
            world.barrier()
        """,
        conftest=f"""
        import contextlib, os, signal

        def reap(*_):
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass

        signal.signal(signal.SIGCHLD, {handler})
        """,
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_dies - rank 1 exited with code 3*"])


def test_lone_surrogates_are_shown(run, monkeypatch):
    """In a message, in a name of a file, in a key: reports, recordings and junit's file are written."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    result = run(
        r"""
        import pytest, warnings

        @pytest.mark.elastic(nprocs=2)
        def test_message(world):
            if world.rank == 1:
                print("printed caf\udce9")
                raise FileNotFoundError("no file caf\udce9")
            world.barrier()

        @pytest.mark.elastic(nprocs=2)
        def test_source(world, shared_tmp_path):
            code = "def body(world):\n    if world.rank == 1: raise ValueError('here')\n    world.barrier()\n"
            space = {}
            exec(compile(code, "caf\udce9.py", "exec"), space)
            space["body"](world)
        """,
        "--junitxml=junit.xml",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED *::test_message - rank*: FileNotFoundError: no file caf*",
            "FAILED *::test_source - rank*: ValueError: here*",
        ]
    )
    assert Path("junit.xml").exists()


def test_green_threads_are_refused_in_one_sentence(run):
    """As gevent and eventlet make them in a conftest file; other tests run."""
    conftest = """
        import threading

        def start(*arguments): raise RuntimeError

        start.__module__ = "green.thread"
        threading._start_new_thread = threading._start_joinable_thread = start
        """
    text = "tests on ranks need Python's own threads, and green has put others*"
    result = run("def test_it(rank): pass", conftest=conftest)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {text}"])
    result = run("def test_it(rank): pass\ndef test_plain(): pass", conftest=conftest)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([text])
