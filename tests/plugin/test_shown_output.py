"""Where output and logs of ranks are shown, with the rank beside them."""

from __future__ import annotations

import pytest

CODE = """
    import logging
    import pytest

    @pytest.mark.elastic(nprocs=2)
    def test_passes(rank):
        print("hello from", rank)
        logging.warning("one of %d\\nanother of %d", rank, rank)
    """


@pytest.mark.parametrize("option", ["-rP", "-rA", "-q", "--elastic-log=none -rP"])
def test_output_of_a_pass_is_shown_where_pytest_shows_it(run, option):
    """As that of a plain test."""
    result = run(CODE, *option.split())
    result.assert_outcomes(passed=1)
    shown = [line.strip("- ") for line in result.outlines if line.startswith("----") and "rank" in line]
    streams = [f"Captured {stream} [rank {rank}] call" for rank in range(2) for stream in ("stdout", "log")]
    assert sorted(shown) == (sorted(streams) if option in ("-rP", "-rA") else [])
    assert ("hello from 1" in result.outlines) is bool(shown)


OF_FUNCTIONS = """
    def say(rank, world_size):
        print("hello from", rank)

    def shout(rank, world_size):
        print("HELLO")

    def test_once(elastic):
        elastic.run(say, nprocs=2)

    def test_often(elastic):
        for fn in (say, shout, say, shout, say):
            elastic.run(fn, nprocs=2)

    def test_fails_later(elastic):
        elastic.run(say, nprocs=1)
        assert False
    """
TWO = ["Captured stdout [rank 0] call", "Captured stdout [rank 1] call"]
SEVERAL = [
    "Captured shout: stdout [ranks 0-1] call",
    *(f"Captured say: stdout [rank {rank}] call" for rank in range(2)),
]


@pytest.mark.parametrize(("option", "shown"), [
    ("-q", TWO[:1]),
    ("-rP", [*TWO, *SEVERAL, *SEVERAL, *TWO[:1]]),
    ("-rA --elastic-stress=3", [*TWO, *SEVERAL, *SEVERAL, *TWO[:1]]),
    ("--elastic-log=none -rP", []),
])  # fmt: skip
def test_output_of_functions_is_shown_where_pytest_shows_it(run, option, shown):
    """Of a pass, too, and of a test that fails by itself; of the last runs, with their names."""
    result = run(OF_FUNCTIONS, *option.split())
    result.assert_outcomes(passed=2, failed=1)
    titles = [line.strip("- ") for line in result.outlines if line.startswith("----") and "stdout" in line]
    assert sorted(titles) == sorted(shown)


def test_the_log_file_says_which_rank_has_logged(run, pytester):
    """On each line of a record."""
    run(CODE, "--log-file=log.txt", "--log-file-format=%(message)s").assert_outcomes(passed=1)
    lines = (pytester.path / "log.txt").read_text().splitlines()
    assert sorted(line for line in lines if " of " in line) == [
        "[rank0]:another of 0",
        "[rank0]:one of 0",
        "[rank1]:another of 1",
        "[rank1]:one of 1",
    ]


@pytest.mark.parametrize("more", ["", "--elastic-start-method=spawn", "--capture=sys", "-s"])
def test_live_logs_are_shown_with_their_rank(run, more):
    """Once, whatever is captured; what is printed is not."""
    result = run(CODE, "-o", "log_cli=true", "--log-cli-format=%(message)s", *more.split())
    result.assert_outcomes(passed=1)
    for rank in range(2):
        for line in (f"[rank{rank}]:one of {rank}", f"[rank{rank}]:another of {rank}"):
            assert sum(shown.endswith(line) for shown in result.outlines) == 1
        assert (f"hello from {rank}" in result.stdout.str()) is (more == "-s")


# A test sees what the terminal of its own run shows: `run` has that in a file.
LIVE = """
    import logging
    import subprocess
    import time
    from pathlib import Path
    import pytest

    def await_shown(*lines):
        shown, deadline = [], time.monotonic() + 30
        while not all(any(one.endswith(line) for one in shown) for line in lines):
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)
            shown = Path("stdout").read_text().splitlines()

    @pytest.mark.elastic(nprocs=2)
    def test_log(rank):
        logging.warning("logged by %d", rank)
        await_shown(f"[rank{rank}]:logged by {rank}")

    def log(rank, world_size):
        logging.warning("logged by %d", rank)
        await_shown(f"[log{rank}]:logged by {rank}")

    def test_log_of_a_function(elastic):
        elastic.run(log, nprocs=2)

    def write_past(captured, rank):
        print("kept", rank)
        with captured.disabled():
            print("printed by", rank)
            subprocess.run(["echo", f"echoed by {rank}"], check=True)
            await_shown(f"[rank{rank}]:printed by {rank}", f"[rank{rank}]:echoed by {rank}")
        print("kept again", rank)
        return captured.readouterr().out

    @pytest.mark.elastic(nprocs=2)
    def test_disabled(rank, capsys):
        assert write_past(capsys, rank) == f"kept {rank}\\nkept again {rank}\\n"

    @pytest.mark.elastic(nprocs=2)
    def test_disabled_descriptors(rank, capfdbinary):
        assert write_past(capfdbinary, rank) == b"kept %d\\nkept again %d\\n" % (rank, rank)

    def say(rank, world_size):
        print("printed by", rank)
        await_shown(f"[say{rank}]:printed by {rank}")

    def test_disabled_in_pytest(elastic, capsys):
        with capsys.disabled():
            print()
            elastic.run(say, nprocs=2)
    """


@pytest.mark.parametrize(("options", "words"), [
    ("-k log -o log_cli=true --log-cli-format=%(message)s", 4),
    ("-k log -o log_cli=true --log-cli-format=%(message)s -s", 4),
    ("-k disabled", 10),
    ("-k disabled --capture=sys", 10),
    ("-k disabled --capture=tee-sys", 10),
    ("-k disabled -s", 10),
])  # fmt: skip
def test_it_is_shown_while_the_test_runs(run, options, words):
    """Live logs, and what is written where capture is disabled: on ranks, and around them."""
    result = run(LIVE, *options.split())
    result.assert_outcomes(passed=2 if "log" in options else 3, deselected=3 if "log" in options else 2)
    shown = [line for line in result.outlines if " by " in line]
    assert len(shown) == words
    assert "kept " not in result.stdout.str()


def test_without_a_terminal_it_stays_captured(run):
    """A worker of xdist has none; then it is among the output of a failure."""
    pytest.importorskip("xdist")
    code = """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_it(rank, capsys):
            with capsys.disabled():
                print("printed by", rank)
            assert False
        """
    result = run(code, "-p", "xdist", "-n", "1")
    result.assert_outcomes(failed=1)
    assert [line for line in result.outlines if line.startswith("printed")] == [
        "printed by 0",
        "printed by 1",
    ]
