"""Debuggers: in a rank, at the terminal of pytest, while deadlines and timers stand still; and in pytest itself."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interpreters import ALONE, Process, Template

HEAD = """
import os, signal, threading, time
import pytest
from pytest_elastic.timer import expires
pytestmark = pytest.mark.elastic(nprocs=2)
"""
PROMPT = "(Pdb) "


ARGUMENTS = ["-p", "no:cacheprovider", "--color=no"]
PYTEST = [sys.executable, "-m", "pytest", *ALONE, *ARGUMENTS]


class Console:
    """A pytest, or a shell, at a terminal, and who sits at it."""

    def __init__(
        self, template: Template, directory: Path, code: str, *arguments: str, shell: bool = False
    ) -> None:
        self.directory = directory
        (directory / "test_console.py").write_text(textwrap.dedent(code))
        self._terminal, theirs = pty.openpty()
        self._seen, self.output = 0, ""
        environment = {
            **os.environ, "COLUMNS": "160", "TERM": "xterm", "PS1": "shell> ", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | Process
        if shell:  # It has the terminal for its own; pytest alone does not.
            self.process = subprocess.Popen(
                ["bash", "--norc", "--noprofile", "-i"],
                cwd=directory,
                env=environment,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        else:
            self.process = template.run(
                [*ALONE, *ARGUMENTS, *arguments], directory, environment, [theirs] * 3, new_session=True
            )
        os.close(theirs)

    def expect(self, text: str) -> None:
        """Read on until this was shown; 30 s at most."""
        deadline = time.monotonic() + 30
        while text not in self.output[self._seen :]:
            assert self._read(deadline - time.monotonic()), f"{text!r} did not come after:\n{self.output}"
        self._seen = self.output.index(text, self._seen) + len(text)

    def type(self, line: str) -> None:
        """A line, and its end."""
        os.write(self._terminal, f"{line}\n".encode())

    def press(self, keys: str) -> None:
        """Without an end of line."""
        os.write(self._terminal, keys.encode())

    def end(self) -> str:
        """Read until pytest has ended; all that it showed."""
        while self._read(30):
            pass
        assert self.process.wait(10) in (0, 1, 2)
        return self.output.replace("\r\n", "\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._terminal)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._terminal], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # Nobody has its other end open any more.
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture
def console(tmp_path: Path, template: Template) -> Iterator[Callable[..., Console]]:
    """Start a pytest at a terminal: `console(code, *arguments)`; a shell: `console(code, shell=True)`."""
    made: list[Console] = []

    def start(code: str, *arguments: str, shell: bool = False) -> Console:
        made.append(Console(template, tmp_path, code, *arguments, shell=shell))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize("arguments", [[], ["-s"], ["--elastic-start-method=spawn"]], ids=" ".join)
def test_a_breakpoint_in_a_rank(console, arguments):
    """Its variables can be seen, it can be interrupted, and stops again where it was told to."""
    code = """
    def test_it(rank, world):
        number = rank + 40
        if rank == 1:
            breakpoint()
        number += 1
        assert world.gather(number) == [41, 42]
    """
    running = console(HEAD + textwrap.dedent(code), *arguments)
    running.expect("rank 1 is in a debugger, the other ranks run on")
    for line, answer in [
        ("p number", "41"),
        ("b 12", "Breakpoint 1 at "),
        ("c", "-> assert"),
        ("p number", "42"),
    ]:
        running.expect(PROMPT)
        running.type(line)
        running.expect(answer)
    running.expect(PROMPT)
    os.kill(running.process.pid, signal.SIGINT)
    running.expect("--KeyboardInterrupt--")
    running.type("c")
    assert "1 passed" in running.end()


def test_deadlines_and_timers_stand_still(console):
    """Both go on with the rest of their span afterwards, and end what hangs then."""
    code = """
    @pytest.mark.elastic(timeout=20)
    def test_timer(rank):
        if rank == 0:
            with expires(after=1, scope="exchange"):
                breakpoint()
                time.sleep(100)

    @pytest.mark.elastic(timeout=1)
    def test_deadline(rank):
        breakpoint() if rank == 0 else None
        time.sleep(100)

    @pytest.mark.elastic(timeout=1)
    def test_neither(rank, world):
        breakpoint() if rank == 0 else None
        world.barrier()
    """
    running = console(HEAD + textwrap.dedent(code))
    for _ in range(3):
        running.expect(PROMPT)
        time.sleep(1.3)
        running.type("c")
    output = running.end()
    assert 'rank 0: timer "exchange" (test_console.py:10) expired after 1.0 s' in output
    assert "ranks 0-1 did not finish within 1 s" in output
    assert "2 failed, 1 passed" in output


@pytest.mark.parametrize("limit", ["timeout", "expires"])
def test_detection_switched_off(console, limit):
    """As pytest-timeout has it: then a debugger is interrupted like anything else."""
    code = """
    @pytest.mark.elastic(timeout=TIMEOUT)
    def test_it(rank):
        with expires(after=EXPIRES):
            breakpoint() if rank == 0 else None

    def test_after(world):
        world.barrier()
    """
    code = code.replace("TIMEOUT", "1" if limit == "timeout" else "20")
    code = code.replace("EXPIRES", "20" if limit == "timeout" else "1")
    running = console(HEAD + textwrap.dedent(code), "--timeout-disable-debugger-detection")
    running.expect(PROMPT)
    output = running.end()
    text = (
        "rank 0 did not finish within 1 s"
        if limit == "timeout"
        else "rank 0: timer at test_console.py:9 expired"
    )
    assert text in output
    assert "test_console.py:9 in test_it" in output
    assert "1 failed, 1 passed" in output


def test_ranks_take_turns_and_one_may_die(console):
    """The terminal is one rank's at a time; one that is killed in its debugger gives it back."""
    code = """
    def test_it(rank):
        if rank == 0:
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        else:
            time.sleep(0.2)
        breakpoint()

    def test_after(world):
        world.barrier()
    """
    running = console(HEAD + textwrap.dedent(code))
    for rank in (0, 1):
        running.expect(f"rank {rank} is in a debugger")
        running.expect(PROMPT)
    running.type("c")
    output = running.end()
    assert "rank 0 was killed by SIGKILL without a report" in output
    assert "1 failed, 1 passed" in output


def test_quit_ends_the_session(console):
    """As it does without ranks; no other rank asks again."""
    code = "\ndef test_it(rank): breakpoint()\n\ndef test_never(rank): pass\n"
    running = console(HEAD + code, "-s")
    running.expect(PROMPT)
    running.type("q")
    output = running.end()
    assert "Exit: Quitting debugger" in output
    assert "passed" not in output


def test_a_lower_rank_that_comes_while_another_has_the_terminal(console):
    """It is the next."""
    code = """
    def test_it(rank, world):
        if rank == 0:
            world.store.wait(["go"])
        breakpoint()
    """
    running = console(HEAD + textwrap.dedent(code))
    running.expect("rank 1 is in a debugger")
    running.expect(PROMPT)
    running.type("world.store.set('go', '1'); time.sleep(1)")
    running.expect(PROMPT)
    running.type("c")
    running.expect("rank 0 is in a debugger")
    running.expect(PROMPT)
    running.type("c")
    running.expect("1 passed")
    running.end()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
def test_line_editing_and_job_control(console):
    """History, completion, Ctrl-C, Ctrl-Z and `fg` are the terminal's own; then Ctrl-C is pytest's again."""
    code = """
    def test_it(rank, world):
        number = rank + 40
        breakpoint()
        number += 1
        assert sorted(world.gather(number)) == [41, 42]
        time.sleep(100)
    """
    running = console(HEAD + textwrap.dedent(code), shell=True)
    running.expect("shell> ")
    running.type(shlex.join(PYTEST))
    running.expect(PROMPT)
    running.type("p number * 1000")
    running.expect("000\r\n")
    running.expect(PROMPT)
    running.press("\x1b[A")
    running.expect("p number * 1000")
    running.type(" + 7")
    running.expect("007\r\n")
    running.expect(PROMPT)
    running.press("p numb\t")
    running.expect("number")
    running.type(" + 200")
    running.expect("24")
    running.expect(PROMPT)
    running.type("time.sleep(100)")
    time.sleep(0.5)
    running.press("\x03")
    running.expect("KeyboardInterrupt")
    running.expect(PROMPT)
    running.press("\x1a")
    running.expect("Stopped")
    running.expect("shell> ")
    running.type("stty -a | grep -o ' icanon .* echo ' && echo so said stty")
    running.expect("\nso said stty")
    running.expect("shell> ")
    running.type("fg")
    running.expect("pytest")
    running.type("p number + 300")
    running.expect("34")
    for _ in range(2):  # The next rank's turn.
        running.expect(PROMPT)
        running.type("c")
    time.sleep(1)
    running.press("\x03")
    running.expect("! KeyboardInterrupt !")
    running.expect("shell> ")
    running.type("exit")
    running.end()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
def test_the_terminal_is_usable_after_a_kill(console):
    """Of a rank in its debugger, or of pytest; also by a caller of pytest that is no shell."""
    code = """
    PID = os.getpid()

    def test_it(rank):
        time.sleep(100 * rank)
        breakpoint()
    """
    caller = """
import subprocess, sys, termios, time
subprocess.run(sys.argv[1:])
time.sleep(1)
print("echo" if termios.tcgetattr(0)[3] & termios.ECHO else "mute", input("say: "))
"""
    running = console(HEAD + textwrap.dedent(code), shell=True)
    (running.directory / "caller.py").write_text(caller)
    running.expect("shell> ")
    for command, victim in [
        (PYTEST, "os.getpid()"),
        (PYTEST, "PID"),
        ([sys.executable, "caller.py", *PYTEST], "PID"),
    ]:
        running.type(shlex.join(command))
        running.expect(PROMPT)
        running.type(f"os.kill({victim}, signal.SIGKILL)")
        if command is not PYTEST:
            running.expect("say: ")
            running.type("hello")
            running.expect("echo hello")
        running.expect("shell> ")
        running.type("stty -a | grep -o ' icanon .* echo ' && echo so said stty")
        running.expect("\nso said stty")
        running.expect("shell> ")
    running.type("exit")
    running.end()


def test_trace_begins_in_the_debugger(console):
    """`--trace`: each rank stops at the first line of its test."""
    running = console(HEAD + "\ndef test_it(rank):\n    number = rank + 40\n    assert number\n", "--trace")
    for _ in range(2):
        running.expect("-> number = rank + 40")
        running.expect(PROMPT)
        running.type("n")
        running.expect("-> assert number")
        running.expect(PROMPT)
        running.type("c")
    assert "1 passed" in running.end()


def test_functions_of_the_controller(console):
    """While their group is waited for; its time stands still too."""
    code = """
    def work(rank, world_size):
        breakpoint() if rank == 1 else None
        return rank

    def test_it(elastic):
        assert elastic.run(work, nprocs=2, timeout=1) == [0, 1]
    """
    running = console("import time" + textwrap.dedent(code))
    running.expect(PROMPT)
    time.sleep(1.5)
    running.type("c")
    assert "1 passed" in running.end()


def test_no_terminal(run):
    """The breakpoint is an error that says so, and the session goes on."""
    result = run(
        HEAD + "\ndef test_it(rank):\n    breakpoint()\n\ndef test_after(world):\n    world.barrier()\n"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*breakpoint()",
            "E *DebuggerError: rank * cannot open a debugger: the standard input of pytest is no terminal",
        ]
    )


def test_pdb_opens_where_a_rank_failed(console):
    """In the first rank that failed, once for the test; then the report is as ever, and pytest opens none."""
    code = """
    def test_fails(rank):
        number = 40 + 2
        assert number == 5

    @pytest.mark.xfail
    def test_expected(rank):
        assert rank == 5

    def test_other(world):
        world.barrier()
        assert world.rank != 1
    """
    running = console(HEAD + textwrap.dedent(code), "--pdb")
    running.expect("rank ")
    running.expect(" has failed, the other ranks run on")
    running.expect("AssertionError")
    running.expect(PROMPT)
    running.type("p number + 1")
    running.expect("43")
    running.type("c")
    running.expect("rank 1 has failed, the other ranks run on")
    running.expect(PROMPT)
    running.type("q")
    output = running.end()
    assert "Exit: Quitting debugger" in output
    assert "1 failed, 1 xfailed" in output
    assert output.count(PROMPT) == 3


def test_pdb_after_a_failure(console):
    """Limits stand still while `--pdb` is open and hold on; in pytest it opens on what no rank can show."""
    code = """
    @pytest.fixture
    def broken():
        assert not "set up"

    @pytest.mark.elastic(timeout=1)
    def test_setup(rank, broken): pass

    def test_body(rank):
        assert rank == 5

    @pytest.mark.elastic(timeout=1)
    def test_hang(rank):
        time.sleep(100)
    """
    running = console(HEAD + textwrap.dedent(code), "--pdb")
    for text in ("assert not 'set up'", " == 5", "did not finish within 1 s"):
        running.expect(text)
        running.expect(PROMPT)
        time.sleep(1.5 if "set up" in text else 0)
        running.type("c")
    assert "2 failed, 1 error" in running.end()


def test_a_breakpoint_in_pytest_itself(console):
    """The timers of a group that is not waited for are looked after, and stand still meanwhile."""
    code = """
    def work(rank, world_size):
        with expires(after=1):
            open("armed", "w").close()
            time.sleep(100)

    def test_it(elastic):
        group = elastic.start(work, nprocs=1)
        while not os.path.exists("armed"):
            time.sleep(0.01)
        breakpoint()
        assert not group.group.exits
        while not group.group.exits:
            group.group.take(0.1)
        assert group.group.exits[0].exitcode == -signal.SIGKILL
    """
    running = console(HEAD.replace("pytestmark", "_") + textwrap.dedent(code))
    running.expect(PROMPT)
    time.sleep(1.5)
    running.type("c")
    assert "1 passed" in running.end()


@pytest.mark.parametrize(("arguments", "failed"), [([], 0), (["--timeout-disable-debugger-detection"], 1)])
def test_a_debugger_that_holds_pytest(run, arguments, failed):
    """As pytest-timeout finds it, by its trace function: limits are off."""
    conftest = """
import sys, types

pydevd = sys.modules["pydevd"] = types.ModuleType("pydevd")
exec("def trace(*_): pass", vars(pydevd))

def pytest_runtest_setup(item):
    sys.settrace(pydevd.trace)
"""
    code = HEAD + "\n@pytest.mark.elastic(timeout=0.3)\ndef test_it(rank):\n    time.sleep(0.8)\n"
    run(code, *arguments, conftest=conftest).assert_outcomes(passed=1 - failed, failed=failed)
