"""The pytest plugin: its hooks, each one call into a module.

Nothing heavy is imported before a test needs ranks: a run without such tests pays for a few small modules.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_elastic.errors import MarkerError
from pytest_elastic.plugin._fixtures import (
    _elastic_nprocs,
    elastic,
    elastic_faults,
    elastic_session,
    elastic_store,
    expires,
    hash_store,
    mock_store,
    process_group,
    rank,
    shared_tmp_path,
    world,
    world_size,
)
from pytest_elastic.plugin._marker import (
    SIGNATURE,
    adoptable,
    check_marker,
    is_elastic,
    one_per_size,
    parametrize_sizes,
    runs_functions,
)
from pytest_elastic.plugin._options import Options, add_options
from pytest_elastic.plugin._past_capture import PastCapture
from pytest_elastic.plugin._preconditions import ThreadCensus, refuse, runs_tests, unable
from pytest_elastic.plugin._stash import (
    AGENT,
    CENSUS,
    CONDUCTOR,
    EXPERIMENTS,
    FRESH,
    PATH,
    RANK,
    REPORT,
    TERMINAL,
    TIMEOUT,
    VERDICT,
)
from pytest_elastic.pristine import os
from pytest_elastic.processes import outer_launcher
from pytest_elastic.progress import show_on

__all__ = [
    "_elastic_nprocs",
    "elastic",
    "elastic_faults",
    "elastic_session",
    "elastic_store",
    "expires",
    "hash_store",
    "mock_store",
    "process_group",
    "rank",
    "shared_tmp_path",
    "world",
    "world_size",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    # torch then asks the driver's library instead of making a context that no fork survives.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    early_config.stash[PATH] = list(sys.path)
    start: Any = early_config.pluginmanager.get_plugin("pytest_elastic_start")
    if start is not None:
        from pytest_elastic.plugin._clean_session import fresh_session

        early_config.stash[FRESH] = fresh_session(start.told)
        early_config.pluginmanager.register(early_config.stash[FRESH])
    agent: Any = early_config.pluginmanager.get_plugin("pytest_elastic_agent")
    if agent is not None:
        from pytest_elastic.plugin._ray import RayAgent

        early_config.stash[AGENT] = RayAgent(agent.told)
        early_config.pluginmanager.register(early_config.stash[AGENT])
    census = early_config.stash[CENSUS] = ThreadCensus()
    yield
    census.conftests_loaded()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", SIGNATURE)
    config.addinivalue_line("markers", "process_group(backend='gloo'): of the `process_group` fixture")
    config.addinivalue_line("markers", "mock_store(get=..., add=...): answers of the `mock_store` fixture")
    config.stash.setdefault(CENSUS, ThreadCensus()).configured(hasattr(config, "workerinput"))
    config.stash[TERMINAL] = PastCapture(config)
    former = show_on(config.stash[TERMINAL])

    def restore() -> None:
        show_on(former)

    config.add_cleanup(restore)
    options = Options(config)  # A bad option is an error now, and not after a minute of collection.
    if AGENT in config.stash:
        config.stash[AGENT].configure(config)
    elif not hasattr(config, "workerinput"):
        try:
            outer = outer_launcher(options.launcher, os.environ)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        if outer is not None and not unable(config):
            from pytest_elastic.plugin import _external

            _external.configure(config, outer)
    if options.adopt != "off" and not unable(config):
        from pytest_elastic.plugin._adoption import adopt

        adopt(config, options.adopt)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[TERMINAL].open()


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_sizes(metafunc)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    collector.config.stash[CENSUS].collected(collector)
    nodes = report.result or []
    report.result = [
        one for node in nodes for one in (one_per_size(node) if isinstance(node, pytest.Item) else [node])
    ]
    for node in report.result:
        if isinstance(node, pytest.Item):
            try:
                check_marker(node)
            except MarkerError as error:
                report.outcome, report.longrepr, report.result = "failed", str(error), []
                break
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    yield
    items[:] = [one for item in items for one in one_per_size(item)]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    on_ranks = list(filter(is_elastic, items))
    if not on_ranks:
        return []
    if why := unable(config):
        return [f"elastic: {len(on_ranks)} on ranks, and none can be: {why}"]
    from pytest_elastic.plugin._clean_session import apart
    from pytest_elastic.plugin._other_plugins import words
    from pytest_elastic.plugin._session import launchers_of

    launchers = launchers_of(items[0].session)
    how = f"start method {launchers.words(launchers.method(None))}"
    return [
        f"elastic: {len(on_ranks)} on ranks, {how}",
        *apart(launchers, on_ranks),
        *words(config, on_ranks),
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    if FRESH in session.config.stash:  # Whatever it has collected, or not.
        session.config.stash[FRESH].become(session)
    on_ranks = dict.fromkeys(adoptable(session.items))
    wanted = [item for item in session.items if item in on_ranks or runs_functions(item)]
    if not wanted or not runs_tests(session):
        return (yield)
    if why := unable(session.config):
        refuse(session, wanted, why)
        return (yield)
    from pytest_elastic.plugin._session import conduct

    return (yield from conduct(session, list(on_ranks), wanted))


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
    verdict = item.stash.get(VERDICT, None)
    if verdict is None:
        return None
    from pytest_elastic.plugin._reporting import report_of

    item.stash[REPORT] = report_of(item, call, verdict)
    return item.stash[REPORT]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if hasattr(report, "elastic_headline"):
        from pytest_elastic.plugin._colours import paint

        paint(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = True
    if "hypothesis" not in sys.modules or not is_elastic(item):
        return (yield)
    from pytest_elastic.plugin._hypothesis import in_lockstep, unlooked_at

    with in_lockstep(item) if RANK in item.config.stash else unlooked_at(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    if is_elastic(pyfuncitem):
        if RANK not in pyfuncitem.config.stash:
            text = "elastic() came while the test ran in pytest itself, too late to have it run on ranks"
            pytest.fail(text, pytrace=False)
        return (yield)
    experiments = pyfuncitem.stash.get(EXPERIMENTS, None)
    if experiments is None:
        return (yield)
    from pytest_elastic.plugin._reproduce import again

    with again(pyfuncitem, pyfuncitem.config.stash[CONDUCTOR].reproduction):
        result = yield
        pyfuncitem.stash[EXPERIMENTS].check()
    return result


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    if not is_elastic(item):
        return None
    item.stash[TIMEOUT] = (settings.timeout, settings.func_only)
    return True


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    return True if isinstance(item, pytest.Item) and is_elastic(item) else None
