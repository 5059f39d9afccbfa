"""Hangs in the store: named at once, in the report and in files; and who only seems to hang."""

from __future__ import annotations

import json
import re
import textwrap
import time

PROMPT = 120.0  # Seconds for a run that would take 400 if it waited; a busy machine needs some.

HANG = """
    import pytest

    @pytest.mark.elastic(nprocs=3)
    def test_epoch(world):
        if world.rank == 1:
            raise ValueError("boom")
        world.barrier("epoch3")
"""


def test_nobody_is_accused_who_may_go_on(run):
    """Slow ranks, long calls of C, threads and processes that bring the key late, waits that may time out."""
    run(
        """
        import ctypes, subprocess, threading, time
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=2)

        def late(world, seconds=1.5):
            time.sleep(seconds)
            world.store.set("late", "1")

        def test_a_slow_rank(world):
            if world.rank == 1:
                time.sleep(1.2)
            world.barrier()

        def test_a_long_call_of_c(world):
            if world.rank == 1:
                ctypes.PyDLL(None).usleep(1_200_000)
            world.barrier()

        def test_a_thread_that_sleeps(world):
            began = time.monotonic()
            if world.rank == 1:
                threading.Thread(target=late, args=(world,)).start()
            assert world.store.get("late") == b"1"
            assert 0.5 < time.monotonic() - began < 200

        def test_a_thread_of_a_rank_that_has_reported(world):
            if world.rank == 1:
                threading.Thread(target=late, args=(world,), daemon=True).start()
                return
            world.store.wait(["late"])

        def test_a_thread_that_waits_for_a_process(world):
            def work():
                subprocess.run(["sleep", "1.5"], check=True)
                late(world, 0)
            if world.rank == 1:
                threading.Thread(target=work).start()
            world.store.wait(["late"])

        def test_a_wait_that_may_time_out(world):
            if world.rank == 0:
                with pytest.raises(RuntimeError):
                    world.store.wait(["never"], 100, may_timeout=True)
                world.store.set("go", "1")
            else:
                world.store.wait(["go"])
        """
    ).assert_outcomes(passed=6)


def test_a_timeout_that_is_expected_takes_no_time(run):
    """And its error is that of the real one."""
    began = time.monotonic()
    run(
        """
        import pytest
        from pytest_elastic.errors import DistStoreError

        @pytest.mark.elastic(nprocs=3)
        def test_missing(world):
            if world.rank == 2:
                return
            with pytest.raises(DistStoreError) as info:
                world.barrier("epoch", timeout=300)
            assert (info.value.missing_ranks, info.value.arrived_ranks) == ([2], [0, 1])
            assert 300 <= info.value.elapsed < 330
            with pytest.raises(DistStoreError, match="after 100[0-9]* ms") as info:
                world.store.wait(["never"], 100)
            assert info.value.timeout == 100
        """
    ).assert_outcomes(passed=1)
    assert time.monotonic() - began < PROMPT


def test_the_report_says_who_waits_for_whom(run, pytester):
    """First of the sections; with properties for junit and files beside it."""
    result = run(HANG, "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "3 of 3 ranks failed: rank 1 first",
            "E*ValueError: boom",
            "*- who waits for whom -*",
            "HANG  2 of 3 ranks can never go on (known *; the barrier's timeout is 300 s)",
            '  barrier "epoch3": arrived 0, 2; absent 1 (failed: ValueError: boom, *:6)',
            '  cause: rank 1 failed before joining "epoch3"',
            '  test_epoch *:7 barrier("epoch3") [[]0,2]',
            "*- ranks 0, 2 failed too -*",
            "*DistStoreError: *) (test_*.py:7)",
            "recording: .pytest_elastic/test_*/recording.jsonl",
            "page: .pytest_elastic/test_*/page.html",
            "*= short test summary info =*",
        ]
    )
    junit = (pytester.path / "junit.xml").read_text()
    for name, value in (
        ("nprocs", "3"),
        ("first_failed_rank", "1"),
        ("verdict", "MissingRank: rank 1 failed"),
    ):
        assert f'name="elastic.{name}" value="{value}' in junit
    (folder,) = (pytester.path / ".pytest_elastic").glob("test*")
    names = {path.name for path in folder.iterdir()} - {"failure.json"}
    assert names == {"events.jsonl", "hang.dot", "hang.json", "page.html", "recording.jsonl", "trace.json"}
    assert json.loads((folder / "hang.json").read_text())["verdict"] == "MissingRank"
    assert (folder / "hang.dot").read_text().startswith("digraph hang {")


def test_the_report_tells_how_it_ended(run):
    """A verdict that came while others still ran is told by what became of them."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=4)
        def test_epoch(world):
            if world.rank == 1:
                while len(world.store.list_keys()) < 2:  # Until somebody is at either barrier.
                    pass
                raise ValueError("boom")
            world.barrier("eval" if world.rank == 3 else "epoch3")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '  barrier "epoch3": arrived 0, 2; absent 1 (failed: ValueError: boom, *.py:8), 3 (waits for *',
            '  cause: rank 1 failed before joining "epoch3"',
        ]
    )


def test_artifacts_can_be_elsewhere_or_nowhere(run, pytester):
    """`--elastic-artifacts=DIR`; the ini's empty value is for none."""
    run(HANG, "--elastic-artifacts=seen/there")
    assert len(list((pytester.path / "seen" / "there").glob("*/hang.json"))) == 1
    run(HANG, "-o", "elastic_artifacts=")
    assert not (pytester.path / ".pytest_elastic").exists()


def test_artifacts_go_when_the_test_passes(run, pytester):
    """Only ours; a failure that was expected leaves none, and a replay removes none."""
    run(HANG)
    (folder,) = (pytester.path / ".pytest_elastic").glob("test*")
    recording = folder / "recording.jsonl"
    mended = HANG.replace('raise ValueError("boom")', "pass")
    run(mended, f"--elastic-replay={recording}")
    assert recording.exists()
    run("import pytest\npytestmark = pytest.mark.xfail\n" + textwrap.dedent(HANG)).assert_outcomes(xfailed=1)
    assert not folder.exists()
    run(HANG)
    (folder / "notes.txt").write_text("mine")
    run(mended).assert_outcomes(passed=1)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_real_clock_waits(run):
    """By option and by marker; the verdict is told all the same."""
    code = """
        import pytest

        @pytest.mark.elastic(nprocs=2, timeout=1{marker})
        def test_wait(world):
            if world.rank == 0:
                world.store.wait(["never"], 100)
    """
    for marker, arguments in ((", clock='real'", []), ("", ["--elastic-clock=real"])):
        result = run(code.replace("{marker}", marker), *arguments)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "rank 0 did not finish within 1 s*",
                "HANG  1 of 2 ranks can never go on*",
                '  "never": awaited by 0',
            ]
        )


def test_a_hang_that_was_dealt_with_is_not_told_of(run):
    """What fails later is another matter."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_later(world):
            with pytest.raises(RuntimeError):
                world.store.wait(["never"], 100)
            world.barrier()
            assert world.rank == 0
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*HANG*")


def test_a_suspicion_is_called_one(run):
    """A thread that waits for a lock of several processes is in nobody's hands that we know."""
    result = run(
        """
        import multiprocessing, threading
        import pytest

        lock = multiprocessing.get_context("fork").Lock()
        lock.acquire()

        @pytest.mark.elastic(nprocs=2)
        def test_lock(world):
            threading.Thread(target=lock.acquire, daemon=True).start()
            world.store.wait(["never"], 300)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["HANG (suspected)  2 of 2 ranks can never go on (known *", "  suspected cause: *"]
    )


def test_functions_on_ranks_are_told_of_their_hang(run):
    """In the report of `elastic.run`; not so where the test itself may still write."""
    result = run(
        """
        import time
        from pytest_elastic.launch import current_world

        def wait(rank, world_size):
            return current_world().store.get("go")

        def test_run(elastic):
            elastic.run(wait, nprocs=2)

        def test_start(elastic):
            group = elastic.start(wait, nprocs=2)
            time.sleep(0.3)
            group.store.set("go", "1")
            assert group.wait(30).return_values == {0: b"1", 1: b"1"}
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["HANG  2 of 2 ranks can never go on*", '  "go": awaited by 0, 1'])


def test_a_timer_that_comes_first_is_waited_for(run):
    """It ends its rank as it would have; the clock does not overtake it."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_timer(world, expires):
            if world.rank == 0:
                with expires(after=1, scope="exchange"):
                    world.store.wait(["never"], 300)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*rank 0: timer "exchange" * expired after 1.0 s*'])


def test_a_kept_group_forgets(run):
    """What was found in one test is not told of the next one."""
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=2, lifetime="module")

        def test_first(world):
            if world.rank == 0:
                with pytest.raises(RuntimeError):
                    world.store.wait(["never"], 100)

        def test_second(world):
            assert world.rank == 5
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*HANG*")


def test_what_is_left_behind_hides_no_failure(run):
    """Also where warnings are errors: the ranks that hang are told of, and the process beside them."""
    result = run(
        """
        import os, subprocess
        import pytest

        @pytest.mark.elastic(nprocs=2, timeout=1)
        def test_it(world):
            if world.rank == 1:
                subprocess.Popen(["sleep", "600"], start_new_session=True)
                return
            world.store.wait(["never"], 300)
        """,
        "-W", "error::pytest.PytestWarning",
        "-W", "ignore::ResourceWarning",
    )  # fmt: skip
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*HANG*", "*left behind*", "*left a process behind: pid * `sleep 600` (killed)"]
    )


def test_correct_programs_are_never_accused(run, rounds):
    """Whatever they do in the store, in kept ranks, fresh ones, fresh interpreters and functions."""
    kept, others = rounds(20, 80), rounds(3, 10)
    run(
        f"""
        KEPT, OTHERS = {kept}, {others}
        """
        """
        import random, threading, time
        import pytest
        from pytest_elastic.launch import current_world

        def program(world, seed):
            shared, mine = random.Random(seed), random.Random(31 * seed + world.rank)
            for step in range(shared.randrange(1, 6)):
                kind, source = shared.randrange(5), shared.randrange(world.size)
                if mine.random() < 0.2:
                    time.sleep(mine.random() * 0.003)
                if kind == 0:
                    world.barrier(f"barrier{step % 2}")
                elif kind == 1:
                    assert world.gather(world.rank) == list(range(world.size))
                elif kind == 2:
                    assert world.broadcast(step if world.rank == source else None, source) == step
                elif kind == 3 and world.rank == source:
                    world.store.set(f"{seed}/{step}", "1")
                elif kind == 3:
                    world.store.wait([f"{seed}/{step}"])
                elif world.rank == source:
                    thread = threading.Thread(target=world.store.set, args=(f"{seed}/thread{step}", "1"))
                    thread.start()
                    world.store.wait([f"{seed}/thread{step}"])
                    thread.join()

        @pytest.mark.elastic(nprocs=4, lifetime="module")
        @pytest.mark.parametrize("seed", range(KEPT))
        def test_kept(world, seed):
            program(world, seed)

        @pytest.mark.elastic(nprocs=4)
        @pytest.mark.parametrize("seed", range(1000, 1000 + OTHERS))
        def test_fresh(world, seed):
            program(world, seed)

        @pytest.mark.elastic(nprocs=2, start_method="spawn")
        @pytest.mark.parametrize("seed", range(2000, 2000 + OTHERS))
        def test_spawned(world, seed):
            program(world, seed)

        @pytest.mark.parametrize("seed", range(OTHERS))
        def test_functions(elastic, seed):
            assert elastic.run(lambda rank, size: program(current_world(), seed), nprocs=3) == [None] * 3
        """
    ).assert_outcomes(passed=kept + 3 * others)


def test_a_timeout_that_the_ranks_dealt_with_is_no_hang(run):
    """A rank that passes, or fails of something else, has got over it, whatever it did, in tests and functions.

    One that only clears up, and fails of the time-out all the same, has not.
    """
    result = run(
        """
        import os
        import pytest
        from pytest_elastic.errors import DistStoreError
        from pytest_elastic.launch import current_world

        def late(world, fail):
            with pytest.raises(DistStoreError):
                world.store.wait(["never"], 4 + world.rank)
            world.store.set(f"after{world.rank}", "1")
            if world.rank == 1:
                fail()

        def check():
            assert 1 == 2, "checked"

        @pytest.mark.elastic(nprocs=2)
        def test_an_assertion(world):
            late(world, check)

        @pytest.mark.elastic(nprocs=2)
        def test_an_exit(world):
            late(world, lambda: os._exit(3))

        def test_a_function(elastic):
            elastic.run(lambda rank, size: late(current_world(), lambda: [].pop()), nprocs=2)

        @pytest.mark.elastic(nprocs=2)
        def test_a_hang_after_it(world):
            late(world, check)
            world.barrier("after")
        """
    )
    result.assert_outcomes(failed=4)
    heads = [line for line in result.outlines if line.startswith(("HANG", "E   HANG", "E       HANG"))]
    assert heads == [line for line in heads if "1 of 2 ranks can never go on" in line]
    assert len(heads) == 1
    result.stdout.fnmatch_lines(['  cause: rank 1 failed before joining "after"'])


def test_a_rank_that_clears_up_and_fails_of_its_timeout_has_hung(run):
    """Told in its own words, or other ones."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        @pytest.mark.parametrize("words", ["own", "other"])
        def test_clean(world, words):
            if world.rank == 1:
                return
            try:
                world.store.wait(["never"], 100)
            except RuntimeError as error:
                if words == "other":
                    raise KeyError("no rendezvous")
                raise
            finally:
                world.store.set("gone", "1")
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["HANG  1 of 2 ranks can never go on*"] * 2)
    result.stdout.fnmatch_lines(
        ["  cause: rank 1 passed and waits for the others to finish their call *"] * 2
    )


def test_what_a_later_phase_would_write(run):
    """Ranks run in lockstep: the rank that would write it waits for the others, and is not gone."""
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=2)

        @pytest.fixture
        def late(world):
            yield
            world.store.set("ended", "1")

        @pytest.fixture
        def early(world):
            if world.rank == 1:
                world.store.wait(["begun"])

        def test_teardown(world, late):
            if world.rank == 1:
                world.store.wait(["ended"])

        def test_call(world, early):
            world.store.set("begun", "1")
        """
    )
    result.assert_outcomes(failed=1, errors=1)
    lockstep = "(tests run in lockstep), and nobody else can write"
    result.stdout.fnmatch_lines_random(
        [
            f'  cause: rank 0 passed and waits for the others to finish their call {lockstep} "ended"',
            f'  cause: rank 0 passed its setup and waits for the others to finish their setup {lockstep} "begun"',
        ]
    )


def test_collectives_that_ranks_miss_or_mix_up(run):
    """They are told of as barriers are, with all ranks that are absent."""
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=4)

        def test_order(world):
            if world.rank == 3:
                world.barrier("saved")
            world.gather(world.rank)

        def test_count(world):
            for _ in range(2 - world.rank // 2):
                world.gather(world.rank)

        def test_source(world):
            if world.rank == 0:
                world.broadcast("value", src=0)
                world.store.set("first", "1")
            world.store.wait(["first"])
            world.broadcast("value", src=1)

        def test_size(world):
            type(world)(world.rank, 5, world.store).barrier("all")
        """
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines_random(
        [
            "  cause: *ranks 0-2 are at gather*",
            "  gather (use 2): arrived 0, 1; absent 2, 3 (passed)",
            "  cause: ranks 2-3 passed after 1 gather; ranks 0-1 are at number 2, gather (use 2)",
            "E*ValueError: broadcast number 1: src=1 on rank [1-3], but src=0 on rank 0",
            '  barrier "all": arrived 0-3 (4 of 5 expected)',
        ]
    )


def test_a_rank_that_is_blocked_is_not_the_cause_while_another_may_be(run):
    """Outside of the store: on a lock, a pipe, a socket, while a thread of its own computes."""
    result = run(
        """
        import multiprocessing, os, socket, threading, time
        import pytest

        pytestmark = pytest.mark.elastic(nprocs=3, timeout=1)
        lock = multiprocessing.get_context("fork").Lock()
        lock.acquire()
        reading, writing = os.pipe()
        ours, theirs = socket.socketpair()

        def test_passed(world):
            if world.rank < 2:
                (lock.acquire, ours.recv)[world.rank](*[1][:world.rank])

        def test_sleeps(world):
            time.sleep(600) if world.rank == 1 else os.read(reading, 1)

        def test_computes(world):
            while world.rank == 2:
                pass
            lock.acquire() if world.rank else ours.recv(1)

        def test_a_thread_computes(world):
            if world.rank == 0:
                threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()
                ours.recv(1)

        def test_nobody(world):
            ours.recv(1)

        def test_late(world):
            if world.rank == 2:
                time.sleep(0.3)
                theirs.send(b"12")
            else:
                assert ours.recv(1)
        """
    )
    result.assert_outcomes(failed=5, passed=1)
    causes = [line.partition(": ")[2] for line in result.outlines if line.startswith("  suspected cause: ")]
    assert [re.split(",|;| at ", cause)[0] for cause in causes[:4]] == [
        "rank 2 passed",
        "rank 1 sleeps",
        "rank 2 computes",
        "ranks 1-2 passed",
    ]
    assert causes[4].startswith("ranks 0-2 wait for data at a socket at test_")
    assert causes[4].endswith("; nobody is known to be the cause")
