"""Creation of groups: who comes to `init_process_group` and `new_group`, and as which rank of the product.

*Rules.*  The members of a world meet before torch connects them, under the identity of what connects them:
address, file or store.  Each gives its rank of the product, so that the world's members are known.  A group
that is made in a world is a call of the world's, numbered apart: its members wait for each other; who is no
member waits for nobody.

A process whose worlds are declared meets nobody before: torch connects the members, then each declares which
rank it has become.  So a world with a member that nobody sees fails in nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlparse

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.collectives._call import Call, find_place
from pytest_elastic.collectives._meeting import Meeting
from pytest_elastic.collectives._rank_context import RankContext, current, declared, declares, gathered
from pytest_elastic.collectives._torch_group import Group, backends_of, subgroup, world_group
from pytest_elastic.errors import CollectiveTimeout
from pytest_elastic.pristine import os, threading
from pytest_elastic.store import as_torchs, torch_store

CARRIED = "elastic"
_UNSEEN = frozenset({"fake", "mpi", "threaded"})
"""Backends whose ranks need not be processes, or come to no rendezvous."""

_met = threading.local()
_worlds = itertools.count()


def announced_rendezvous(rendezvous: Callable[..., Any]) -> Callable[..., Any]:
    """`rendezvous`, before which the members meet: it waits for all of them by itself."""

    @functools.wraps(rendezvous)
    def announced(url: str, rank: int = -1, world_size: int = -1, **options: Any) -> Any:
        __tracebackhide__ = True
        context = current()
        if declares():
            _met.address = _address(url)
            _gather(_met.address, *_from_url(None, url, rank, world_size), _seconds(options))
        elif context is not None:
            number, size = _from_url(context, url, rank, world_size)
            _met.members = _meet_world(context, _address(url), number, size, _seconds(options))
            if context.threaded:
                return iter([(torch_store(context.store), number, size)])
        return rendezvous(url, rank, world_size, **options)

    return announced


def created_group(create: Callable[..., Any], prepare: Callable[[], None]) -> Callable[..., Any]:
    """`_new_process_group_helper`, whose groups are then known; `prepare` is called before the first one."""

    @functools.wraps(create)
    def created(*arguments: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        context = current()
        given = dict(zip(_NAMES, arguments, strict=False)) | named
        if declares() and not given["global_ranks_in_group"]:
            return _create_declared(create, prepare, given)
        if context is None:
            return create(**given)
        prepare()
        if given["global_ranks_in_group"]:
            return _create_subgroup(context, create, given)
        return _create_world(context, create, given)

    return created


_NAMES = ("group_size", "group_rank", "global_ranks_in_group", "backend", "store", "group_name")


def _create_world(context: RankContext, create: Callable[..., Any], given: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    members, _met.members = getattr(_met, "members", None), None
    backend, size, index = str(given["backend"]), given["group_size"], given["group_rank"]
    seconds = given["timeout"].total_seconds()
    if backend in _UNSEEN:
        return create(**given)
    if members is None:
        members = _meet_world(context, _name_of_store(context, given["store"]), index, size, seconds)
    if members is None:
        return create(**given)
    made, store = _make(context, create, given)
    carried = _is_carried(context, backend)
    group = world_group(context, members, index, carried, seconds)
    group.backends, context.groups[made] = backends_of(made), group
    return made, store


def _create_declared(create: Callable[..., Any], prepare: Callable[[], None], given: dict[str, Any]) -> Any:
    """Make a world, and only then learn whether all its members are seen."""
    __tracebackhide__ = True
    identity, _met.address = getattr(_met, "address", ""), ""
    index, size = given["group_rank"], given["group_size"]
    if str(given["backend"]) in _UNSEEN or size == 1:
        return create(**given)
    if not identity:
        own = f"process {os.getpid()}.{next(_worlds)}"
        identity = _store_name(given["store"], own, own)
        _gather(identity, index, size, _seconds(given))
    made, store = create(**given)
    context = declared(identity, index, size)
    if context is not None:
        prepare()
        group = world_group(context, range(size), index, False, given["timeout"].total_seconds())
        group.backends, context.groups[made] = backends_of(made), group
    return made, store


def _create_subgroup(context: RankContext, create: Callable[..., Any], given: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    world: Group | None = context.groups.get(c10d._get_default_group())
    if world is None or str(given["backend"]) in _UNSEEN:
        return create(**given)
    seconds = given["timeout"].total_seconds()
    _meet_members(world, given["global_ranks_in_group"], given["group_name"], seconds)
    made, store = _make(context, create, given)
    if made != c10d.GroupMember.NON_GROUP_MEMBER and made not in context.groups:
        ranks = given["global_ranks_in_group"]
        group = subgroup(world, made, ranks, seconds)
        group.carried = _is_carried(context, str(given["backend"]))
        context.groups[made] = group
    return made, store


def _is_carried(context: RankContext, backend: str) -> bool:
    return context.mode == "carry" or CARRIED in backend


def _make(context: RankContext, create: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Make the group; where all is carried, with our backend under the name of the one that was asked for."""
    backend = str(given["backend"])
    names = [pair.rpartition(":")[2].lower() for pair in backend.split(",")]
    unknown = not set(names) <= set(c10d.Backend.backend_list)  # Torch has the error for it.
    if CARRIED in backend or unknown or not _is_carried(context, backend):
        return create(**given)
    made, store = create(**{**given, "backend": c10d.Backend(CARRIED), "backend_options": None})
    if made != c10d.GroupMember.NON_GROUP_MEMBER:
        shown = "gloo" if backend == "undefined" else backend
        c10d._world.pg_map[made] = (shown, c10d._world.pg_map[made][1])
    return made, store


# Meetings.


def _gather(identity: str, index: int, size: int, seconds: float) -> None:
    """Wait for the members of a world that is to be declared.

    Raises:
        CollectiveTimeout: some cannot come any more.
    """
    __tracebackhide__ = True
    if not 0 <= index < size or size == 1:
        return
    began = SYSTEM_CLOCK.monotonic()
    absent, why = gathered(identity, index, size, seconds)
    if absent:
        call = f"init_process_group(world_size={size}) at {find_place().line}"
        elapsed = SYSTEM_CLOCK.monotonic() - began
        raise as_torchs(CollectiveTimeout(identity, 0, {index: call}, absent, elapsed, why))


def _seconds(options: Mapping[str, Any]) -> float:
    """Torch's timeout."""
    return float(options.get("timeout", dist.constants.default_pg_timeout).total_seconds())


def _meet_world(
    context: RankContext, identity: str, index: int, size: int, seconds: float
) -> tuple[int, ...] | None:
    """The world's members; `None` where some cannot be ranks of ours."""
    __tracebackhide__ = True
    if not 0 <= index < size <= context.size:
        return None
    if size == 1:
        return (context.rank,)
    number = context.counts[identity]
    context.counts[identity] += 1
    call = Call("init_process_group", what=f"world_size={size}").encode(
        [context.rank if place == index else -1 for place in range(size)], find_place()
    )
    needs = [place for place in range(size) if place != index]
    meeting = Meeting(context, f"{identity}#{number}", range(size), index, needs, call)
    try:
        answers = meeting.meet(seconds, str(context.rank).encode())
    except ValueError as error:
        raise ValueError(
            f"init_process_group by {identity.removeprefix('init ')}: rank {context.rank} of the test comes"
            f" as rank {index} of {size}, and so did another one"
        ) from error.__cause__
    return tuple(context.rank if place == index else int(answers[place][1]) for place in range(size))


def _meet_members(world: Group, ranks: Sequence[int], name: str, seconds: float) -> None:
    __tracebackhide__ = True
    members = [world.members[rank] for rank in ranks]
    me = world.members[world.index]
    call = Call("new_group", what=f"ranks={members}")
    if name.isdigit():  # All members of the world are called; else only those of the group.
        number = world.count("new_group")
        places = [rank for rank in ranks if rank != world.index] if me in members else []
        encoded = call.encode(world.members, find_place())
        meeting = Meeting(
            world.context, f"{world.name} new_group#{number}", world.members, world.index, places, encoded
        )
    else:
        number, index = world.count(name), ranks.index(world.index)
        places = [place for place in range(len(ranks)) if place != index]
        encoded = call.encode(members, find_place())
        meeting = Meeting(
            world.context, f"{world.name} new_group {name[:8]}#{number}", members, index, places, encoded
        )
    meeting.meet(seconds, b"")


# Identities.


def _from_url(context: RankContext | None, url: str, rank: int, size: int) -> tuple[int, int]:
    """Rank and world size, of which the URL or the environment may tell; -1 where they do not."""
    query = dict(part.split("=", 1) for part in urlparse(url).query.split("&") if "=" in part)
    env: Mapping[str, Any] = os.environ if url.startswith("env:") else {}
    if env and context is not None and context.threaded:  # The environment is that of all ranks.
        env = {"RANK": context.rank, "WORLD_SIZE": context.size}
    values = [
        given if given >= 0 else query.get(name, env.get(name.upper(), -1))
        for name, given in (("rank", rank), ("world_size", size))
    ]
    return tuple(int(one) if str(one).lstrip("-").isdigit() else -1 for one in values)  # type: ignore[return-value]


def _address(url: str) -> str:
    """What all members of the world have alike."""
    if url.startswith("env:"):
        return f"init {os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return f"init {url.partition('?')[0]}"


def _name_of_store(context: RankContext, store: Any) -> str:
    """The same, for a store that the user has made."""
    own = f"{context.rank}.{context.counts['prefix']}"
    context.counts["prefix"] += 1
    return _store_name(store, own, "" if context.threaded else own)


def _store_name(store: Any, own: str, owner: str) -> str:
    """What names such a store.

    Args:
        own: a name that nobody else has.  A prefix cannot be asked for, so the first member that comes puts
            its own one under it.
        owner: of a store that lives in this process; `""` where all members do.
    """
    kinds: Any = dist
    if isinstance(store, kinds.PrefixStore):
        return f"init prefix {store.compare_set('pytest_elastic/world', '', own).decode()}"
    if isinstance(store, kinds.TCPStore):
        return f"init {store.host}:{store.port}"
    if isinstance(store, kinds.FileStore):
        return f"init file://{store.path}"
    if isinstance(store, kinds.HashStore):
        return f"init HashStore {id(store)} {owner}"
    return "init store"
