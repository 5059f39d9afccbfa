"""Machines, users and ways of installing under which tests on ranks, or only all others, run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import ALONE

import pytest_elastic

ROOT = Path(pytest_elastic.__file__).parent.parent
MIXED = """
import pytest

def test_plain(mock_store): mock_store.set("a", "b")

def test_on_ranks(rank): pass

def test_controller(elastic): elastic.run(abs)
"""


def refused(result: pytest.RunResult, why: str) -> None:
    result.assert_outcomes(passed=1, errors=2)
    told = [f"{why}*", "* ERROR at setup of test_controller *", f"{why}*"]
    result.stdout.fnmatch_lines(["* ERROR at setup of test_on_ranks *", *told])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_no_process_to_be_had_is_the_error_of_tests_on_ranks_alone(run, pytester):
    """The zygote cannot be forked: all other tests run."""
    pytester.makeconftest(
        """
        import errno
        from pytest_elastic.pristine import os
        def refuse(): raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        os.fork = refuse
        """
    )
    refused(run(MIXED, "-ra"), "ranks cannot be started: *Resource temporarily unavailable")


def test_no_directory_to_be_had_is_the_error_of_tests_on_ranks_alone(run, pytester):
    """As where the base directory is another user's."""
    pytester.makefile(".txt", plain="a file")
    refused(run(MIXED, "-ra", "--basetemp=plain.txt/here"), "ranks cannot be started: *Not a directory")


ELSEWHERE = """
import fcntl, os, resource, select, signal, socket, subprocess, sys, sysconfig, termios
import pytest, _pytest.terminal, _pytest.faulthandler

sysconfig.get_config_vars()  # Which are found by the name of the platform.
for module, names in {
    os: ("eventfd", "eventfd_read", "eventfd_write", "pidfd_open", "memfd_create", "EFD_CLOEXEC"),
    signal: ("SIGRTMIN", "SIGRTMAX", "pidfd_send_signal"),
    socket: ("CMSG_SPACE", "CMSG_LEN", "SCM_RIGHTS", "MSG_CMSG_CLOEXEC"),
    select: ("epoll",),
}.items():
    for name in names:
        delattr(module, name)
sys.platform = "darwin"
sys.exit(pytest.main(["-ra", "-p", "no:cacheprovider", "-p", "no:rerunfailures", "-p", "no:hypothesispytest", "test_it.py"]))
"""


def test_other_platforms_import_collect_and_run_the_other_tests(pytester, monkeypatch):
    """Without what only Linux has; where all tests want ranks there is one usage error."""
    pytester.makepyfile(elsewhere=ELSEWHERE, test_it=MIXED)
    refused(pytester.runpython("elsewhere.py"), "tests on ranks need Linux * this is darwin")
    pytester.makepyfile(test_it="def test_on_ranks(rank): pass")
    result = pytester.runpython("elsewhere.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: tests on ranks need Linux * this is darwin"])


# A filter of system calls in the kernel's own language: load the number (or an argument), compare, answer.
SECCOMP = """
import ctypes, errno, platform, struct, sys
def refuse(number, argument=None):
    load = lambda offset: struct.pack("HBBI", 0x20, 0, 0, offset)
    skip_unless = lambda value, steps: struct.pack("HBBI", 0x15, 0, steps, value)
    answer = lambda value: struct.pack("HBBI", 6, 0, 0, value)
    code = load(0)
    if argument is None:
        code += skip_unless(number, 1)
    else:
        code += skip_unless(number, 3) + load(16) + skip_unless(argument, 1)
    code += answer(0x50000 | errno.EPERM) + answer(0x7FFF0000)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0, ctypes.get_errno()
X86 = platform.machine() == "x86_64"
CALLS = {
    "pidfd_open": (434,),
    "pidfd_send_signal": (424,),
    "memfd_create": (319 if X86 else 279,),
    "parent-death signal": (157 if X86 else 167, 1),
    "subreaper": (157 if X86 else 167, 36),
}
refuse(*CALLS[sys.argv[1]])
"""


@pytest.mark.parametrize(
    "call", ["pidfd_open", "pidfd_send_signal", "memfd_create", "parent-death signal", "subreaper"]
)
def test_a_system_call_that_a_container_refuses_is_named(call):
    """It is there, and no `hasattr` tells that it is refused."""
    code = f"{SECCOMP}\nfrom pytest_elastic.processes import supported\nprint(supported())"
    told = subprocess.run([sys.executable, "-c", code, call], capture_output=True, text=True, cwd=ROOT)
    if "AssertionError" in told.stderr:
        pytest.skip("no filter of system calls can be set here")
    assert told.stdout.startswith(f"the system has no {call}"), told.stderr
    assert "Operation not permitted" in told.stdout


def test_refused_system_calls_are_the_error_of_tests_on_ranks_alone(pytester):
    """In words, and not as a zygote that is gone."""
    pytester.makepyfile(
        inside=f"{SECCOMP}\nimport pytest\n"
        "pytest.main(['-ra', '-p', 'no:cacheprovider', '-p', 'no:rerunfailures', 'test_it.py'])",
        test_it=MIXED,
    )
    result = pytester.run(sys.executable, "inside.py", "pidfd_open")
    if "AssertionError" in result.stderr.str():
        pytest.skip("no filter of system calls can be set here")
    refused(result, "tests on ranks need Linux * the system has no pidfd_open, or refuses it")


def test_a_package_in_a_zip_and_without_metadata(run, pytester, monkeypatch):
    """The version is known, and the page of a failure is drawn."""
    archive = shutil.make_archive(str(pytester.path / "lib"), "zip", ROOT, "pytest_elastic")
    monkeypatch.setenv("PYTHONPATH", archive)
    pytester.makeconftest(
        """
        import importlib.metadata as metadata, pytest_elastic
        assert "lib.zip" in pytest_elastic.__file__
        known = metadata.version
        def version(name):
            if name == "pytest-elastic":
                raise metadata.PackageNotFoundError(name)
            return known(name)
        metadata.version = version
        """
    )
    result = run("def test_fails(world):\n    world.barrier()\n    assert world.rank\ndef test_plain(): pass")
    result.assert_outcomes(passed=1, failed=1)
    assert list(pytester.path.glob(".pytest_elastic/*/page.html"))
    (recording,) = pytester.path.glob(".pytest_elastic/*/recording.jsonl")
    assert f'"{pytest_elastic.__version__}"' in recording.read_text("utf-8")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_locale_of_ascii_and_a_directory_that_is_not(pytester, monkeypatch, method):
    """Whatever is written is UTF-8, and what travels on a command line is escaped."""
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name, value in {**ascii, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}.items():
        monkeypatch.setenv(name, value)
    place = pytester.mkdir("größe")
    (place / "test_it.py").write_text(
        "import os\ndef test_fails(world):\n    print('größe')\n    world.barrier('größe')\n"
        "    assert not os.getcwd()\n",
        "utf-8",
    )
    monkeypatch.chdir(place)
    result = pytester.run(
        sys.executable, "-m", "pytest", *ALONE, "-p", "no:cacheprovider", f"--elastic-start-method={method}",
        "--elastic-nprocs=1", f"--rootdir={place}",
    )  # fmt: skip
    result.assert_outcomes(failed=1)
    assert "UnicodeEncodeError" not in result.stdout.str() + result.stderr.str()
    assert list(place.glob(".pytest_elastic/*/page.html"))
