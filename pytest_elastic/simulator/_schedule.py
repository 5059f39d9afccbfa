"""Schedules and their tokens: one word that replays one execution.

    token   = "E1." ranks ["x" rounds] "." wake *("." delay) ["+" faults] ["~" clock] ["." seal]
    wake    = "l" | "v"                           latched, level
    delay   = gap "-" shift                       see `SparseScheduler`; a shift is at least 1
    faults  = a fault plan's text                 see `faults._text`; it has no ".", "~" and "-"
    clock   = "x" expiries ["s" skew *("," skew)] | "s" skew *("," skew)
    skew    = parts per million that a rank's clock is fast, by rank; negative for slow
    seal    = "p" 4 hex digits 4 hex digits       checksum of the text before it, fingerprint of the program

So `E1.3.l.1-1` is: three ranks, a latched store, one default decision, then the first alternative.  The seal
detects a damaged token and a token of another program: the fingerprint is that of the operations in the
execution that the token was made from.  A token written by hand has no seal and runs with any program.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_elastic.errors import ElasticError, FaultPlanError
from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.scheduling import Delays, Step, checksum
from pytest_elastic.simulator._execution import Execution, Setting, Wake

_VERSION = "E1"
_WAKES: dict[str, Wake] = {"l": "latched", "v": "level"}
_LETTERS = {wake: letter for letter, wake in _WAKES.items()}
_TOKEN = re.compile(
    r"E1\.(?P<ranks>\d+)(?:x(?P<rounds>\d+))?\.(?P<wake>[a-z])(?P<delays>(?:\.\d+-\d+)*)"
    r"(?:\+(?P<faults>[^~.]*))?(?:~(?:x(?P<expiries>\d+))?(?:s(?P<skew>-?\d+(?:,-?\d+)*))?)?"
)
_START = re.compile(r"E1(\.\d+(x\d+)?(\.[lv](\.\d+-\d+)*(\+[^~.]*)?(~(x\d+)?(s-?\d+(,-?\d+)*)?)?)?)?")
_SEAL = re.compile(r"(?P<body>.*)\.p(?P<check>[0-9a-f]{4})(?P<program>[0-9a-f]{4})")
_MOST = 10**6
_PARTS = 10**6


class TokenError(ElasticError, ValueError):
    """A token cannot be read, or belongs to another program.

    Attributes:
        token: the token.
        why: the reason, in words.
    """

    def __init__(self, token: str, why: str) -> None:
        self.token, self.why = token, why
        super().__init__(f"the token {token!r} {why}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: everything that determines an execution of a program.

    Attributes:
        setting: the ranks, the store's rule, the faults, the clock.
        delays: (gap, shift) pairs, see `SparseScheduler`.
        program: fingerprint of the program that it was made for, `None` for any.

    >>> str(Schedule(Setting(3), ((1, 1),)))
    'E1.3.l.1-1'
    """

    setting: Setting
    delays: Delays = ()
    program: int | None = None

    def __str__(self) -> str:
        """Token, with a seal if the program is known."""
        setting = self.setting
        rounds = f"x{setting.rounds}" if setting.rounds > 1 else ""
        body = f"{_VERSION}.{setting.ranks}{rounds}.{_LETTERS[setting.wake]}"
        body += "".join(f".{gap}-{shift}" for gap, shift in self.delays)
        if setting.faults:
            body += f"+{setting.faults}"
        clock = f"x{setting.expiries}" if setting.expiries else ""
        if setting.skew:
            clock += "s" + ",".join(str(round(skew * _PARTS)) for skew in setting.skew)
        body += f"~{clock}" if clock else ""
        return body if self.program is None else f"{body}.p{checksum(body):04x}{self.program:04x}"


def schedule_of(execution: Execution) -> Schedule:
    """The schedule of an execution, with its seal.

    >>> from pytest_elastic.simulator import simulate
    >>> str(schedule_of(simulate(lambda rank, world_size, store: store.set("key", "1"), ranks=2)))
    'E1.2.l.p5a17c43e'
    """
    return Schedule(execution.setting, execution.delays, fingerprint(execution.steps))


def recipe(name: str, execution: Execution) -> str:
    """Code that replays an execution of a function of this name."""
    besides = ", may_timeout=True" if execution.setting.may_timeout else ""
    return f"replay({name}, {str(schedule_of(execution))!r}{besides})"


def parse_token(token: str) -> Schedule:
    """The schedule of a token.

    Raises:
        TokenError: the token has another version, is damaged, or is out of range.

    >>> parse_token("E1.3.l.1-1").delays
    ((1, 1),)
    """
    if not token.startswith(f"{_VERSION}."):
        other = re.match(r"E\d+\.", token)
        why = (
            f"has version {other[0][:-1]}, this is {_VERSION}"
            if other
            else "is no token: E1.ranks.l or E1.ranks.v"
        )
        raise TokenError(token, why)
    body, program = token, None
    if sealed := _SEAL.fullmatch(token):
        body, program = sealed["body"], int(sealed["program"], 16)
        if int(sealed["check"], 16) != checksum(body):
            raise TokenError(token, "is damaged: its checksum does not fit")
    match = _TOKEN.fullmatch(body)
    if match is None:
        sound = _START.match(body)
        raise TokenError(token, f"is damaged at character {sound.end() + 1 if sound else 1}")
    return Schedule(_setting(token, match), _delays(token, match["delays"]), program)


def fingerprint(steps: Sequence[Step]) -> int:
    """Fingerprint of a program, 16 bits: the operations of its ranks and their keys, in order."""
    text = "\n".join(f"{step.rank} {step.name} {step.keys}" for step in steps if step.kind == "call")
    return zlib.crc32(text.encode()) & 0xFFFF


def _setting(token: str, match: re.Match[str]) -> Setting:
    if match["wake"] not in _WAKES:
        raise TokenError(token, f"has the wake rule {match['wake']!r}; l is latched, v is level")
    skew = tuple(int(part) / _PARTS for part in (match["skew"] or "").split(",") if part)
    try:
        faults = parse(match["faults"]) if match["faults"] else FaultPlan()
        return Setting(
            _number(token, match["ranks"]),
            _WAKES[match["wake"]],
            faults,
            _number(token, match["expiries"] or "0"),
            skew,
            rounds=_number(token, match["rounds"] or "1"),
        )
    except FaultPlanError as error:
        raise TokenError(token, f"has no good faults: {error}")
    except TokenError:
        raise
    except ValueError as error:
        raise TokenError(token, f"is out of range: {error}")


def _delays(token: str, text: str) -> Delays:
    pairs = [part.split("-") for part in text.split(".")[1:]]
    delays = tuple((_number(token, gap), _number(token, shift)) for gap, shift in pairs)
    if any(shift == 0 for _, shift in delays):
        raise TokenError(token, "is out of range: a shift of 0 is no delay")
    return delays


def _number(token: str, text: str) -> int:
    if len(text) > len(str(_MOST)) or int(text) > _MOST:
        raise TokenError(token, f"is out of range: {text} is more than {_MOST}")
    return int(text)
