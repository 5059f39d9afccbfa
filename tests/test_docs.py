"""The pages of `docs`: their code is run, their commands have options that exist, and Sphinx builds them strictly.

A `python` block is a file.  `# name.py` in its first line names it.  All of its tests pass, unless a comment
before the block says otherwise: `% expect: failed=1`.  The lines of a `text` block are in the output, `...` is for
what varies.  All files run in one session, since most of what a session takes is its start.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from interpreters import Template
from shared_run import done_once

from pytest_elastic.plugin._options import TABLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS).with_suffix("")): path.read_text("utf-8") for path in DOCS.rglob("*.md")}
BLOCK = re.compile(
    r"^(?:% expect: (?P<expect>[^\n]*)\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Pages whose code is for suites and launchers that are not here, or is to fail.
FOREIGN = {"adopting", "launchers", "screens"}
OUTCOMES = {"failure": "failed", "error": "errors", "skipped": "skipped"}


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """The blocks of a language on a page: what is expected of each, and its text."""
    return [
        (found["expect"] or "", found["text"])
        for found in BLOCK.finditer(PAGES[page])
        if found["language"] == language
    ]


def files(page: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """The files of a page: name, text, and how many tests of it end how."""
    for number, (expect, text) in enumerate(blocks(page, "python")):
        name = re.match(r"# (\w+\.py)\n", text)
        said = {kind: int(count) for kind, count in re.findall(r"(\w+)=(\d+)", expect)}
        tests = len(re.findall(r"^def test_", text, re.MULTILINE))
        outcomes = said or ({"passed": tests} if tests else {})
        yield name[1] if name else f"test_{page.replace('/', '_')}_{number}.py", text, outcomes


def needs(page: str) -> set[str]:
    """The packages that its code needs and that are not installed."""
    used = {name for _, text in blocks(page, "python") for name in re.findall(r"^import (\w+)", text, re.M)}
    return {name for name in used & {"torch", "numpy"} if find_spec(name) is None}


WITH_CODE = [page for page in PAGES if blocks(page, "python") and page not in FOREIGN]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, template_with_libraries: Template) -> Path:
    """The directory of the one run of all pages: `output` and `junit.xml`."""

    def run(directory: Path) -> None:
        for page in WITH_CODE:
            place = directory / page
            place.mkdir(parents=True)
            for name, text, _ in files(page) if not needs(page) else ():
                (place / name).write_text(text, "utf-8")
        arguments = [
            "-s", "-p", "no:cacheprovider", "--rootdir", str(directory),
            "-o", "console_output_style=classic", "-o", "junit_family=xunit1", "--junitxml=junit.xml", ".",
        ]  # fmt: skip
        template_with_libraries.run_to_end(arguments, directory, directory / "output", 300)

    return done_once(tmp_path_factory, "docs", run)


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_does_what_the_page_says(page, outcome):
    """Each file's tests end as expected, and what is shown was written."""
    if missing := needs(page):
        pytest.skip(f"not installed: {', '.join(missing)}")
    output = (outcome / "output").read_text("utf-8")
    ended: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(outcome / "junit.xml").iter("testcase"):
        file = case.get("classname", "").rpartition(".")[2] + ".py"
        kinds = [OUTCOMES[kind.tag] for kind in case if kind.tag in OUTCOMES]
        ended.setdefault(file, Counter())[kinds[0] if kinds else "passed"] += 1
    for name, _, expected in files(page):
        assert dict(ended.get(name, {})) == expected, output
    for _, shown in blocks(page, "text"):
        for line in shown.splitlines():
            pattern = f"*{line.strip().replace('[', '[[]').replace('...', '*')}*"
            assert any(fnmatchcase(one, pattern) for one in output.splitlines()), f"{line}\n{output}"


def test_files_of_pages_have_names_of_their_own():
    """They are imported by name, in one session."""
    names = Counter(name for page in WITH_CODE for name, _, _ in files(page))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("page", PAGES)
def test_options_that_a_page_names_exist(page):
    """In commands and in the text."""
    known = {option.flag for option in TABLE} | {f"elastic_{option.name}" for option in TABLE}
    named = re.findall(r"--elastic-[a-z-]+\b(?!\*)|\belastic_[a-z_]+\b(?=`|\s*=)", PAGES[page])
    fixtures = {"elastic_store", "elastic_faults", "elastic_session"}
    assert set(named) - known - fixtures == set()


def test_the_script_for_junit_prints_the_commands_of_the_reports(outcome):
    """The same lines as at the end of each failure."""
    if missing := {name for page in WITH_CODE for name in needs(page)}:
        pytest.skip(f"not installed: {', '.join(missing)}")
    command = [sys.executable, outcome / "howto" / "flaky-hang" / "replays.py", outcome / "junit.xml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    reported = re.findall(r"^replay: (.*)$", (outcome / "output").read_text("utf-8"), re.MULTILINE)
    assert len(reported) == 2
    assert done.stdout.splitlines() == reported


# The garbage of a build is more than half of its time, and the tree of pages on each page most of the rest: all
# are resolved, and one is written.  A page is read again if it, or a file of the package that it documents, is
# another than at the last build; those that have tables of the code always are, as the directive names no files.
BUILD = """
import gc, sys
from sphinx.cmd.build import main
gc.disable()
read, place = sys.argv[1:]
code = main(["-q", "-a", "-W", "--keep-going", "-n", "-b", "dummy", "-d", read, "docs", f"{place}/none"])
sys.exit(code or main(["-q", "-n", "-d", read, "docs", f"{place}/html", "docs/reference/options.md"]))
"""


def pages_that_were_read(place: Path) -> Path:
    """The directory of Sphinx for the pages that it has read, in this one; empty where they would be of no use."""
    makers = [sys.version, *(f"{name} {version(name)}" for name in ("sphinx", "myst-parser", "docutils"))]
    maker = "\n".join([*makers, (DOCS / "conf.py").read_text("utf-8")])
    read, made_by = place / "read", place / "made-by"
    if not made_by.exists() or made_by.read_text("utf-8") != maker:
        shutil.rmtree(read, ignore_errors=True)
        made_by.write_text(maker, "utf-8")
    for page, text in PAGES.items():
        if "{from-code}" in text:
            (read / f"{page}.doctree").unlink(missing_ok=True)
    return read


def test_sphinx_builds_the_pages_without_a_warning(tmp_path, pytestconfig):
    """Every reference to a page, a section or a name of ours is right, and every public name is on a page."""
    if missing := [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (dependency group docs)")
    kept = pytestconfig.cache.mkdir("sphinx") if hasattr(pytestconfig, "cache") else tmp_path
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        read = pages_that_were_read(kept)
        command = [sys.executable, "-c", BUILD, read, tmp_path]
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        if built.returncode:  # What was read with a warning would be taken for good the next time.
            shutil.rmtree(read)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "html" / "reference" / "options.html").read_text("utf-8").count("elastic_nprocs") > 0
