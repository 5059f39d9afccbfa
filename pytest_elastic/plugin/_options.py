"""Options, their ini twins, and the one place that reads them.  Precedence: marker, command line, ini."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from pytest_elastic.report import PartialSkip

START_METHODS = ("auto", "fork", "spawn")
CLOCKS = ("auto", "real")
_CHOICES = {
    "log": ("failed", "all", "none"),
    "start_method": START_METHODS,
    "clock": CLOCKS,
    "partial_skip": ("fail", "skip", "pass"),
    "leaks": ("warn", "fail"),
}
_INI = {
    "nprocs": ("2", "ranks of a test that does not say how many"),
    "timeout": ("60", "seconds for a test on ranks, 0 for none; starting the ranks is not counted"),
    "start_timeout": ("60", "seconds for the ranks of a test to come up"),
    "start_method": ("auto", "how ranks are made: auto, fork (from a process set aside) or spawn"),
    "log": ("failed", "whose output is reported: failed, all or none"),
    "partial_skip": ("fail", "what a skip on some of the ranks is: fail, skip or pass"),
    "leaks": ("warn", "what a process that a passing test leaves behind is: warn or fail"),
    "clock": (
        "auto",
        "timeouts of the ranks' store: auto lets those that nothing can prevent pass at once, or real",
    ),
    "artifacts": (".pytest_elastic", "directory for the files of failed tests on ranks, empty for none"),
    "torch_threads": ("1", "torch.set_num_threads in each rank where torch is loaded, 0 leaves it alone"),
}

_ONLY = {  # On the command line only: they are for one run.
    "replay": ("TOKEN|FILE", "force the order of a recorded run on the ranks, as a failure report says"),
    "stress": ("N", "run each test on ranks N times or until it fails, with seeded jitter at its store"),
    "seed": ("N", "of the jitter; by default a new one each time"),
}


def add_options(parser: pytest.Parser) -> None:
    """Declare all of them."""
    group = parser.getgroup("elastic", "tests on many ranks")
    for name in ("nprocs", "timeout", "start_method", "clock", "artifacts", "log"):
        flag = "--elastic-" + name.replace("_", "-")
        metavar = {"nprocs": "N", "timeout": "SECONDS", "artifacts": "DIR"}.get(name)
        choices = _CHOICES.get(name)
        group.addoption(flag, metavar=metavar, choices=choices, default=None, help=_INI[name][1])
    for name, (metavar, text) in _ONLY.items():
        group.addoption(f"--elastic-{name}", metavar=metavar, default=None, help=text)
    for name, (default, text) in _INI.items():
        parser.addini(f"elastic_{name}", text, type="string", default=default)


class Options(NamedTuple):  # Every run pays for making this class: a dataclass takes four times as long.
    """The run's settings; spans in seconds."""

    nprocs: int
    timeout: float
    start_timeout: float
    start_method: str
    log: str
    partial_skip: PartialSkip
    leaks: str
    torch_threads: int
    replay: str
    stress: int
    seed: int | None
    clock: str
    artifacts: Path | None
    live: bool
    setup_show: bool
    full_trace: bool
    debugging_stops_clocks: bool

    @classmethod
    def read(cls, config: pytest.Config) -> Options:
        """Read and check them.

        Raises:
            pytest.UsageError: a value that is not allowed; the text says which are.
        """
        return cls(
            nprocs=int(_number(config, "nprocs", 1, whole=True)),
            timeout=_number(config, "timeout", 0),
            start_timeout=_number(config, "start_timeout", 0),
            start_method=_choice(config, "start_method"),
            log=_choice(config, "log"),
            partial_skip=cast("PartialSkip", _choice(config, "partial_skip")),
            leaks=_choice(config, "leaks"),
            torch_threads=int(_number(config, "torch_threads", 0, whole=True)),
            replay=config.getoption("--elastic-replay") or "",
            stress=_whole(config, "stress") or 0,
            seed=_whole(config, "seed"),
            clock=_choice(config, "clock"),
            artifacts=config.rootpath / where if (where := _value(config, "artifacts")[1]) else None,
            # Options of pytest's own plugins, which `-p no:...` may have switched off.
            live=config.getoption("capture", None) == "no",
            setup_show=bool(config.getoption("setupshow", False) or config.getoption("setuponly", False)),
            full_trace=bool(config.getoption("fulltrace", False)),
            debugging_stops_clocks=not _of_timeout(config, "timeout_disable_debugger_detection"),
        )


def timeout_is_off(item: pytest.Item) -> bool:
    """Whether pytest-timeout was asked for no limit, of which it tells nobody."""
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


def _value(config: pytest.Config, name: str) -> tuple[str, Any]:
    flag = f"--elastic-{name.replace('_', '-')}"
    given = config.getoption(flag, None)
    return (flag, given) if given is not None else (f"elastic_{name}", config.getini(f"elastic_{name}"))


def _number(config: pytest.Config, name: str, least: int, whole: bool = False) -> float:
    source, text = _value(config, name)
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = float("nan")
    if not least <= number < float("inf"):
        kind = "a whole number" if whole else "a number of seconds"
        raise pytest.UsageError(f"{source}: {text!r} is not allowed; it must be {kind}, at least {least}")
    return number


def _whole(config: pytest.Config, name: str) -> int | None:
    text = config.getoption(f"--elastic-{name}")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise pytest.UsageError(f"--elastic-{name}: {text!r} is not allowed; it must be a whole number")
    return int(text)


def _choice(config: pytest.Config, name: str) -> str:
    source, text = _value(config, name)
    if text not in _CHOICES[name]:
        raise pytest.UsageError(
            f"{source}: {text!r} is not allowed; it must be one of {', '.join(_CHOICES[name])}"
        )
    return str(text)
