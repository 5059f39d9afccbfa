"""Plugins that keep books in pytest's process: what is the user's is neither deleted nor left out for them."""

from __future__ import annotations

from pathlib import Path

import pytest

# What syrupy does, in few lines.
SYRUPY = """
    import pytest
    from pathlib import Path

    def pytest_addoption(parser):
        for name, dest in (
            ("--snapshot-update", "update_snapshots"),
            ("--snapshot-disable-unused", "disable_unused_snapshots"),
            ("--snapshot-warn-unused", "warn_unused_snapshots"),
        ):
            parser.addoption(name, dest=dest, action="store_true", default=False)

    used = set()

    @pytest.fixture
    def snapshot(request):
        def compare(value):
            path = Path(request.config.rootpath, request.node.name + ".snap")
            used.add(path)
            if request.config.option.update_snapshots:
                path.write_text(value)
            return path.exists() and path.read_text() == value
        return compare

    def pytest_sessionfinish(session):
        option = session.config.option
        if getattr(session, "items", ()) and not option.disable_unused_snapshots:
            for path in set(session.config.rootpath.glob("*.snap")) - used:
                path.unlink() if option.update_snapshots else None
                session.exitstatus = 1
    """
TESTS = """
    def test_ranks(snapshot, rank): assert snapshot("on ranks")
    def test_plain(snapshot): assert snapshot("plain")
    """


def _snapshots(**texts: str) -> dict[str, str]:
    for name, text in texts.items():
        Path(f"{name}.snap").write_text(text)
    return {path.stem: path.read_text() for path in Path().glob("*.snap")}


def test_ranks_compare_snapshots_and_nobody_deletes_them(run):
    """A run that would update them is refused, in an xdist worker by failing the test; the rest is as ever."""
    before = _snapshots(test_ranks="on ranks", test_plain="plain")
    result = run(TESTS, conftest=SYRUPY)
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result = run(TESTS, "--snapshot-update", conftest=SYRUPY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: syrupy can neither write nor keep the snapshots of tests on ranks, such as *::test_ranks: run*"
        ]
    )
    run(TESTS, "--snapshot-update", "-p", "xdist", "-n1", conftest=SYRUPY).assert_outcomes(passed=1, errors=1)
    run(TESTS, "--snapshot-update", "-k", "plain", "--snapshot-disable-unused", conftest=SYRUPY)
    assert _snapshots() == before


def test_a_snapshot_that_is_asked_for_late_is_not_written_on_ranks(run):
    """Nobody knows before that the test will use one: it fails, since it has none, and none is deleted."""
    before = _snapshots(test_other="other")
    code = "def test_late(request, rank): assert request.getfixturevalue('snapshot')('late')"
    run(code, "--snapshot-update", conftest=SYRUPY).assert_outcomes(failed=1)
    assert _snapshots() == before


@pytest.mark.parametrize("who", ["inline-snapshot", "testmon"])
def test_what_would_go_by_wrong_books_is_refused(run, who):
    """The plugin is held back first: it would act at the end of a refused run, too."""
    conftest = """
        class Plugin:
            __module__ = "inline_snapshot.pytest_plugin"
            def pytest_sessionfinish(self): open("acted", "w")

        def pytest_addoption(parser): parser.addoption("--inline-snapshot", dest="inline_snapshot")
        def pytest_configure(config):
            inline = config.option.inline_snapshot
            config.pluginmanager.register(Plugin() if inline else object(), "inline" if inline else "TestmonCollect")
        """
    option = ["--inline-snapshot=report,trim"] if who == "inline-snapshot" else []
    result = run("def test_it(rank): pass", *option, conftest=conftest)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: {who} can*of tests on ranks, such as *::test_it: run this without them*"]
    )
    assert not Path("acted").exists()
    assert run("def test_plain(): pass", *option, conftest=conftest).ret == 0
