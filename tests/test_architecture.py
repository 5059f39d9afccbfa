"""The shape of the package: imports point down, third parties stay in their rooms, nothing grows too big."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_elastic import pristine

PACKAGE = Path(__file__).parent.parent / "pytest_elastic"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    0: {"pristine", "errors", "clock", "events", "logging"},
    1: {"store", "timer", "hang"},
    2: {"multiprocessing", "simulator", "faults", "report"},
    3: {"launch", "strategies"},
    4: {"plugin", "testing", "stateful"},
}
LEVEL = {part: level for level, parts in LEVELS.items() for part in parts}
# Parts of one level may build on each other where this says so, in one direction.
BESIDE = {part: {"pristine"} for part in ("clock", "events", "logging")}
BESIDE |= {"simulator": {"faults"}, "strategies": set(), "stateful": {"testing"}}
THIRD_PARTIES = {
    "psutil": {"multiprocessing"},
    "hypothesis": {"strategies", "stateful"},
    "pytest": {"plugin"},
    "pytest_timeout": {"plugin"},
    "_pytest": set(),
    "torch": {"store"},
    "greenlet": {"simulator"},
    "coverage": {"launch"},
}
# Signatures that are torch's.
WIDE = {
    "multiprocessing/_context.py", "multiprocessing/_functions.py", "multiprocessing/_binaries.py",
    "multiprocessing/_start.py", "multiprocessing/tail_log.py", "store/_collective.py",
}  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the part it comes from"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    """A part imports only parts of a lower level."""
    part = part_of(path)
    if part == "__init__":
        assert not [name for name in imports(path) if name != "__future__"]
        return
    for name in imports(path):
        if name.startswith("pytest_elastic."):
            other = name.split(".")[1]
            allowed = other == part or LEVEL[other] < LEVEL[part] or other in BESIDE.get(part, ())
            assert allowed, f"{part} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_tests_patch_is_bound_early(path):
    """Nothing of ours finds what a test has put into `time`, `os` or `socket`, but for what is the test's own."""
    if str(path.relative_to(PACKAGE)) not in ("pristine.py", "simulator/_ambient.py", "store/_mock.py"):
        assert not {name.split(".")[0] for name in imports(path)}.intersection(pristine.MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_stay_in_their_rooms(path):
    """Each library has the parts that may import it."""
    for name in imports(path):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top != "pytest_elastic":
            assert part_of(path) in THIRD_PARTIES[top], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path):
    """Files, functions and argument lists stay below their caps."""
    text = path.read_text()
    assert len(text.splitlines()) <= (60 if path.name == "__init__.py" and part_of(path) != "plugin" else 450)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 50, f"{path}: {node.name} is too long"
            named = [
                arg.arg for arg in (*node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")
            ]
            wide = str(path.relative_to(PACKAGE)) in WIDE
            assert wide or len(named) <= 6, f"{path}: {node.name} has {len(named)} arguments"


def test_most_functions_are_short():
    """Nine of ten functions have bodies under 20 lines."""
    lengths = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                lengths.append((node.end_lineno or 0) - first.lineno + 1)
    assert sum(length < 20 for length in lengths) >= 0.9 * len(lengths)


def test_the_plugin_is_thin():
    """The door to pytest translates; at most 13 % of the source is in it."""
    sizes = {path: len(path.read_text().splitlines()) for path in FILES}
    plugin = sum(size for path, size in sizes.items() if part_of(path) == "plugin")
    assert plugin <= 0.13 * sum(sizes.values())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pytest_elastic", {"pytest_elastic.errors"}),
        ("pytest_elastic.store", {"pytest", "hypothesis", "torch", "psutil"}),
        ("pytest_elastic.timer", {"pytest", "hypothesis", "torch", "psutil"}),
        ("pytest_elastic.multiprocessing", {"pytest", "hypothesis", "torch"}),
        ("pytest_elastic.launch", {"pytest", "hypothesis", "torch", "pytest_elastic.report.pictures"}),
        ("pytest_elastic.simulator", {"pytest", "hypothesis", "torch", "psutil", "greenlet"}),
    ],
)
def test_what_an_import_does_not_import(module, absent):
    """A rank that uses one part does not pay for others."""
    code = f"import sys, {module}; print([name for name in {sorted(absent)} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_test_files_have_names_of_their_own():
    """Two test modules of one name cannot be collected in one run, but for those in a package."""
    root = PACKAGE.parent
    files = [path for folder in ("tests", "examples") for path in (root / folder).rglob("test_*.py")]
    names = [path.name for path in files if not (path.parent / "__init__.py").exists()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_text_files_name_their_encoding(path):
    """By default it is the locale's, which may be ASCII."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        of_path = name in ("read_text", "write_text")
        builtin = isinstance(node.func, ast.Name) and name == "open"
        if not (of_path or builtin or name in ("fdopen", "TextIOWrapper")):
            continue
        given = any(word.arg == "encoding" for word in node.keywords)
        if of_path:
            given = given or len(node.args) > (name == "write_text")
        elif len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            given = given or "b" in str(node.args[1].value)
        assert given, f"{path}:{node.lineno}: {name} without an encoding"
