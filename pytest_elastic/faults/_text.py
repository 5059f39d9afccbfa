"""The text of a fault plan: short, and safe in a shell, a URL and a token.

    plan    = fault *("+" fault)
    fault   = letter [rank] "@" [rank ":"] trigger ["=" value]
    letter  = K kill, X exit, S stop, R resume, D delay, P drop (pretend), L late join, G server gone
    trigger = number | ("k" | "b" | "l") text ["," number]      operation; key, barrier, line and which one
    value   = number ("s" | "ms" | "us")                        of S, D and L;  a number for X

The text of a trigger is percent-encoded but for letters, digits, `_` and `/`; so none of `+ . - ~ @ = ,` is
ever part of it.  `L1=200ms` has no trigger.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.faults._plan import Fault, FaultPlan, Kind, Trigger, Where

_LETTERS: dict[Kind, str] = {
    "kill": "K",
    "exit": "X",
    "stop": "S",
    "resume": "R",
    "delay": "D",
    "drop": "P",
    "late_join": "L",
    "server_gone": "G",
}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_WHERES: dict[str, Where] = {"k": "key", "b": "barrier", "l": "line"}
_UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}  # In microseconds, biggest first.
_NUMBER = "0|[1-9][0-9]{0,17}"
_FAULT = re.compile(
    rf"(?P<letter>[A-Z])(?P<rank>{_NUMBER})?"
    rf"(?:@(?:(?P<of>{_NUMBER}):)?(?:(?P<op>{_NUMBER})|"
    rf"(?P<where>[kbl])(?P<text>(?:[A-Za-z0-9_/]|%[0-9A-F]{{2}})+)(?:,(?P<nth>{_NUMBER}))?))?"
    rf"(?:=(?P<value>{_NUMBER})(?P<unit>s|ms|us)?)?"
)


def fault_text(fault: Fault) -> str:
    """One fault as text."""
    text = _LETTERS[fault.kind] + ("" if fault.rank is None else str(fault.rank))
    if fault.kind != "late_join":
        text += f"@{_trigger_text(fault.trigger)}"
    if fault.code is not None:
        text += f"={fault.code}"
    if fault.seconds is not None:
        text += f"={_span_text(fault.seconds)}"
    return text


def parse(text: str) -> FaultPlan:
    """The plan that `str` wrote; the empty text is the empty plan.

    Raises:
        FaultPlanError: it is none; with the fault, its place in the text and what is allowed.
    """
    faults, at = [], 0
    for part in text.split("+") if text else ():
        try:
            faults.append(_fault(part))
        except FaultPlanError as error:
            raise FaultPlanError(error.what, error.allowed, f"{part!r} at character {at + 1} of {text!r}")
        at += len(part) + 1
    return FaultPlan(tuple(faults))


def _fault(part: str) -> Fault:
    match = _FAULT.fullmatch(part)
    if match is None:
        raise FaultPlanError("no fault", "such as K1@4, X3@5=7, S2@bepoch3=2s, D0@ka%2A=200ms, L1=200ms")
    if match["letter"] not in _KINDS:
        letters = ", ".join(f"{letter} {kind}" for letter, kind in _KINDS.items())
        raise FaultPlanError(f"the letter {match['letter']}", letters)
    kind = _KINDS[match["letter"]]
    rank = None if match["rank"] is None else int(match["rank"])
    value, unit = match["value"], match["unit"]
    if value is not None and (unit is None) != (kind == "exit"):
        raise FaultPlanError(f"the value {value}{unit or ''}", "a number for X, with s, ms or us for S, D, L")
    seconds = None if unit is None else int(value) * _UNITS[unit] / 1e6
    code = int(value) if value is not None and unit is None else None
    return Fault(kind, rank, _trigger(kind, match), seconds, code)


def _trigger(kind: Kind, match: re.Match[str]) -> Trigger:
    has = match["op"] is not None or match["where"] is not None
    if has == (kind == "late_join"):
        raise FaultPlanError("no trigger" if not has else "a trigger", "one after @, and none for L")
    if kind == "late_join":
        return Trigger("op")
    of = None if match["of"] is None else int(match["of"])
    if match["op"] is not None:
        return Trigger("op", "", int(match["op"]), of)
    try:
        text = unquote(match["text"], errors="strict")
    except UnicodeDecodeError as error:
        raise FaultPlanError(f"the text {match['text']!r} ({error.reason})", "UTF-8, percent-encoded")
    return Trigger(_WHERES[match["where"]], text, int(match["nth"] or 1), of)


def _trigger_text(trigger: Trigger) -> str:
    of = "" if trigger.rank is None else f"{trigger.rank}:"
    if trigger.where == "op":
        return f"{of}{trigger.nth}"
    nth = "" if trigger.nth == 1 else f",{trigger.nth}"
    return f"{of}{trigger.where[0]}{_quoted(trigger.text)}{nth}"


def _quoted(text: str) -> str:
    """Percent-encoded, the marks that `quote` deems safe included."""
    return re.sub(r"[-.~]", lambda mark: f"%{ord(mark[0]):02X}", quote(text, safe="/"))


def _span_text(seconds: float) -> str:
    micros = round(seconds * 1e6)
    unit = next(unit for unit, size in _UNITS.items() if micros % size == 0)
    return f"{micros // _UNITS[unit]}{unit}"
