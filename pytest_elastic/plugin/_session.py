"""A session with tests on ranks: launchers before the first test, kept groups, the end after the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_elastic.errors import ElasticError
from pytest_elastic.launch import (
    GRACE,
    Artifacts,
    Bye,
    Elastic,
    Here,
    Launchers,
    Machines,
    Plan,
    RankGroup,
    Source,
    StartMethod,
    Surroundings,
    write_index,
)
from pytest_elastic.multiprocessing import Inotify
from pytest_elastic.plugin._clean_session import set_apart, spawned_files
from pytest_elastic.plugin._controller import ItemController
from pytest_elastic.plugin._debugging import Debugging
from pytest_elastic.plugin._fresh import check_collected, session_of
from pytest_elastic.plugin._launcher_hooks import LauncherHooks
from pytest_elastic.plugin._marker import read_marker
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._other_plugins import logs_live, wrong_books
from pytest_elastic.plugin._past_capture import PastCapture, captured, shows_output, uncaptured
from pytest_elastic.plugin._preconditions import file_of, refuse
from pytest_elastic.plugin._rank_logs import may_show
from pytest_elastic.plugin._reproduce import Reproduction
from pytest_elastic.plugin._runner import RankRunner, names_of
from pytest_elastic.plugin._stash import (
    CENSUS,
    CONDUCTOR,
    ELASTIC,
    EXTERNAL,
    FRESH,
    LAUNCHERS,
    PLAN,
    TERMINAL,
)

if TYPE_CHECKING:
    from pytest_elastic.plugin._external import Spokesman


def launchers_of(session: pytest.Session) -> Launchers:
    """Made once per run, when the tests have been collected; blocks while a clean zygote starts."""
    config = session.config
    if LAUNCHERS not in config.stash:
        options = Options(config)
        single = options.torch_threads == 1
        heres = {file: Here(*what, single) for file, what in config.stash[CENSUS].foreign().items()}
        launchers = config.stash[LAUNCHERS] = Launchers(options.start_method, heres)
        if FRESH in config.stash or EXTERNAL in config.stash:  # Each rank, or machine, has what it has.
            launchers.apart = {}
        if launchers.apart:
            set_apart(launchers, session)
    return config.stash[LAUNCHERS]


def conduct(
    session: pytest.Session, items: list[pytest.Item], wanted: list[pytest.Item]
) -> Generator[None, object, object]:
    """Wrap the run loop of a session whose `items` run on ranks; `wanted`: those, and users of `elastic`."""
    config = session.config
    external = config.stash.get(EXTERNAL, None)
    if "ray" in {read_marker(item).launcher or Options(config).launcher for item in wanted}:
        from pytest_elastic.plugin._ray import with_ray  # Few runs have it.

        external = with_ray(config, external)
    if external is not None:
        external.begin(session, items)  # Does not return in an agent.
    if refused := wrong_books(config, items):
        refuse(session, items, refused, whole_run=True)
        items.clear()
    launchers = launchers_of(session)
    try:
        conductor = Conductor(session, items, launchers)
    except OSError as error:  # No process to be had, or no directory: other tests may need neither.
        launchers.close()
        refuse(session, wanted, f"ranks cannot be started: {error}")
        return (yield)
    config.stash[CONDUCTOR] = conductor
    try:
        if conductor.external is not None:
            conductor.external.gather()
    except pytest.UsageError as error:
        conductor.close()
        if not hasattr(config, "workerinput"):
            raise
        refuse(session, wanted, str(error))  # A worker of xdist would drop the words.
        return (yield)
    conductor.debugging.begin()
    with captured(config):  # What ranks show is decided by it, as in a test.
        conductor.look_ahead()
    hooks = LauncherHooks(config)
    config.pluginmanager.register(hooks)
    try:
        return (yield)
    finally:
        config.pluginmanager.unregister(hooks)
        conductor.debugging.end()
        if conductor.lasts():  # A run that is stopped (-x) tears the fixtures that have them down after this.
            config.add_cleanup(conductor.close)
        else:
            conductor.close()


class Conductor:
    """Conductor of the run: launchers, kept groups, settings."""

    def __init__(self, session: pytest.Session, items: list[pytest.Item], launchers: Launchers) -> None:
        """Make these items run on ranks.

        Raises:
            OSError: there is no process to be had, or no directory.
        """
        config = session.config
        self.session, self.options, self.launchers = session, Options(config), launchers
        # Before the fork, since the base directory is made by it: ranks have theirs below.
        self._directory: Path = config._tmp_path_factory.mktemp("elastic")  # type: ignore[attr-defined]
        self.names = names_of(session.items)
        self._groups: Counter[str] = Counter()  # How many were made, by node id.
        self.reproduction = Reproduction(config, self.options)
        self.debugging = Debugging(config)
        self.external = cast("Spokesman | None", config.stash.get(EXTERNAL, None))
        self._kept: dict[Any, RankGroup] = {}
        self._ahead: dict[Any, RankGroup] = {}  # Launched, and at most one.
        self._late: Counter[str] = Counter()  # Starts; see `Plan`.
        self._spare: list[Inotify] = []
        runner = RankRunner(session, self.options.setup_show)
        controllers = {item: ItemController(item, self) for item in items}
        methods = [controller.method for controller in controllers.values()]
        source = Source(
            runner.live, runner.prepare, lambda: session_of(config, spawned_files(launchers, items))
        )
        launchers.prepare(methods, source)
        self._keys = {item: controller.key for item, controller in controllers.items()}
        self._last_use = {key: item for item, key in self._keys.items()}
        self._warm: dict[Any, ItemController] = {}  # The first uses of groups that are still to be launched.
        if not hasattr(config, "workerinput") and self.external is None:  # Else others run some of the items.
            for controller in controllers.values():
                if controller.method.warm:
                    self._warm.setdefault(controller.key, controller)
        self._show = {self._keys.get(item, item) for item in session.items if may_show(item)}
        self._terminal = config.stash[TERMINAL]
        for controller in controllers.values():
            controller.adopt()

    def make(
        self,
        item: pytest.Item | pytest.Session,
        nprocs: int,
        surroundings: Surroundings,
        payload: Any,
        method: StartMethod,
        name: str = "rank",
    ) -> RankGroup:
        """A new group, not started."""
        self._groups[item.nodeid] += 1
        options, external, host, master, machines = self.options, self.external, "", "", Machines()
        if external is not None and external.starts(item):
            if why := external.too_few(nprocs):
                pytest.skip(why)
            launcher = external.launcher(method, self.launchers)
            host, master, machines = external.host, external.master, external.machines
        else:
            launcher = self.launchers.get(method)
        plan = Plan(
            nprocs,
            self._directory / str(self._groups.total()),
            surroundings,
            *self._shown(item),
            options.start_timeout,
            options.torch_threads,
            options.clock,
            self.debugging.terminal,
            options.debugging_stops_clocks,
            f"{item.nodeid} {self._groups[item.nodeid]}",
            host=host,
            master=master,
            collectives=options.collectives,
            how=self.launchers.words(method),
            lost=self.launchers.lost(method),
            late=self._late,
            spare=self._spare,
            machines=machines,
        )
        return RankGroup(name, launcher, plan, payload)

    def _shown(self, item: pytest.Item | pytest.Session) -> tuple[bool, PastCapture | None]:
        """Whether all output of the item's ranks is shown as it comes, and where what is not captured is."""
        if shows_output(item.config):
            return True, None
        if item.config.getoption("capture") == "tee-sys":
            return True, self._terminal
        key = self._keys.get(item, item) if isinstance(item, pytest.Item) else item
        looked_at = logs_live(item.config) or key in self._show
        return False, self._terminal if looked_at and self._terminal.open() else None

    def artifacts(self, item: pytest.Item) -> Artifacts:
        """Where the files of an item go."""
        base, traced = item.config.invocation_params.dir, self.options.trace != "off"
        replay = partial(self.reproduction.command, item)
        return Artifacts(item.nodeid, self.options.artifacts, base, traced, replay)

    def controller(self, item: pytest.Item | pytest.Session) -> Elastic:
        """The value of `elastic`, or of `elastic_session`, whose groups are no test's to replay."""

        def make(name: str, nprocs: int, surroundings: Surroundings, payload: Any) -> RankGroup:
            plan = item.stash.get(PLAN, None)
            if plan is not None:
                plan.check(nprocs)
            if isinstance(item, pytest.Item):
                self.reproduction.check(item, nprocs)
            method = self.launchers.method(None, file_of(item))
            group = self.make(item, nprocs, surroundings, payload, method, name)
            if isinstance(item, pytest.Item):
                self.reproduction.attach(item, group, plan)
            return group

        self._terminal.fresh = self._shown(item)[1] is not None
        made = Elastic(make, self.options.nprocs, self.options.timeout)
        if isinstance(item, pytest.Item):
            self.reproduction.begin(item)
            self.debugging.elastic = made
        item.stash[ELASTIC] = made
        return made

    def lasts(self) -> bool:
        """Whether groups that outlive tests still run."""
        stash = self.session.stash
        return ELASTIC in stash and any(not one.group.over for one in stash[ELASTIC].groups)

    def acquire(self, controller: ItemController) -> RankGroup:
        """The kept group for this item, or a new one, started."""
        group = self._kept.pop(controller.key, None)
        if group is None or group.group.exits or group.group.over:
            group = self._ahead.pop(controller.key, None) or self._new(controller)
            group.start()
        self._kept[controller.key] = group
        self._warm.pop(controller.key, None)
        self.look_ahead()
        self._terminal.fresh = group.plan.past_capture is not None
        check_collected(group, controller.item.nodeid)
        return group

    def look_ahead(self) -> None:
        """Launch the next group of ranks that are slow to come up: it does so while other tests run."""
        if not self._warm or self._ahead:
            return
        key = next(iter(self._warm))
        group = self._new(self._warm.pop(key))
        with suppress(OSError, ElasticError):  # It will be made again, and its test fail of that.
            group.launch()
            self._ahead[key] = group

    def _new(self, controller: ItemController) -> RankGroup:
        surroundings = Surroundings(env=dict(controller.marker.env))
        return self.make(controller.item, controller.size, surroundings, None, controller.method)

    def next_use(self, controller: ItemController) -> pytest.Item | None:
        """The next item that shares this one's fixtures of higher scope; `None` where none does."""
        if controller.marker.lifetime == "test":
            return None
        items = self.session.items
        later = items[items.index(controller.item) + 1 :]
        return next((item for item in later if self._keys.get(item) == controller.key), None)

    def keeps(self, controller: ItemController) -> bool:
        """Whether the item's group has work after it."""
        kept = controller.marker.lifetime != "test" or controller.method.warm
        return kept and self._last_use[controller.key] is not controller.item

    def discard(self, controller: ItemController) -> None:
        """Forget the item's group."""
        self._kept.pop(controller.key, None)

    def write(self, text: str) -> None:
        """Write to the terminal, past the capture of output."""
        if self.session.config.pluginmanager.has_plugin("terminalreporter"):
            with uncaptured(self.session.config):
                self.session.config.get_terminal_writer().write(text)

    def close(self) -> None:
        """End every kept group, then the launchers; bounded.

        The tests are over: what goes wrong is told, and changes nothing.
        """
        for group in self._kept.values():
            group.order(group.directories, Bye())
        for group in self._kept.values():
            group.wait_exits(list(group.directories), GRACE)
        for group in (*self._kept.values(), *self._ahead.values()):
            try:
                group.close(timeout=0)
            except ElasticError as error:
                self.write(f"\nelastic: {error}\n")
        self._kept.clear()
        self._ahead.clear()
        while self._spare:
            self._spare.pop().close()
        if self.options.artifacts is not None and self.options.artifacts.is_dir():
            write_index(self.options.artifacts)
        for method in self.launchers.close():
            self.write(f"\nelastic: the process that starts ranks by {method} did not end and was killed\n")
