"""The compatibility table: one suite in plain pytest and on two ranks, beside every version and every plugin.

    python tests/compatibility.py [-j JOBS] [--write docs/compatibility.md] [NAME ...]

*Method.*  Each row has a virtual environment of its own, into which this package, pytest and what the row names
are installed.  There the suite below, and what the row adds to it, runs twice: as it is, and with `elastic(nprocs=2)`
on every test.  A row is good if the outcomes of all phases, the exit codes and the files that were written are
equal, or if the run on ranks ends before its first test with the sentence that the row expects.

The exit code is the number of rows that are neither.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).parent.parent
NPROCS = 2
LIMIT = 300  # Seconds for one run of the suite.
_SHOWN = 6  # Differences.

CONFTEST = """
import json, os, pytest

RANK = os.environ.get("PYTEST_ELASTIC_RANK")

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    with open(os.environ["ROW_OUTCOMES"], "a", encoding="utf-8") as file:
        outcome = "xfail" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        kind = type(report).__name__ if type(report).__name__ == "SubtestReport" else ""
        print(json.dumps([report.nodeid, kind, report.when, outcome]), file=file)
"""

SUITE = """
import io, logging, os, unittest, warnings
import pytest

pytestmark = [pytest.mark.elastic(nprocs=int(os.environ["ROW_NPROCS"]))] if "ROW_NPROCS" in os.environ else []

def test_passes(): pass
def test_fails(): assert [1, 2] == [1, 3]
def test_raises(): raise ValueError("no data")
def test_skips(): pytest.skip("not here")
@pytest.mark.skip
def test_is_skipped(): raise AssertionError
@pytest.mark.xfail
def test_fails_as_expected(): assert False
@pytest.mark.xfail(raises=OSError)
def test_raises_as_expected(): raise FileNotFoundError("nowhere")
@pytest.mark.xfail(raises=OSError)
def test_raises_another(): raise KeyError("not that one")
@pytest.mark.xfail(strict=True)
def test_passes_unexpectedly(): pass
@pytest.mark.parametrize("number", [1, 2, 3])
def test_has_parameters(number): assert number != 2

@pytest.fixture
def broken(): raise RuntimeError("no setup")
def test_setup_fails(broken): pass
@pytest.fixture
def leaving():
    yield 1
    raise RuntimeError("no teardown")
def test_teardown_fails(leaving): assert leaving == 1
@pytest.fixture(scope="module")
def shared(): return []
def test_fixtures(shared, tmp_path, request):
    (tmp_path / "file").write_text("text")
    shared.append(request.node.name)
def test_captures(capsys):
    print("said")
    assert capsys.readouterr().out == "said\\n"
def test_captures_descriptors(capfd):
    os.write(1, b"said")
    assert capfd.readouterr().out == "said"
def test_captures_logs(caplog):
    logging.getLogger("row").warning("said")
    assert caplog.messages == ["said"]
def test_patches(monkeypatch):
    monkeypatch.setenv("ROW_PATCHED", "1")
    assert os.environ["ROW_PATCHED"] == "1"
def test_warns():
    with pytest.warns(UserWarning): warnings.warn("said")
class TestClass:
    def setup_method(self): self.number = 1
    def test_method(self): assert self.number == 1
    def test_fails(self): assert self.number == 2
class TestCase(unittest.TestCase):
    def setUp(self): self.number = 1
    def test_passes(self): self.assertEqual(self.number, 1)
    def test_fails(self): self.assertEqual(self.number, 2)
    @unittest.skip("not here")
    def test_is_skipped(self): raise AssertionError
    @unittest.expectedFailure
    def test_fails_as_expected(self): self.fail()
"""


@dataclass(frozen=True)
class Row:
    """What is installed, how pytest is called, which tests and files the row adds.

    Attributes:
        name: the distribution, for a row of a plugin.
        also: further requirements.
        arguments: of pytest.
        code: appended to the suite.
        files: name -> text.
        python: of which version; that of this process if empty.
        said: a part of the sentence at the start of the run on ranks that tells of its differences.
        refused: a part of the sentence by which the run on ranks ends before its first test.
        only: what is run of the suite (`-k`).
        group: the table that it is a row of.
    """

    name: str
    also: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    code: str = ""
    files: dict[str, str] = field(default_factory=dict)
    python: str = ""
    said: str = ""
    refused: str = ""
    group: str = "plugins"


def _versions() -> list[Row]:
    rows = [Row(f"Python {minor}", python=f"python{minor}", group="Python") for minor in _PYTHONS]
    rows += [Row(f"pytest {one}", (f"pytest=={one}.*",), group="pytest") for one in _PYTESTS]
    rows += [
        Row("oldest dependencies", _OLDEST, group="pytest"),
        Row(
            "torch",
            ("torch==2.13.0",),
            group="pytest",
            code="def test_torch():\n    import torch\n    assert torch.ones(2).sum() == 2\n",
        ),
    ]
    return rows


_PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
_PYTESTS = ("8.3", "8.4", "9.0", "9.1", "9.2")
_OLDEST = ("pytest==8.3.0", "pytest-timeout==2.4.0", "hypothesis==6.140.0", "psutil==6.0.0")

ASYNC = "async def test_awaits():\n    import {0}\n    await {0}.sleep(0)\n"
PLUGINS = [
    Row("allure-pytest", arguments=("--alluredir=allure",), said="allure"),
    Row("anyio", code="@pytest.mark.anyio\n" + ASYNC.format("anyio") + "@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"),
    Row("approvaltests", ("pytest-approvaltests",)),
    Row("eventlet"),
    Row("Faker", code="def test_fakes(faker): assert faker.name()\n"),
    Row("gevent"),
    Row("inline-snapshot", code="from inline_snapshot import snapshot\ndef test_snap(): assert 1 + 1 == snapshot(2)\ndef test_no_snap(): assert 1 + 1 == snapshot(3)\n"),
    Row("nbval"),
    Row("pyfakefs", code="def test_fs(fs):\n    fs.create_file('/nowhere/file')\n    assert os.path.exists('/nowhere/file')\n    assert not os.path.exists('/proc')\n"),
    Row("pytest-aiohttp", code="async def test_awaits(aiohttp_client):\n    from aiohttp import web\n    client = await aiohttp_client(web.Application())\n    assert (await client.get('/')).status == 404\n"),
    Row("pytest-antilru", code="import functools\n@functools.lru_cache\ndef cached(): return []\ndef test_one(): cached().append(1); assert cached() == [1]\ndef test_two(): cached().append(1); assert cached() == [1]\n"),
    Row("pytest-arraydiff"),
    Row("pytest-assume", code="def test_assumes(): pytest.assume(False); pytest.assume(False)\n"),
    Row("pytest-asyncio", code="@pytest.mark.asyncio\n" + ASYNC.format("asyncio")),
    Row("pytest-base-url", arguments=("--base-url=http://localhost",), code="def test_url(base_url): assert base_url\n"),
    Row("pytest-bdd", code="from pytest_bdd import scenarios, given, then\nscenarios('row.feature')\n@given('a number', target_fixture='number')\ndef _(): return 1\n@then('it is one')\ndef _(number): assert number == 1\n@then('it is two')\ndef _(number): assert number == 2\n", files={"row.feature": "Feature: Numbers\n  Scenario: One\n    Given a number\n    Then it is one\n  Scenario: Two\n    Given a number\n    Then it is two\n"}),
    Row("pytest-benchmark", code="def test_bench(benchmark): benchmark.pedantic(len, ([],), rounds=2)\n"),
    Row("pytest-cases", ("pytest==9.0.*",), code="from pytest_cases import parametrize_with_cases\ndef case_one(): return 1\n@parametrize_with_cases('one', cases='.')\ndef test_cases(one): assert one == 1\n"),
    Row("pytest-check", code="def test_checks(check):\n    with check: assert False\n    with check: assert False\n"),
    Row("pytest-clarity"),
    Row("pytest-codspeed", code="def test_bench(benchmark): benchmark(len, [])\n"),
    Row("pytest-console-scripts", code="def test_script(script_runner): assert script_runner.run(['python', '-c', 'pass']).success\n"),
    Row("pytest-cov", arguments=("--cov=.", "--cov-report=xml")),
    Row("pytest-csv", arguments=("--csv=row.csv",)),
    Row("pytest-custom-exit-code", arguments=("--suppress-tests-failed-exit-code",)),
    Row("pytest-datadir", code="def test_dir(datadir): assert datadir.is_dir()\n", files={"test_row/data.txt": "text"}),
    Row("pytest-datafiles", code="@pytest.mark.datafiles('row.txt')\ndef test_file(datafiles): assert (datafiles / 'row.txt').read_text() == 'text'\n", files={"row.txt": "text"}),
    Row("pytest-deadfixtures"),
    Row("pytest-dependency", code="@pytest.mark.dependency\ndef test_base(): pass\n@pytest.mark.dependency(depends=['test_base'])\ndef test_runs(): pass\n@pytest.mark.dependency\ndef test_broken(): assert False\n@pytest.mark.dependency(depends=['test_broken'])\ndef test_does_not(): pass\n"),
    Row("pytest-depends", code="@pytest.mark.depends(on=['test_fails'])\ndef test_does_not(): pass\n"),
    Row("pytest-describe", code="def describe_number():\n    def is_one(): assert 1 == 1\n    def is_two(): assert 1 == 2\n"),
    Row("pytest-django", ("django",), code="def test_settings(settings): settings.X = 1\n@pytest.mark.django_db\ndef test_db():\n    from django.contrib.auth.models import User\n    User.objects.create(username='a')\n    assert User.objects.count() == 1\n", files={"settings.py": "SECRET_KEY = 'x'\nUSE_TZ = True\nDATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\nINSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes']\n", "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n"}),
    Row("pytest-docker"),
    Row("pytest-doctestplus"),
    Row("pytest-dotenv", code="def test_env(): assert os.environ['ROW'] == 'x'\n", files={".env": "ROW=x\n"}),
    Row("pytest-env", code="def test_env(): assert os.environ['ROW'] == 'x'\n", files={"pytest.ini": "[pytest]\nenv =\n    ROW=x\n"}),
    Row("pytest-examples"),
    Row("pytest-factoryboy"),
    Row("pytest-flakefinder", arguments=("--flake-finder", "--flake-runs=2")),
    Row("pytest-flask"),
    Row("pytest-forked"),
    Row("pytest-freezer", code="def test_frozen(freezer):\n    import time\n    freezer.move_to('2001-01-01')\n    assert time.gmtime().tm_year == 2001\n"),
    Row("freezegun", code="from freezegun import freeze_time\n@freeze_time('2001-01-01')\ndef test_frozen():\n    import time\n    assert time.gmtime().tm_year == 2001\n"),
    Row("pytest-github-actions-annotate-failures"),
    Row("pytest-harvest"),
    Row("pytest-html", arguments=("--html=row.html", "--self-contained-html")),
    Row("pytest-httpserver", code="def test_server(httpserver):\n    import urllib.request\n    httpserver.expect_request('/x').respond_with_data('y')\n    assert urllib.request.urlopen(httpserver.url_for('/x')).read() == b'y'\n"),
    Row("pytest-httpx", code="def test_mock(httpx_mock):\n    import httpx\n    httpx_mock.add_response()\n    assert httpx.get('http://x').status_code == 200\n"),
    Row("pytest-icdiff"),
    Row("pytest-instafail", arguments=("--instafail",)),
    Row("pytest-json-report", arguments=("--json-report",)),
    Row("pytest-lazy-fixtures", code="from pytest_lazy_fixtures import lf\n@pytest.fixture\ndef one(): return 1\n@pytest.mark.parametrize('x', [lf('one')])\ndef test_lazy(x): assert x == 1\n"),
    Row("pytest-localserver", code="def test_server(httpserver): assert httpserver.url\n"),
    Row("pytest-logger"),
    Row("pytest-loguru"),
    Row("pytest-md-report", arguments=("--md-report",)),
    Row("pytest-memray", arguments=("--memray",), code="@pytest.mark.limit_memory('1 MB')\ndef test_memory(): bytearray(50 << 20)\n"),
    Row("pytest-metadata", arguments=("--metadata", "a", "b")),
    Row("pytest-mock", code="def test_mocks(mocker):\n    mocker.patch('time.time', return_value=1)\n    import time\n    assert time.time() == 1\n"),
    Row("pytest-monitor", ("pytest==8.4.*",)),
    Row("pytest-mpl"),
    Row("pytest-order", code="@pytest.mark.order(1)\ndef test_first(): pass\n"),
    Row("pytest-picked"),
    Row("pytest-pretty"),
    Row("pytest-print", code="def test_prints(printer): printer('said')\n"),
    Row("pytest-profiling", arguments=("--profile",)),
    Row("pytest-raises"),
    Row("pytest-random-order", arguments=("--random-order-seed=1",)),
    Row("pytest-randomly", arguments=("-p", "randomly", "-p", "no:cacheprovider"), code="def test_draws():\n    import random\n    random.random()\n"),
    Row("pytest-recording"),
    Row("pytest-regressions", code="def test_data(data_regression): data_regression.check({'a': 1})\n", files={"test_row/test_data.yml": "a: 1\n"}),
    Row("pytest-remotedata"),
    Row("pytest-repeat", arguments=("--count=2",)),
    Row("pytest-reportlog", arguments=("--report-log=row.jsonl",)),
    Row("pytest-rerunfailures", arguments=("--reruns=1",)),
    Row("pytest-resource-usage"),
    # In plain pytest it has a failing unittest.TestCase pass.
    Row("pytest-retry", arguments=("--retries=1", "-k", "not TestCase")),
    Row("pytest-reverse", arguments=("--reverse",)),
    Row("pytest-rich"),
    Row("pytest-ruff"),
    Row("pytest-snapshot", code="def test_snap(snapshot): snapshot.assert_match('text', 'row.txt')\n", files={"snapshots/test_row/test_snap/row.txt": "text"}),
    Row("pytest-socket", arguments=("--disable-socket",), code="def test_socket():\n    import socket\n    socket.socket()\n"),
    Row("pytest-split", arguments=("--splits=2", "--group=1")),
    Row("pytest-structlog"),
    Row("pytest-subprocess", code="def test_fake(fp):\n    import subprocess\n    fp.register(['x'], stdout='y')\n    assert subprocess.run(['x'], capture_output=True).returncode == 0\n"),
    Row("pytest-sugar"),
    Row("pytest-testinfra"),
    Row("pytest-testmon", arguments=("--testmon",), refused="testmon"),
    Row("pytest-timeout", arguments=("--timeout=60",)),
    Row("pytest-trio", code="@pytest.mark.trio\n" + ASYNC.format("trio")),
    Row("pytest-twisted", ("twisted",)),
    Row("pytest-unordered", code="from pytest_unordered import unordered\ndef test_set(): assert [1, 2] == unordered([2, 1])\n"),
    Row("pytest-variables"),
    Row("pytest-xdist", arguments=("-n2",)),
    Row("pytest-xprocess"),
    Row("requests-mock", code="def test_mock(requests_mock):\n    import requests\n    requests_mock.get('http://x', text='y')\n    assert requests.get('http://x').text == 'y'\n"),
    Row("syrupy", code="def test_snap(snapshot): assert snapshot == 1\n", files={"__snapshots__/test_row.ambr": "# serializer version: 1\n# name: test_snap\n  1\n# ---\n"}),
    Row("time-machine", code="import time_machine\n@time_machine.travel(1000)\ndef test_travels():\n    import time\n    assert int(time.time()) == 1000\n"),
]  # fmt: skip


@dataclass
class Result:
    """A row's end: `same` or `refused` in words, else the differences."""

    row: Row
    verdict: str
    good: bool
    versions: str = ""


def run_row(row: Row, wheel: Path, directory: Path) -> Result:
    """Install and run a row, in `directory`."""
    python = shutil.which(row.python) if row.python else sys.executable
    if python is None:
        return Result(row, "not tried: no such interpreter here", good=True)
    home = directory / "env"
    if subprocess.run([python, "-m", "venv", "--without-pip", home], stderr=subprocess.DEVNULL).returncode:
        return Result(row, "not tried: no such interpreter here", good=True)
    own = home / "bin" / "python"
    named = [] if row.group != "plugins" else [row.name]
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(own),
        "install",
        "-q",
        "--disable-pip-version-check",
    ]
    done = subprocess.run([*install, str(wheel), *named, *row.also], capture_output=True, text=True)
    if done.returncode:
        return Result(row, f"not tried: {_last(done.stderr)}", good=True)
    runs = [
        _run(row, own, directory / name, env)
        for name, env in (("plain", {}), ("ranks", {"ROW_NPROCS": str(NPROCS)}))
    ]
    plain, ranks = runs
    versions = _version_in(own, row)
    if row.refused:
        good = row.refused in ranks.text and not ranks.outcomes and ranks.code == 4
        said = next((line for line in ranks.text.splitlines() if line.startswith("ERROR")), _last(ranks.text))
        return Result(row, f"refused: {said.removeprefix('ERROR: ')}", good, versions)
    differences = [f"exit code {ranks.code} in place of {plain.code}"] if plain.code != ranks.code else []
    for what, one, other in (("in plain pytest", plain, ranks), ("on ranks", ranks, plain)):
        differences += [
            f"only {what}: {' '.join(filter(None, key))} x{count}"
            for key, count in (one.outcomes - other.outcomes).items()
        ]
        differences += [f"only {what}: file {name}" for name in sorted(one.files - other.files)]
    if not plain.outcomes:
        return Result(
            row, f"not tried: plain pytest ends with {_last(plain.text)}", good=True, versions=versions
        )
    if row.said and differences:
        lines = [
            line for line in ranks.text.splitlines() if line.startswith("elastic: ") and row.said in line
        ]
        return Result(
            row, f"says at its start: {''.join(lines[:1]).removeprefix('elastic: ')}", bool(lines), versions
        )
    if len(differences) > _SHOWN:
        differences[_SHOWN:] = [f"and {len(differences) - _SHOWN} more"]
    return Result(
        row, "; ".join(differences) or f"same ({plain.outcomes.total()} phases)", not differences, versions
    )


@dataclass
class _Run:
    code: int
    outcomes: Counter[tuple[str, ...]]
    files: set[str]
    text: str


def _run(row: Row, python: Path, directory: Path, env: dict[str, str]) -> _Run:
    directory.mkdir()
    given = {"conftest.py": CONFTEST, "test_row.py": SUITE + row.code, **row.files}
    given.setdefault("pytest.ini", "[pytest]\n")
    for name, text in given.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    reports = directory.with_suffix(".jsonl")
    env = {**os.environ, **env, "ROW_OUTCOMES": str(reports), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "CI"):
        env.pop(name, None)
    command = [str(python), "-m", "pytest", f"--basetemp={directory}.tmp", *row.arguments]
    done = subprocess.run(
        command, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT
    )
    lines = reports.read_text("utf-8").splitlines() if reports.exists() else []
    outcomes = Counter(tuple(json.loads(line)) for line in lines)
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    kept = {name for name in files if not _IGNORED.intersection(Path(name).parts)}
    return _Run(
        done.returncode, outcomes, _unnumbered(kept - given.keys()), done.stdout.decode("utf-8", "replace")
    )


_IGNORED = {"__pycache__", ".pytest_cache", ".pytest_elastic", ".hypothesis", ".benchmarks"}


def _unnumbered(names: set[str]) -> set[str]:
    """Names that are drawn at random, as allure's, by their kind and count."""
    drawn = Counter(name.rpartition("-")[2] for name in names if name.startswith("allure/"))
    return {name for name in names if not name.startswith("allure/")} | {
        f"{count} x {kind}" for kind, count in drawn.items()
    }


def _version_in(python: Path, row: Row) -> str:
    name = {"plugins": row.name, "Python": ""}.get(row.group, "pytest")
    code = f"import importlib.metadata as m, platform; print(m.version({name!r}) if {name!r} else platform.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def _last(text: str) -> str:
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "nothing")[:200]


def table(results: list[Result], page: str) -> str:
    """The page of documentation; rows that were not run stay as they are on `page`."""
    known = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if " | " in line}
    known |= {
        one.row.name: f"| {one.row.name} | {one.versions} | {one.verdict.replace('|', '/')} |"
        for one in results
    }
    lines = [dedent(HEAD).rstrip("\n")]
    for group in ("Python", "pytest", "plugins"):
        lines += [
            "",
            f"| {group} | version | a test on ranks, beside the same test in plain pytest |",
            "|---|---|---|",
        ]
        lines += [
            known[row.name] for row in _versions() + PLUGINS if row.group == group and row.name in known
        ]
    return "\n".join([*lines, "", "".join(page.partition(MARK)[1:])]).rstrip() + "\n"


MARK = "## Libraries in a rank"  # From there on the page is of `library_matrix.py`.
HEAD = """\
# What was tried beside pytest-elastic

One suite of some thirty tests (all outcomes, fixtures, capture, classes, unittest, and a use of the plugin) ran in
plain pytest and again with `elastic(nprocs=2)` on each of its tests. *Same*: the outcomes of all phases, the exit code
and the files that were written are equal. `python tests/compatibility.py --write docs/compatibility.md` makes this page.
"""


def main() -> int:
    """Run the rows that are named, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to run; all by default")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--write", type=Path, help="the page to write")
    given = parser.parse_args()
    rows = [row for row in _versions() + PLUGINS if not given.names or row.name in given.names]
    if unknown := set(given.names) - {row.name for row in rows}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="rows-") as place:
        base = Path(place)
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = base.glob("*.whl")

        def one(row: Row) -> Result:
            directory = base / row.name.replace(" ", "-")
            directory.mkdir()
            try:
                result = run_row(row, wheel, directory)
            except subprocess.TimeoutExpired:
                result = Result(row, f"no end within {LIMIT} s", good=False)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            print(
                f"{'' if result.good else 'BAD '}{row.name} {result.versions}\n{indent(result.verdict, '    ')}",
                flush=True,
            )
            return result

        with ThreadPoolExecutor(given.jobs) as pool:
            results = list(pool.map(one, rows))
    if given.write:
        page = given.write.read_text("utf-8") if given.write.exists() else ""
        given.write.write_text(table(results, page), encoding="utf-8")
    return sum(not result.good for result in results)


if __name__ == "__main__":
    sys.exit(main())
