"""A hang for people: one headline, the barriers and keys, the cause, and where the ranks stand.

What was said once is not said again: a rank's state stands beside the first line that misses it, unless an
earlier line has shown where it waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_elastic.hang._diagnosis import Diagnosis
from pytest_elastic.hang._frames import Stack
from pytest_elastic.hang._naming import key_names, names, numbers, place_name, plural
from pytest_elastic.hang._snapshot import BarrierSeen, Snapshot, WaitSeen
from pytest_elastic.hang._stack_tree import Branch, merge, quote, tree_dot, tree_text

Stacks = Mapping[int, Sequence[Stack]]


def report_text(diagnosis: Diagnosis, stacks: Stacks) -> str:
    """The whole report, several lines; `stacks` are those that could be had, by rank."""
    snapshot = diagnosis.snapshot
    told: set[int] = set()
    lines = [_headline(diagnosis)]
    lines += _barriers(snapshot, told)
    lines += _keys(snapshot, told)
    lines += _others(snapshot, told)
    lines.append(f"  {'cause' if diagnosis.exact else 'suspected cause'}: {diagnosis.cause}")
    if snapshot.note:
        lines.append(f"  note: {snapshot.note}")
    tree = tree_text(merged(diagnosis, stacks), "  ")
    return "\n".join([*lines, tree] if tree else lines)


def report_json(diagnosis: Diagnosis, stacks: Stacks) -> dict[str, Any]:
    """The whole report as values that `json.dumps` takes."""
    return {**diagnosis.to_json(), "stacks": [branch.to_json() for branch in merged(diagnosis, stacks)]}


def report_dot(diagnosis: Diagnosis, stacks: Stacks) -> str:
    """The whole report as a DOT graph: ranks, what they wait for, who is missing there, and the stacks."""
    snapshot = diagnosis.snapshot
    lines = ["digraph hang {", f"label={quote(str(diagnosis))};", "node [fontname=monospace];"]
    for rank, state in enumerate(snapshot.states):
        style = ", style=bold" if rank in diagnosis.ranks else ""
        lines.append(f"r{rank} [shape=ellipse, label={quote(f'rank {rank}: {state}')}{style}];")
    for number, barrier in enumerate(snapshot.barriers):
        lines.append(f"b{number} [shape=hexagon, label={quote(place_name(barrier.prefix))}];")
        lines += [f"r{rank} -> b{number};" for rank in barrier.arrived]
        lines += [f"b{number} -> r{rank} [style=dashed];" for rank, _ in barrier.absent]
    for number, (missing, waits) in enumerate(_by_key(snapshot).items()):
        lines.append(f"k{number} [shape=note, label={quote(key_names(missing))}];")
        lines += [f"r{rank} -> k{number};" for rank in sorted({wait.rank for wait in waits})]
    return "\n".join([*lines, *tree_dot(merged(diagnosis, stacks)), "}"])


def merged(diagnosis: Diagnosis, stacks: Stacks) -> tuple[Branch, ...]:
    """The stacks as one tree, with what each rank waits for and how far it came."""
    progress = dict(enumerate(diagnosis.snapshot.progress))
    waits: dict[int, str] = {}
    for wait in diagnosis.snapshot.waits:
        waits.setdefault(wait.rank, _call(wait))
    return merge(stacks, progress, waits)


def _call(wait: WaitSeen) -> str:
    if wait.barrier:  # A collective is called by its name, a barrier has one.
        return f"barrier({wait.barrier})" if wait.barrier.startswith('"') else wait.barrier
    return f"{wait.name}({key_names(wait.missing)})"


def _headline(diagnosis: Diagnosis) -> str:
    size, doomed = diagnosis.snapshot.world_size, diagnosis.doomed
    known = []
    if diagnosis.elapsed is not None:
        known.append(f"known {_span(diagnosis.elapsed)} after the last event")
    doomed_waits = [wait for wait in diagnosis.snapshot.waits if wait.doomed]
    if doomed_waits:
        first = min(doomed_waits, key=lambda wait: wait.since + wait.timeout)
        known.append(f"the {_call(first).partition('(')[0].split()[0]}'s timeout is {first.timeout:g} s")
    label = "HANG" if diagnosis.exact else "HANG (suspected)"
    ranks = doomed or diagnosis.ranks
    what = "can never go on" if doomed else "did not go on"
    return f"{label}  {len(ranks)} of {size} ranks {what}" + (f" ({'; '.join(known)})" if known else "")


def _span(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.00005 else f"{seconds * 1e6:.0f} us"


def _barriers(snapshot: Snapshot, told: set[int]) -> list[str]:
    heads = [f"{place_name(barrier.prefix)}:" for barrier in snapshot.barriers]
    came = [f"arrived {_arrived(one, snapshot)}{';' if one.absent else ''}" for one in snapshot.barriers]
    width, middle = max(map(len, heads), default=0), max(map(len, came), default=0)
    lines = []
    for head, arrived, barrier in zip(heads, came, snapshot.barriers, strict=True):
        told.update(barrier.arrived)
        absent = f" absent {_absent(barrier, told)}" if barrier.absent else ""
        lines.append(f"  {head:{width}} {arrived:{middle}}{absent}".rstrip())
    return lines


def _arrived(barrier: BarrierSeen, snapshot: Snapshot) -> str:
    """Who came, and how many are waited for where these are more than there are."""
    ranks = _list(barrier.arrived) or "nobody"
    more = barrier.world_size > snapshot.world_size
    return f"{ranks} ({len(barrier.arrived)} of {barrier.world_size} expected)" if more else ranks


def _absent(barrier: BarrierSeen, told: set[int]) -> str:
    """The absent ranks, equal reasons together; a reason only where it was not told before."""
    parts: list[tuple[list[int], str]] = []
    for rank, state in barrier.absent:
        reason = "" if rank in told else state
        if parts and parts[-1][1] == reason:
            parts[-1][0].append(rank)
        else:
            parts.append(([rank], reason))
        told.add(rank)
    said = ((_list(ranks), plural(reason, ranks)) for ranks, reason in parts)
    return ", ".join(f"{ranks} ({reason})" if reason else ranks for ranks, reason in said)


def _keys(snapshot: Snapshot, told: set[int]) -> list[str]:
    lines = []
    for missing, waits in _by_key(snapshot).items():
        ranks = tuple(sorted({wait.rank for wait in waits}))
        told.update(ranks)
        lines.append(f"  {key_names(missing)}: awaited by {_list(ranks)}")
    return lines


def _by_key(snapshot: Snapshot) -> dict[tuple[str, ...], list[WaitSeen]]:
    """The waits at no barrier, by what they lack."""
    found: dict[tuple[str, ...], list[WaitSeen]] = {}
    for wait in snapshot.waits:
        if not wait.barrier:
            found.setdefault(wait.missing, []).append(wait)
    return found


def _others(snapshot: Snapshot, told: set[int]) -> list[str]:
    """Those who stand in no line yet."""
    states: dict[str, list[int]] = {}
    for rank, state in enumerate(snapshot.states):
        if rank not in told:
            states.setdefault(state, []).append(rank)
    return [f"  {names(ranks)}: {plural(state, ranks)}" for state, ranks in states.items()]


def _list(ranks: Sequence[int]) -> str:
    """`0, 1, 2` as long as they are few, `0-62` where they are many."""
    return ", ".join(map(str, ranks)) if len(ranks) < 4 else numbers(ranks)
