"""The report of a hang: a headline, the barriers and keys, the cause, and the tree of stacks.

Nothing is repeated: a rank's state stands beside the first line that misses it, unless an earlier line has
shown where it waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_elastic.hang._diagnosis import CollectiveMismatch, Diagnosis
from pytest_elastic.hang._frames import Stack
from pytest_elastic.hang._naming import key_names, place_name
from pytest_elastic.hang._snapshot import BarrierSeen, CallSeen, Snapshot, WaitSeen
from pytest_elastic.hang._stack_tree import Branch, merge, quote, tree_dot, tree_text
from pytest_elastic.wording import name_ranks, number_ranks, plural

Stacks = Mapping[int, Sequence[Stack]]


def report_text(diagnosis: Diagnosis, stacks: Stacks) -> str:
    """The report for people, several lines; `stacks` are by rank, where they could be taken."""
    snapshot = diagnosis.snapshot
    told: set[int] = set()
    lines = [headline(diagnosis)]
    lines += call_lines(snapshot, told)
    lines += barrier_lines(snapshot, told)
    lines += key_lines(snapshot, told)
    lines += other_lines(snapshot, told)
    lines.append(f"  {'cause' if diagnosis.exact else 'suspected cause'}: {diagnosis.cause}")
    if snapshot.note:
        lines.append(f"  note: {snapshot.note}")
    tree = tree_text(merged(diagnosis, stacks), "  ")
    return "\n".join([*lines, tree] if tree else lines)


def consequence(diagnosis: Diagnosis, rank: int) -> str:
    """What never happens as this rank has failed: `barrier "epoch3" never complete`; `""` for nothing."""
    snapshot = diagnosis.snapshot
    missed = [(place_name(one.prefix), one.absent) for one in snapshot.barriers]
    missed += [(one.title, one.absent) for one in snapshot.collectives]
    for what, absent in missed:
        if any(rank == other for other, _ in absent):
            return f"{what} never complete"
    keys = next(iter(waits_by_key(snapshot)), ())
    return f"{key_names(keys)} never set" if keys and not missed else ""


def report_json(diagnosis: Diagnosis, stacks: Stacks) -> dict[str, Any]:
    """The report as values that `json.dumps` takes."""
    return {**diagnosis.to_json(), "stacks": [branch.to_json() for branch in merged(diagnosis, stacks)]}


def report_dot(diagnosis: Diagnosis, stacks: Stacks) -> str:
    """The report as a DOT graph: ranks, their barriers and keys, absent ranks, and stacks."""
    snapshot = diagnosis.snapshot
    lines = ["digraph hang {", f"label={quote(str(diagnosis))};", "node [fontname=monospace];"]
    for rank, state in enumerate(snapshot.states):
        style = ", style=bold" if rank in diagnosis.ranks else ""
        lines.append(f"r{rank} [shape=ellipse, label={quote(f'rank {rank}: {state}')}{style}];")
    for number, barrier in enumerate(snapshot.barriers):
        lines.append(f"b{number} [shape=hexagon, label={quote(place_name(barrier.prefix))}];")
        lines += [f"r{rank} -> b{number};" for rank in barrier.arrived]
        lines += [f"b{number} -> r{rank} [style=dashed];" for rank, _ in barrier.absent]
    for number, call in enumerate(snapshot.collectives):
        lines.append(f"c{number} [shape=hexagon, label={quote(call.title)}];")
        lines += [f"r{rank} -> c{number};" for _, _, ranks in call.calls for rank in ranks]
        lines += [f"c{number} -> r{rank} [style=dashed];" for rank, _ in call.absent]
    for number, (missing, waits) in enumerate(waits_by_key(snapshot).items()):
        lines.append(f"k{number} [shape=note, label={quote(key_names(missing))}];")
        lines += [f"r{rank} -> k{number};" for rank in sorted({wait.rank for wait in waits})]
    return "\n".join([*lines, *tree_dot(merged(diagnosis, stacks)), "}"])


def merged(diagnosis: Diagnosis, stacks: Stacks) -> tuple[Branch, ...]:
    """The tree of stacks, with each rank's wait and progress."""
    progress = dict(enumerate(diagnosis.snapshot.progress))
    waits: dict[int, str] = {}
    for wait in diagnosis.snapshot.waits:
        waits.setdefault(wait.rank, call_text(wait))
    return merge(stacks, progress, waits)


def call_text(wait: WaitSeen) -> str:
    if wait.barrier:  # A collective is called by its name, a barrier has one.
        return f"barrier({wait.barrier})" if wait.barrier.startswith('"') else wait.barrier
    return f"{wait.name}({key_names(wait.missing)})"


def headline(diagnosis: Diagnosis) -> str:
    if isinstance(diagnosis, CollectiveMismatch):
        return mismatch_headline(diagnosis)
    size, doomed = diagnosis.snapshot.world_size, diagnosis.doomed
    known = []
    if diagnosis.elapsed is not None:
        known.append(f"known {span_text(diagnosis.elapsed)} after the last event")
    doomed_waits = [wait for wait in diagnosis.snapshot.waits if wait.doomed]
    if doomed_waits:
        first = min(doomed_waits, key=lambda wait: wait.since + wait.timeout)
        owner = "group" if first.name == "meet" else call_text(first).partition("(")[0].split()[0]
        known.append(f"the {owner}'s timeout is {first.timeout:g} s")
    if diagnosis.timed_out:
        waited = f"{len(diagnosis.timed_out)} of {size} ranks"
        return f"TIMEOUT  {waited} waited for a collective until their time was up"
    label = "HANG" if diagnosis.exact else "HANG (suspected)"
    ranks = doomed or diagnosis.ranks
    what = "can never go on" if doomed else "did not go on"
    return f"{label}  {len(ranks)} of {size} ranks {what}" + (f" ({'; '.join(known)})" if known else "")


def mismatch_headline(diagnosis: Diagnosis) -> str:
    known = (
        "" if diagnosis.elapsed is None else f" (known {span_text(diagnosis.elapsed)} after the last event)"
    )
    call = diagnosis.snapshot.collectives[0]
    joined = sum(len(ranks) for _, _, ranks in call.calls)
    return f"MISMATCH  {joined} ranks called {call.title} with another {call.difference}{known}"


def call_lines(snapshot: Snapshot, told: set[int]) -> list[str]:
    """A line for each call of a process group; of one that differs, a line for each sort of call."""
    lines = []
    for call in snapshot.collectives:
        absent = f"absent {absent_text(call, told)}" if call.absent else ""
        told.update(rank for _, _, ranks in call.calls for rank in ranks)
        if len({text for text, _, _ in call.calls}) == 1:
            joined = ", ".join(
                rank_list(ranks) + (f" ({place})" if place else "") for _, place, ranks in call.calls
            )
            head = f"{call.title}, {call.spec}" if call.spec else call.title
            lines.append(f"  {head}: joined {joined}" + (f"; {absent}" if absent else ""))
            continue
        width = max(len(text) for text, _, _ in call.calls)
        lines.append(f"  {call.title}:")
        lines += [
            f"    {text:{width}}  {name_ranks(ranks)}{f', {place}' if place else ''}"
            for text, place, ranks in call.calls
        ]
        lines += [f"    {absent}"] if absent else []
    return lines


def span_text(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.00005 else f"{seconds * 1e6:.0f} us"


def barrier_lines(snapshot: Snapshot, told: set[int]) -> list[str]:
    heads = [f"{place_name(barrier.prefix)}:" for barrier in snapshot.barriers]
    came = [f"arrived {arrived_text(one, snapshot)}{';' if one.absent else ''}" for one in snapshot.barriers]
    width, middle = max(map(len, heads), default=0), max(map(len, came), default=0)
    lines = []
    for head, arrived, barrier in zip(heads, came, snapshot.barriers, strict=True):
        told.update(barrier.arrived)
        absent = f" absent {absent_text(barrier, told)}" if barrier.absent else ""
        lines.append(f"  {head:{width}} {arrived:{middle}}{absent}".rstrip())
    return lines


def arrived_text(barrier: BarrierSeen, snapshot: Snapshot) -> str:
    """The ranks that came, and the number expected where it is more than the group has."""
    ranks = rank_list(barrier.arrived) or "nobody"
    more = barrier.world_size > snapshot.world_size
    return f"{ranks} ({len(barrier.arrived)} of {barrier.world_size} expected)" if more else ranks


def absent_text(barrier: BarrierSeen | CallSeen, told: set[int]) -> str:
    """The absent ranks, equal reasons together; a reason is told once."""
    parts: list[tuple[list[int], str]] = []
    for rank, state in barrier.absent:
        reason = "" if rank in told else state
        if parts and parts[-1][1] == reason:
            parts[-1][0].append(rank)
        else:
            parts.append(([rank], reason))
        told.add(rank)
    said = ((rank_list(ranks), plural(reason, ranks)) for ranks, reason in parts)
    return ", ".join(f"{ranks} ({reason})" if reason else ranks for ranks, reason in said)


def key_lines(snapshot: Snapshot, told: set[int]) -> list[str]:
    lines = []
    for missing, waits in waits_by_key(snapshot).items():
        ranks = tuple(sorted({wait.rank for wait in waits}))
        told.update(ranks)
        lines.append(f"  {key_names(missing)}: awaited by {rank_list(ranks)}")
    return lines


def waits_by_key(snapshot: Snapshot) -> dict[tuple[str, ...], list[WaitSeen]]:
    """The waits at no barrier, by their missing keys."""
    found: dict[tuple[str, ...], list[WaitSeen]] = {}
    for wait in snapshot.waits:
        if not wait.barrier:
            found.setdefault(wait.missing, []).append(wait)
    return found


def other_lines(snapshot: Snapshot, told: set[int]) -> list[str]:
    """A line for each state of ranks that stand in no line yet."""
    states: dict[str, list[int]] = {}
    for rank, state in enumerate(snapshot.states):
        if rank not in told:
            states.setdefault(state, []).append(rank)
    return [f"  {name_ranks(ranks)}: {plural(state, ranks)}" for state, ranks in states.items()]


def rank_list(ranks: Sequence[int]) -> str:
    """`0, 1, 2` as long as they are few, `0-62` where they are many."""
    return ", ".join(map(str, ranks)) if len(ranks) < 4 else number_ranks(ranks)
