"""`--elastic-adopt`: processes that tests start by `multiprocessing` are forks, and told of when they die.

Nothing of this is loaded where the option is off.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.adoption import AdoptedPopen, Adopter
from pytest_elastic.hang import cut_harness, parse_stacks
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._preconditions import runs_tests
from pytest_elastic.plugin._session import launchers_of
from pytest_elastic.plugin._stash import CLEAN
from pytest_elastic.pristine import time
from pytest_elastic.wording import exit_text

if TYPE_CHECKING:
    from pytest_elastic.plugin._torch_cases import TorchCases

ADOPTED: pytest.StashKey[list[AdoptedPopen]] = pytest.StashKey()
_STACKS = 0.5  # Seconds for all.
_FRAMES = 12
_LIMIT = 120.0
_CACHED = "elastic/starts"


def adopt(config: pytest.Config, what: str) -> None:
    """Register what a run with `--elastic-adopt` needs: `"processes"`, or `"torch"`, which has these, too."""
    cases = None
    if what == "torch":
        from pytest_elastic.plugin._torch_cases import TorchCases

        cases = TorchCases()
        config.pluginmanager.register(cases, "pytest_elastic_torch_cases")
    config.pluginmanager.register(Adoption(cases), "pytest_elastic_adoption")


class Adoption:
    """The plugin of a run with `--elastic-adopt`."""

    def __init__(self, cases: TorchCases | None) -> None:
        self._cases = cases
        self._adopter: Adopter | None = None
        self._tests = 0
        self._why = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if runs_tests(session):
            launchers = launchers_of(session)
            clean = session.config.stash.get(CLEAN, None)
            if launchers.default.name == "fork" or clean is not None:
                factory: Any = session.config._tmp_path_factory  # type: ignore[attr-defined]
                options = Options(session.config)
                checks, zygote = options.collectives != "off", None if clean is None else clean.zygote
                self._adopter = Adopter(factory.mktemp("adopted"), checks, options.clock, zygote)
                # Late: a run that is stopped (-x) tears fixtures with processes down after its loop.
                session.config.add_cleanup(self._adopter.close)
            else:
                self._why = launchers.why
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._adopter is None:
            return (yield)
        processes = item.stash[ADOPTED] = self._adopter.begin()
        try:
            return (yield)
        finally:
            self._tests += bool(processes)
            self._adopter.end()
            del item.stash[ADOPTED]  # Each keeps a descriptor.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        processes = item.stash.get(ADOPTED, [])
        if report.failed and processes:
            words = dict.fromkeys(word for one in processes if one.member for word in one.member.words())
            if words:
                report.sections.append(("who waits for whom", "\n".join(words)))
            report.sections.append(("adopted processes", account(processes)))
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        cases, adopter = self._cases, self._adopter
        if cases is not None and (cases.served or cases.left):
            tests = counted(cases.served, "test", "tests")
            terminalreporter.write_line(f"adopted: {tests} of MultiProcessTestCase on ranks")
            for why, count in cases.left.items():
                terminalreporter.write_line(
                    f"adopted: {counted(count, 'test', 'tests')} of it left as they are: {why}"
                )
        if adopter is None:
            if self._why:
                terminalreporter.write_line(f"adopted: nothing, since no forks can be made: {self._why}")
            return
        if adopter.served:
            ours, theirs = (
                adopter.seconds / adopter.served,
                known_start(terminalreporter.config, adopter.modules),
            )
            fresh = f"; a fresh interpreter takes {theirs:.2f} s here (measured once)" if theirs else ""
            terminalreporter.write_line(
                f"adopted: {counted(adopter.served, 'process', 'processes')} "
                f"of {counted(self._tests, 'test', 'tests')}, {ours:.3f} s for each start{fresh}"
            )
        for why, count in adopter.left.items():
            terminalreporter.write_line(
                f"adopted: {counted(count, 'process', 'processes')} left to the standard library: {why}"
            )


def counted(number: int, one: str, more: str) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else more}"


def account(processes: list[AdoptedPopen]) -> str:
    """What became of a test's adopted processes: who died, in that order, and where the others stand."""
    for one in processes:
        one.poll()
    lines = []
    for one in sorted((one for one in processes if one.ended), key=lambda one: one.ended or 0.0):
        span = (one.ended or one.began) - one.began
        lines.append(f"{one.name} (pid {one.pid}) {exit_text(one.returncode or 0)} after {span:.2f} s")
        if (one.returncode or 0) < 0:  # Others may have been asked for theirs before.
            lines += stack_of(one)
    running = [one for one in processes if one.ended is None]
    for one in running:
        one.dump()
    deadline = time.monotonic() + _STACKS
    while time.monotonic() < deadline and not all(map(stack_of, running)):
        time.sleep(0.01)
    for one in running:
        lines += [
            f"{one.name} (pid {one.pid}) runs:",
            *(stack_of(one) or ["    it wrote no stack"]),
        ]
    return "\n".join(lines)


def stack_of(process: AdoptedPopen) -> list[str]:
    """The innermost frames of a process's main thread, if it wrote them: at a fatal signal, or when asked."""
    file = process.directory / "stacks.log"
    text = file.read_text("utf-8", "replace") if file.exists() else ""
    stacks = [one for one in parse_stacks(text) if one.current]
    frames = (cut_harness(stacks[-1]).frames or stacks[-1].frames) if stacks else ()
    return [f"    {frame}" for frame in frames[-_FRAMES:]]


def known_start(config: pytest.Config, modules: Counter[str]) -> float | None:
    """`standard_start` of the commonest of these modules, which pytest's cache keeps from run to run.

    Without a cache, which is a plugin, it would be measured in each run: then it is `None`.
    """
    cache: Any = getattr(config, "cache", None)
    if cache is None:
        return None
    module, known = modules.most_common(1)[0][0], cache.get(_CACHED, {})
    if module not in known:
        known[module] = standard_start(module)
        cache.set(_CACHED, known)
    found: float | None = known[module]
    return found


def standard_start(module: str) -> float | None:
    """Seconds in which a fresh interpreter imports a module: a start without adoption.

    It is `None` where that cannot be imported there, or not in time.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; import multiprocessing.spawn; __import__({module!r})"
    began = time.monotonic()
    try:
        subprocess.run([sys.executable, "-c", code], timeout=_LIMIT, capture_output=True, check=True)
    except subprocess.SubprocessError:
        return None
    return time.monotonic() - began
