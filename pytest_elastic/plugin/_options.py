"""Options and their ini twins: a table of one row each.  Precedence: marker, command line, ini."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import pytest

if TYPE_CHECKING:
    from pytest_elastic.report import PartialSkip

T = TypeVar("T")
Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=str)


class NotAllowedError(Exception):
    """The value of an option is not allowed; the text says which are."""


def at_least(
    least: int, read: Callable[[str], Number], kind: str = "a whole number"
) -> Callable[[str], Number]:
    """The check of a number."""

    def check(text: str) -> Number:
        with suppress(ValueError):
            if least <= (value := read(text)) < math.inf:
                return value
        raise NotAllowedError(f"it must be {kind}, at least {least}")

    return check


def digits(text: str) -> int | None:
    """The check of a number that may be left out."""
    if text and not (text.isascii() and text.isdigit()):
        raise NotAllowedError("it must be a whole number")
    return int(text) if text else None


def one_of(*allowed: Choice) -> Callable[[str], Choice]:
    """The check of a choice."""

    def check(text: str) -> Choice:
        if text not in allowed:
            raise NotAllowedError(f"it must be one of {', '.join(allowed)}")
        return text

    check.choices = allowed  # type: ignore[attr-defined]
    return check


def amounts(text: str) -> dict[str, float]:
    """The check of amounts by name."""
    found = {}
    for word in text.split():
        name, _, amount = word.partition("=")
        with suppress(ValueError):
            if name and 0 <= float(amount) < math.inf:
                found[name] = float(amount)
                continue
        raise NotAllowedError("it must be names with amounts, such as CPU=2 GPU=1")
    return found


def start_method(text: str) -> str:
    """The check of a start method; most runs have the default, and need not load the launchers."""
    if text == "auto":
        return text
    from pytest_elastic.launch import START_METHODS

    return one_of("auto", *START_METHODS)(text)


class Option(Generic[T]):
    """A row of the table, and the attribute of `Options` with its value.

    Attributes:
        check: makes a value of the text; raises `NotAllowedError`.
        default: as text.
        metavar: of the flag, `""` for its choices; `None` where there is no flag.
        help: what it says.
        ini: whether a file may set it; not what is for one run.
    """

    def __init__(
        self, check: Callable[[str], T], default: str, metavar: str | None, help: str, ini: bool = True
    ) -> None:
        self.check, self.default, self.metavar, self.help, self.ini = check, default, metavar, help, ini

    def __set_name__(self, owner: type[object], name: str) -> None:
        self.name, self.flag = name, f"--elastic-{name.replace('_', '-')}"

    @overload
    def __get__(self, options: None, owner: type[object]) -> Option[T]: ...
    @overload
    def __get__(self, options: object, owner: type[object]) -> T: ...
    def __get__(self, options: object | None, owner: type[object]) -> Option[T] | T:
        return self if options is None else cast("T", vars(options)[self.name])

    def declare(self, parser: pytest.Parser, group: pytest.OptionGroup) -> None:
        """Declare its flag and its ini."""
        if self.metavar is not None:
            choices = getattr(self.check, "choices", None)
            metavar = self.metavar or None
            group.addoption(self.flag, metavar=metavar, choices=choices, default=None, help=self.help)
        if self.ini:
            parser.addini(f"elastic_{self.name}", self.help, type="string", default=None)

    def read(self, config: pytest.Config) -> T:
        """Its value in this run.

        Raises:
            pytest.UsageError: it is not allowed.
        """
        source, text = self.flag, config.getoption(self.flag, None)
        if text is None and self.ini:
            source, text = f"elastic_{self.name}", config.getini(f"elastic_{self.name}")
        try:
            return self.check(self.default if text is None else text)
        except NotAllowedError as error:
            raise pytest.UsageError(f"{source}: {text!r} is not allowed; {error}") from None


CLOCKS = ("auto", "real")
TRACES = ("failed", "on", "off")
COLLECTIVES = ("check", "carry", "off")


class Options:
    """The run's settings; spans in seconds."""

    # fmt: off
    nprocs = Option(at_least(1, int), "2", "N", "ranks of a test that does not say how many")
    timeout = Option(
        at_least(0, float, "a number of seconds"), "60", "SECONDS",
        "seconds for a test on ranks, 0 for none; starting the ranks is not counted")
    start_timeout = Option(
        at_least(0, float, "a number of seconds"), "60", None, "seconds for the ranks of a test to come up")
    start_method = Option(
        start_method, "auto", "METHOD", "how ranks are made: auto, fork (from a process set aside) or spawn")
    launcher = Option(
        one_of("auto", "external", "local", "ray"), "auto", "",
        "who starts ranks: the launcher that started pytest (auto: if it is a known one), pytest (local), or "
        "Ray, for pytest (ray)")
    ray_address = Option(
        str, "auto", None,
        "the cluster of Ray: its address, or auto for one that runs, else one for this run on this machine")
    ray_strategy = Option(
        one_of("SPREAD", "STRICT_PACK"), "SPREAD", None,
        "nodes of the ranks that Ray starts: as many as there are (SPREAD), or one (STRICT_PACK)")
    ray_resources = Option(
        amounts, "CPU=1", None,
        "resources of each rank that Ray starts, such as CPU=2 GPU=1")
    log = Option(
        one_of("failed", "all", "none"), "failed", "",
        "of which tests the output of the ranks is reported: failed, all or none")
    partial_skip: Option[PartialSkip] = Option(
        one_of("fail", "skip", "pass"), "fail", None,
        "what a skip on some of the ranks is: fail, skip or pass")
    leaks = Option(
        one_of("warn", "fail"), "warn", None,
        "what a process that a passing test leaves behind is: warn or fail")
    clock = Option(
        one_of(*CLOCKS), "auto", "",
        "timeouts of the ranks' store: auto lets those that nothing can prevent pass at once, or real")
    trace = Option(
        one_of(*TRACES), "failed", "",
        "whether a test on ranks keeps the page of its run: if it failed, always (on), or never (off)")
    artifacts = Option(
        lambda text: Path(text) if text else None, ".pytest_elastic", "DIR",
        "directory for the files of failed tests on ranks, empty for none")
    torch_threads = Option(
        at_least(0, int), "1", None,
        "torch.set_num_threads in each rank where torch is loaded, 0 leaves it alone")
    collectives = Option(
        one_of(*COLLECTIVES), "check", "",
        "collectives of torch: check that the ranks' calls are alike, carry their data, too, or off")
    adopt = Option(
        one_of("off", "processes", "torch"), "off", "",
        "processes that tests start by multiprocessing are forks of one set aside; torch: so, too, and "
        "tests of torch's MultiProcessTestCase run on ranks")
    replay = Option(
        str, "", "TOKEN|FILE",
        "force the order of a recorded run on the ranks, as a failure report says", False)
    stress = Option(
        lambda text: digits(text) or 0, "", "N",
        "run each test on ranks N times or until it fails, with seeded jitter at its store", False)
    seed = Option(digits, "", "N", "of the jitter; by default a new one each time", False)
    # fmt: on

    def __init__(self, config: pytest.Config) -> None:
        """Read and check all of them, and those of pytest's own that matter here.

        Raises:
            pytest.UsageError: a value that is not allowed; the text says which are.
        """
        vars(self).update({option.name: option.read(config) for option in TABLE})
        if self.artifacts is not None:
            vars(self)["artifacts"] = config.rootpath / self.artifacts
        # `-rP`, `-rA`; the reporter of the terminal, which reads them, is not there in every process.
        self.passes_are_shown = bool({"P", "A"} & set(config.getoption("reportchars", "") or ""))
        self.setup_show = bool(config.getoption("setupshow", False) or config.getoption("setuponly", False))
        self.full_trace = bool(config.getoption("fulltrace", False))
        self.debugging_stops_clocks = not _of_timeout(config, "timeout_disable_debugger_detection")


TABLE: list[Option[Any]] = [row for row in vars(Options).values() if isinstance(row, Option)]


def add_options(parser: pytest.Parser) -> None:
    """Declare all of them."""
    group = parser.getgroup("elastic", "tests on many ranks")
    for option in TABLE:
        option.declare(parser, group)


def timeout_is_off(item: pytest.Item) -> bool:
    """Whether a time limit of 0 was asked of pytest-timeout, which calls no hook then."""
    mark = item.get_closest_marker("timeout")
    of_mark = mark and (mark.args[0] if mark.args else mark.kwargs.get("timeout"))
    of_run = _of_timeout(item.config, "timeout")
    given = of_run if of_mark is None else of_mark
    return given is not None and float(given) == 0


def _of_timeout(config: pytest.Config, name: str) -> Any:
    """An option of pytest-timeout; `None` where it is not given, or the plugin switched off."""
    if not config.pluginmanager.hasplugin("timeout"):
        return None
    given = config.getoption(name, None)
    return (config.getini(name) or None) if given is None else given
