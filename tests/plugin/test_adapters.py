"""What an adapter of another harness needs: groups that outlive a test, with what its processes had."""

from __future__ import annotations

import pytest

HARNESS = """
import multiprocessing, os, unittest

class ContinuousCase(unittest.TestCase):
    \"\"\"Workers live for a class, and take its tests from queues.\"\"\"
    size = 2
    rank = None  # In pytest itself.

    @classmethod
    def setUpClass(cls):
        context = multiprocessing.get_context("spawn")
        cls.tasks, cls.results = ([context.Queue() for _ in range(cls.size)] for _ in range(2))
        cls.workers = [cls.start_worker(context, rank) for rank in range(cls.size)]

    @classmethod
    def start_worker(cls, context, rank):
        worker = context.Process(target=cls.work, args=(rank, cls.tasks[rank], cls.results[rank]))
        worker.start()
        return worker

    @classmethod
    def tearDownClass(cls):
        for queue in cls.tasks:
            queue.put(None)
        for worker in cls.workers:
            worker.join()
            assert worker.exitcode == 0

    @classmethod
    def work(cls, rank, tasks, results):
        cls.rank = rank
        while (name := tasks.get()) is not None:
            try:
                getattr(cls(name), name)()
                results.put((os.getpid(), ""))
            except AssertionError as error:
                results.put((os.getpid(), f"rank {rank}: {error}"))

    def run(self, result=None):
        body = getattr(self, self._testMethodName)
        setattr(self, self._testMethodName, self.dispatch)
        super().run(result)

    def dispatch(self):
        for queue in self.tasks:
            queue.put(self._testMethodName)
        answers = [queue.get(timeout=60) for queue in self.results]
        print("workers", *(pid for pid, _ in answers))
        wrong = [text for _, text in answers if text]
        assert not wrong, wrong
"""
# What an owner writes.
ADAPTER = """
import os, sys
import pytest
from harness import ContinuousCase
from pytest_elastic.launch import Surroundings

def work(rank, size, case, tasks, results):
    case.work(rank, tasks, results)

class Worker:
    def __init__(self, group, rank):
        self.group, self.rank = group, rank

    def join(self):
        self.group.wait()

    @property
    def exitcode(self):
        return self.group.exitcode(self.rank)

@pytest.fixture(scope="session", autouse=True)
def workers_are_ranks(elastic_session):
    def start_worker(case, context, rank):
        if rank == 0:
            args = {rank: (case, case.tasks[rank], case.results[rank]) for rank in range(case.size)}
            here = Surroundings(environ=os.environ, cwd=os.getcwd(), argv=sys.argv, output="inherit")
            case.group = elastic_session.start(work, case.size, args, surroundings=here)
        return Worker(case.group, rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContinuousCase, "start_worker", classmethod(start_worker))
        yield
"""
SUITE = """
import os
from harness import ContinuousCase
from pytest_elastic import is_rank

class TestOne(ContinuousCase):
    seen = []

    def test_a(self):
        self.seen.append(self.rank)
        assert is_rank() is ADAPTED

    def test_b(self):
        assert self.seen == [self.rank]
        assert os.environ["OF_CLASS"] == "1"

    def test_c(self):
        assert self.rank == 0, "differs"

    def test_d(self):
        assert self.seen == [self.rank]

    @classmethod
    def setUpClass(cls):
        os.environ["OF_CLASS"] = "1"
        super().setUpClass()

class TestTwo(ContinuousCase):
    size = 3

    def test_a(self):
        assert self.rank in range(3) and not TestOne.seen
"""


@pytest.mark.parametrize("adapted", [False, True])
def test_workers_that_live_for_a_class_are_ranks_by_an_adapter(pytester, run, adapted):
    """They take tests from queues, keep their state between them, and end with the class; failures are the same."""
    pytester.makepyfile(harness=HARNESS)
    if adapted:
        pytester.makeconftest(ADAPTER)
    result = run(SUITE.replace("ADAPTED", str(adapted)), "-rA")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: *rank 1: differs*", "FAILED *::TestOne::test_c*"])
    pids = {line for line in result.outlines if line.startswith("workers")}
    assert len(pids) == 2


@pytest.mark.parametrize("options", [(), ("-x",)])
def test_a_group_lives_until_it_is_closed_or_to_the_end_of_the_run(run, pytester, options):
    """A fixture of a module closes its own; what nobody closes ends with the run, also where that is stopped."""
    result = run(
        """
        import os, time
        import pytest

        def serve(rank, size, ready):
            ready.set()
            time.sleep(100)

        @pytest.fixture(scope="module")
        def group(elastic_session):
            import multiprocessing
            ready = multiprocessing.get_context("spawn").Event()
            group = elastic_session.start(serve, 2, (ready,))
            assert ready.wait(60)
            yield group
            group.close(timeout=0)
            assert group.exitcode(0) == -9, group.exitcode(0)

        @pytest.mark.parametrize("turn", range(2))
        def test_it(group, turn, pids=[]):
            pids.append(group.pids())
            assert pids == pids[:1] * len(pids)
            assert group.exitcode(0) is None

        def test_left(elastic_session):
            group = elastic_session.start(serve_without, 1)
            with open("pid", "w") as file:
                print(group.pids()[0], file=file)

        def serve_without(rank, size):
            time.sleep(100)

        def test_after():
            assert os.path.exists(f"/proc/{open('pid').read().strip()}")

        def test_failure(elastic_session, group):
            elastic_session.run(fail, 2)

        def fail(rank, size):
            assert rank == 0
        """,
        *options,
    )
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["1 of 2 ranks failed: rank 1 alone", "run by *elastic_session.run(fail, 2)"])
    result.stdout.no_fnmatch_line("*AssertionError: *None*")
    pid = (pytester.path / "pid").read_text().strip()
    assert not (pytester.path / "/proc" / pid).exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ranks_have_the_surroundings_that_the_test_gives(run, method):
    """Environment in place of pytest's, directory, arguments by rank, and the streams that `capfd` reads."""
    run(
        """
        import multiprocessing, os, sys
        import pytest
        from pytest_elastic.launch import Descriptor, Surroundings

        def look(rank, size):
            print("out of", rank, flush=True)
            os.system("echo err of a child >&2")
            known = {name: os.environ.get(name) for name in ("PATH", "OLD", "NEW", "RANK", "ADDED")}
            return known, os.getcwd(), list(sys.argv)

        os.environ["OLD"] = "1"

        def test_all(elastic, tmp_path, capfd):
            env = {"PATH": os.environ["PATH"], "NEW": "2"}
            argv = {0: ["a"], 1: ["b", "c"]}
            here = Surroundings(environ=env, cwd=tmp_path, argv=argv, output="inherit")
            group = elastic.start(look, 2, env={"ADDED": "3"}, surroundings=here)
            group.wait()
            out, err = capfd.readouterr()
            assert sorted(out.splitlines()) == ["out of 0", "out of 1"]
            assert err.splitlines() == ["err of a child"] * 2
            known = {"PATH": os.environ["PATH"], "OLD": None, "NEW": "2", "ADDED": "3"}
            assert group.values() == [
                ({**known, "RANK": str(rank)}, str(tmp_path), argv[rank]) for rank in range(2)
            ]
            assert group.logs[0].stdout == ""

        def test_nothing_given(elastic):
            ((known, directory, argv),) = elastic.run(look, 1)
            assert (known["OLD"], known["NEW"]) == ("1", None)
            assert (directory, argv[0]) == (os.getcwd(), sys.argv[0])

        def write(rank, size, number, connection, lock):
            with lock:
                os.write(number, b"%d" % rank)
            connection.send(rank)

        def test_descriptors(elastic):
            context = multiprocessing.get_context("spawn")
            reader, writer = os.pipe()
            ours, theirs = zip(*(context.Pipe() for _ in range(2)))
            lock = context.Lock()
            args = {rank: (Descriptor(writer), theirs[rank], lock) for rank in range(2)}
            group = elastic.start(write, 2, args)
            os.close(writer)
            for one in theirs:
                one.close()
            group.wait()
            assert sorted(os.read(reader, 9)) == [ord("0"), ord("1")] and os.read(reader, 9) == b""
            os.close(reader)
            assert [one.recv() for one in ours] == [0, 1]
            with pytest.raises(EOFError):
                ours[0].recv()

        @pytest.mark.parametrize(
            ("given", "words"),
            [
                ({"surroundings": Surroundings(cwd="nowhere")}, "cwd='nowhere'.: there is no such directory"),
                ({"surroundings": Surroundings(output="both")}, "allowed are 'files' and 'inherit'"),
                ({"surroundings": Surroundings(argv="pytest")}, "allowed is a list of texts, or one for each"),
                ({"surroundings": Surroundings(argv={0: []})}, "ranks 0 to 1"),
                ({"args": {0: ()}}, "for the ranks 0 to 1, not for .0."),
                ({"args": (Descriptor(-1),)}, "cannot be sent to the ranks"),
                ({"args": {0: (), 1: (open(os.devnull),)}}, "cannot be sent to the ranks"),
            ],
        )
        def test_what_cannot_be(elastic, given, words):
            with pytest.raises((OSError, ValueError, TypeError), match=words):
                elastic.start(look, 2, **given)
        """,
        f"--elastic-start-method={method}",
    ).assert_outcomes(passed=10)


def test_a_hook_around_the_call_sees_what_the_test_leaves_with(run, pytester):
    """In each rank: an exit code of the harness becomes a skip, another one is a failure as ever."""
    pytester.makeconftest(
        """
        import pytest
        from pytest_elastic import is_rank

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(item):
            try:
                return (yield)
            except SystemExit as end:
                if is_rank() and end.code == 77:
                    pytest.skip("needs more devices")
                raise
        """
    )
    result = run(
        """
        import sys, pytest

        @pytest.mark.elastic(nprocs=2)
        @pytest.mark.parametrize("code", [77, 76])
        def test_it(code):
            sys.exit(code)
        """,
        "-rs",
    )
    result.assert_outcomes(skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*needs more devices*"])


def test_no_thread_is_left_when_a_group_was_joined(run):
    """After `run`, after `wait` and after `close`, whatever else goes on."""
    run(
        """
        import threading, time

        def threads():
            return [thread.name for thread in threading.enumerate()]

        def leave(rank, size):
            pass

        def stay(rank, size):
            time.sleep(100)

        def test_it(elastic):
            before = threads()
            elastic.run(leave, 2)
            assert threads() == before
            elastic.start(leave, 2).wait()
            assert threads() == before
            group = elastic.start(stay, 2)
            assert len(threads()) == len(before) + 1
            group.close(timeout=0)
            assert threads() == before
        """
    ).assert_outcomes(passed=1)
