"""The README: every block of it is run."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())


def needs_torch() -> None:
    """Skip without it.  Not importorskip: pytester forgets what a test imported, and torch comes only once."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")


def blocks(language: str) -> list[str]:
    """The README's blocks of one language."""
    return [text for name, text in BLOCKS if name == language]


def test_all_blocks_are_covered():
    """A new kind of block needs a test of its own."""
    assert {name for name, _ in BLOCKS} == {"console", "python", "text"}
    assert [len(blocks(name)) for name in ("console", "python", "text")] == [4, 4, 3]


def test_first_block(run):
    """The tests shown first pass."""
    run(blocks("python")[0]).assert_outcomes(passed=2)


def test_simulating(run):
    """The searches print what the README says that they print."""
    result = run(blocks("python")[3], "-s")
    result.assert_outcomes(passed=2)
    for line in blocks("text")[2].splitlines():
        where = line.replace("[", "[[]").replace("test_sim.py", "*.py")
        result.stdout.fnmatch_lines([f"*{where.strip()}"])


def test_replaying(run):
    """A failure ends with the lines that are shown, and the last one of them repeats it."""
    code = """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_y(world):
            world.store.set("n", "0") if world.rank == 0 else world.store.get("n")
            world.store.set("n", str(int(world.store.get("n")) + 1))
            world.barrier("added")
            assert world.store.get("n") == b"2"
        """
    first, *shown, second = [line.partition("  ")[0] for line in blocks("console")[1].splitlines()]
    found = run(code, *re.findall(r"--\S+", first))
    found.assert_outcomes(failed=1)
    ending = [line for line in found.outlines if line.partition(":")[0] in ("recording", "replay")]
    assert len(ending) == 2
    for line, ours in zip(
        shown, [*[one for one in found.outlines if one.startswith("failed in")], *ending], strict=True
    ):
        assert len(line.split()) == len(ours.split())
        assert line.split()[0] == ours.split()[0]
    (token,) = re.findall(r"--elastic-replay=\S+", ending[-1])
    assert token[:20].rpartition("=")[0] == "--elastic-replay"
    again = run(code, token)
    again.assert_outcomes(failed=1)
    assert ending[-1] in again.outlines
    assert second.startswith("$ pytest ")


@pytest.mark.parametrize(("number", "name"), [(0, "test_epoch"), (1, "test_train")])
def test_the_failure_is_shown_as_it_is(run, run_with_libraries, number, name):
    """The failing test prints what the README says it prints."""
    code = blocks("python")[1 + number]
    if "import torch" in code:
        needs_torch()
    result = (run_with_libraries if "torch" in code else run)(
        "", f"{name}.py", "-p", "no:cacheprovider", **{name: code}
    )
    result.assert_outcomes(failed=1)
    shown = [line for line in blocks("text")[number].splitlines() if line.strip() not in ("", "...")]
    for line in shown:
        # Rules are as wide as the terminal, paths and spans of time are the machine's.
        words = re.sub(r"(^[-_]+ | [-_]+$)", "*", line).replace("[", "[[]").replace("...", "*")
        words = re.sub(r"known [0-9.]+ m?s after|$", "*", words)
        result.stdout.fnmatch_lines([words.replace(f"  {name}.py", f"  *{name}.py")])


def test_it_is_short_and_its_links_are_right():
    """Links are absolute, for readers of the index: to pages of the documentation, and files of the repository."""
    text = (ROOT / "README.md").read_text()
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    places = {urls["Documentation"]: (ROOT / "docs", ".md"), f"{urls['Source']}/blob/main/": (ROOT, "")}
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    for link in links:
        base = next(base for base in places if link.startswith(base))
        folder, suffix = places[base]
        path = folder / link.removeprefix(base)
        assert (path.with_suffix(suffix) if suffix else path).exists(), link
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize("line", blocks("console")[0].splitlines())
def test_ci_runs_the_same(line):
    """Both commands of the README, the examples on 4 ranks and the tests, are those that the gate calls."""
    command = line.split(" && ")[-1].removeprefix("$ ")
    assert command.split()[0] == ".venv/bin/pytest"
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/contracts.md", "pytest_elastic/__init__.py"])
def test_every_path_that_is_named_exists(page):
    """Files and directories of the checkout or, where no part of it is named, of the package."""
    text = (ROOT / page).read_text()
    words = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in quoted.split()}
    named = {word for word in words if re.fullmatch(r"(?!\.venv)[\w.]+(/[\w.]+)+/?|\w+\.(py|md)", word)}
    links = set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert len(named) > 5
    places = ROOT, ROOT / "pytest_elastic"
    missing = [path for path in named if not any((place / path).exists() for place in places)]
    assert not missing
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links)


def test_every_part_is_on_the_maps():
    """A part is a directory or a public file of the package."""
    parts = {
        path.stem
        for path in (ROOT / "pytest_elastic").iterdir()
        if path.suffix in ("", ".py") and path.stem[0] != "_"
    }
    for page in ("CONTRIBUTING.md", "pytest_elastic/__init__.py"):
        assert parts <= set(re.findall(r"`(\w+)`", (ROOT / page).read_text()))
