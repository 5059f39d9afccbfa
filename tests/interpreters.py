"""Interpreters for the inner sessions of tests: forks of one that has imported pytest and the plugin.

*Theory.*  An inner session of a small test file costs 1.1 s of processor time as a fresh interpreter, of which 0.9 s
are imports.  A template interpreter runs pytest once, on nothing, and then forks for each session; the fork has the
arguments, directory, environment and streams that it is told, and runs pytest's `__main__` as `python -m pytest` does,
or a script that runs pytest by itself.
What a fork cannot change (options of the interpreter, locale, variables that Python reads at its start) makes
`can_fork` say no: such a session takes a fresh interpreter.  So does one with `ELASTIC_FRESH` in its environment.

`/proc/<pid>/environ` is memory of the process, which forks share: so a fork can change a value there, if it is not
longer than the one that the template was started with.  By `MARK` the processes of a session are found.

The workers of xdist share a template, as importing torch takes it six seconds of a processor: the first who asks starts
it, and it ends after the last.  Who connects, and a template that is about to end, hold a lock meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import hashlib
import inspect
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

# Each other plugin that happens to be installed doubles the time of a small session.
ALONE = ("-p", "pytest_elastic", "-p", "timeout")
HEAVY = ("strategies", "stateful", "testing._faults")  # They import hypothesis.
MARK, ROOM = "ELASTIC_MARK", 100
AT_START = re.compile(r"(PYTHON(?!DONTWRITE)|LC_|LANG|LD_|TZ$|COV|MALLOC_|OMP_|KMP_|ELASTIC_FRESH)")


class Process:
    """A session that runs; the methods are those of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, descriptor: int, control: socket.socket) -> None:
        self.pid, self.returncode = pid, None
        self._descriptor, self._control = descriptor, control

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if self.returncode is None and select.select([self._control], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; `subprocess.TimeoutExpired` when it still runs after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._control], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("pytest", timeout)
            self._end()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # It has, and the template has not told yet.
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._control.recv(64)))
        self._control.close()
        os.close(self._descriptor)


class Template:
    """The interpreter that is forked; it ends when all who use it have closed it, or are gone.

    It has these modules imported, too, as far as they are installed.  Those who name the same file as the lock share
    one, and must name the same modules.
    """

    def __init__(self, lock: Path, *modules: str) -> None:
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = 0  # Of another's child.
        name = f"\0elastic-{hashlib.sha256(os.fsencode(lock)).hexdigest()}"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                self._control.connect(name)
            except ConnectionRefusedError:
                self._pid = _start(name, lock, modules)
                self._control.connect(name)
        self._environment = _at_start(os.environ)
        # Beside the directories of thousands of other sessions pytest takes half a second to look for old ones.
        self._temporary = tempfile.TemporaryDirectory(prefix="sessions-")

    def can_fork(self, environment: dict[str, str]) -> bool:
        """Whether an interpreter that starts in this environment is like the template."""
        return _at_start(environment) == self._environment

    def run(
        self,
        arguments: Sequence[str],
        directory: Path,
        environment: dict[str, str],
        descriptors: Sequence[int],
        new_session: bool = False,
        script: Path | None = None,
    ) -> Process:
        """Start `python -m pytest *arguments` there, or `python script *arguments`.

        `descriptors` are its stdin, stdout, stderr, and 3, 4, ...
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = None if script is None else str(script)
        environment = {"PYTEST_DEBUG_TEMPROOT": self._temporary.name, **environment}
        order = json.dumps([program, list(arguments), str(directory), environment, new_session])
        path = directory / f".order-{ours.fileno()}"
        path.write_text(order, "utf-8", errors="surrogateescape")
        socket.send_fds(self._control, [os.fsencode(path)], [theirs.fileno(), *descriptors])
        theirs.close()
        ours.settimeout(300)
        pid = int(ours.recv(64))
        return Process(pid, os.pidfd_open(pid), ours)

    def run_to_end(
        self, arguments: Sequence[str], directory: Path, output: Path, seconds: float, **environment: str
    ) -> int:
        """Run `python -m pytest *arguments` there, without other plugins, and return its exit code.

        Output and errors go to a file.  After so many seconds it is killed.
        """
        with output.open("wb") as out, open(os.devnull) as null:
            process = self.run(
                [*ALONE, *arguments],
                directory,
                {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
                [null.fileno(), out.fileno(), out.fileno()],
            )
        try:
            return process.wait(seconds)
        finally:
            process.kill()
            process.wait(10)

    def close(self) -> None:
        """Blocks until it has ended, if nobody else uses it."""
        self._control.shutdown(socket.SHUT_WR)
        self._control.settimeout(300)  # It may still import.
        last = self._control.recv(64) == _LAST
        self._control.close()
        if last and self._pid:
            os.waitpid(self._pid, 0)
        self._temporary.cleanup()


_LAST, _OTHERS = b"last", b"others"


def _start(name: str, lock: Path, modules: Sequence[str]) -> int:
    """Start the process that listens there; its pid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(name)
        listener.listen()
        listener.set_inheritable(True)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, __file__, str(listener.fileno()), str(lock), *modules],
            {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", MARK: "-" * ROOM},
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        )


def _at_start(environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if AT_START.match(name)}


def _serve(listener: socket.socket, lock: int) -> str | None:
    """Fork for each order; returns in the fork, with everything as the session wants it, which script is to run."""
    sessions: dict[int, tuple[int, socket.socket]] = {}
    users: dict[int, socket.socket] = {}
    while True:
        for number in select.select([listener, *users, *sessions], [], [])[0]:
            if number in sessions:
                pid, told = sessions.pop(number)
                _, status = os.waitpid(pid, 0)
                os.close(number)
                told.send(str(status).encode())
                told.close()
                continue
            if number is listener:
                user, _ = listener.accept()
                users[user.fileno()] = user
                continue
            message, descriptors, _, _ = socket.recv_fds(users[number], 4096, 16)
            if not message:
                _part(users.pop(number), listener, lock, bool(users))
                continue
            told = socket.socket(fileno=descriptors[0])
            if pid := os.fork():
                told.send(str(pid).encode())
                sessions[os.pidfd_open(pid)] = pid, told
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                continue
            os.close(lock)
            for one in (listener, told, *users.values(), *(other for _, other in sessions.values())):
                one.close()
            for descriptor in sessions:
                os.close(descriptor)
            return _become(Path(os.fsdecode(message)), descriptors[1:])


def _part(user: socket.socket, listener: socket.socket, lock: int, others: bool) -> None:
    """Let a user go; after the last one, end, unless somebody has connected meanwhile."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    last = not others and not select.select([listener], [], [], 0)[0]
    if last:
        listener.close()
    fcntl.flock(lock, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):  # It may have been killed.
        user.send(_LAST if last else _OTHERS)
    user.close()
    if last:
        os._exit(0)


def _become(path: Path, descriptors: list[int]) -> str | None:
    script, arguments, directory, environment, new_session = json.loads(
        path.read_text("utf-8", errors="surrogateescape")
    )
    path.unlink()
    if new_session:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    _mark(environment.get(MARK, ""))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:] = [os.getcwd(), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    sys.argv[:] = [script or "pytest", *arguments]
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    return script


def _exit(code: int) -> None:
    """End without taking the interpreter apart, which takes half a second with torch in it."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def settle() -> None:
    """Make forks of this process cheap, now that everything is imported.

    Garbage collections leave out what there is.  And the heap is put into huge pages, where the kernel can: a fork of
    a process with torch in it copies and frees a table of pages for 10 ms instead of 30.  The first traceback in a
    process looks for the files of all modules, which takes 0.1 s with torch, and is known from now on.
    """
    inspect.getmodule(settle.__code__)
    gc.collect()
    gc.freeze()
    from pytest_elastic.processes import collapse_memory

    for _ in collapse_memory():
        pass


def _mark(value: str) -> None:
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    ctypes.memmove(libc.getenv(MARK.encode()), value.ljust(ROOM, "-").encode(), ROOM)


def _warm(modules: Sequence[str]) -> None:
    """Import what a session imports, through pytest's hook that rewrites the plugin's asserts."""
    import importlib.util
    import io
    import pkgutil

    import pytest
    from known_pytest import remember

    class Imports:
        def pytest_collection(self) -> None:
            import pytest_elastic

            for module in pkgutil.walk_packages(pytest_elastic.__path__, "pytest_elastic."):
                if not module.name.endswith(HEAVY) and ".collectives._" not in module.name:
                    importlib.import_module(module.name)

    with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(io.StringIO()) as told:
        code = pytest.main([*ALONE, "-q", "-p", "no:cacheprovider", "--rootdir", empty, empty], [Imports()])
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED, told.getvalue()
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    remember()
    settle()


if __name__ == "__main__":
    channel, libraries = socket.socket(fileno=int(sys.argv[1])), sys.argv[3:]
    channel.set_inheritable(False)
    held = os.open(sys.argv[2], os.O_RDWR)
    _warm(libraries)
    sys.path.pop(0)
    program = _serve(channel, held)
    try:
        if program is None:
            runpy.run_module("pytest", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if libraries:
            _exit(end.code)
        raise
