"""Numbers of the tree: `python tests/benchmarks/house.py [OTHER_CHECKOUT]`.

Files and lines of the package, private functions, imports of another part's private modules, file names that occur
twice, files under 40 and above 450 lines, codes in names of tests, and the functions of the launcher that a failing
test on 3 ranks passes.  With another checkout its numbers stand beside ours.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

FAILING = """
import pytest

@pytest.mark.elastic(nprocs=3)
def test_fails(world):
    world.barrier()
    assert world.rank != 1
"""
# Notes each function of ours that is called in pytest's own process, in all of its threads; the code of modules and
# classes is none, and is not compiled as one (CO_OPTIMIZED).
CONFTEST = """
import os, sys, threading, pytest

ROOT, PID, passed = os.path.join(os.environ["HOUSE"], "pytest_elastic"), os.getpid(), set()

def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(ROOT) and os.getpid() == PID:
        passed.add((code.co_filename, code.co_qualname))

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    threading.setprofile_all_threads(note) if hasattr(threading, "setprofile_all_threads") else threading.setprofile(note)
    sys.setprofile(note)

def pytest_runtest_logfinish():
    sys.setprofile(None)
    threading.setprofile(None)
    print("\\nPASSED", len(passed), len({file for file, _ in passed}))
"""


def part_of(path: Path, package: Path) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def foreign_private_imports(tree: ast.AST, part: str) -> int:
    """How often it imports from a private module of another part."""
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named = [name.split(".") for name in modules if name.startswith("pytest_elastic.")]
    return sum(name[1] != part and any(word.startswith("_") for word in name[2:]) for name in named)


def passed_by_a_failure(root: Path) -> tuple[int, int]:
    """Functions, and files, of the launcher that a failing test on 3 ranks passes."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        (directory / "test_it.py").write_text(FAILING, "utf-8")
        (directory / "conftest.py").write_text(CONFTEST, "utf-8")
        code = f"import sys; sys.path.insert(0, {str(root)!r}); import pytest; sys.exit(pytest.main())"
        env = {"HOUSE": str(root), "PATH": "/usr/bin:/bin", "PYTEST_ADDOPTS": "-s -p no:cacheprovider"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=directory, env=env, capture_output=True, text=True
        )
    found = re.search(r"PASSED (\d+) (\d+)", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2])


def numbers(root: Path) -> dict[str, object]:
    """Each number by its name."""
    package = root / "pytest_elastic"
    files = sorted(package.rglob("*.py"))
    trees = {path: ast.parse(path.read_text("utf-8")) for path in files}
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in files}
    functions = [
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.endswith("__")
    ]
    named = Counter(path.name for path in files if path.name != "__init__.py")
    tests = "\n".join(path.read_text("utf-8") for path in (root / "tests").rglob("test_*.py"))
    called, rooms = passed_by_a_failure(root)
    return {
        "Python files": len(files),
        "lines of source": sum(lines.values()),
        "private functions": f"{sum(name.startswith('_') for name in functions) / len(functions):.0%}",
        "imports of another part's private modules": sum(
            foreign_private_imports(tree, part_of(path, package)) for path, tree in trees.items()
        ),
        "file names that occur twice": sum(count > 1 for count in named.values()),
        "files under 40 lines": sum(lines[path] < 40 for path in files if path.name != "__init__.py"),
        "files above 450 lines": sum(count > 450 for count in lines.values()),
        "codes in names of tests": len(re.findall(r"def test_[a-z]{1,2}\d+[a-z]?_", tests)),
        "functions that a failing test on 3 ranks passes": called,
        "files that it passes": rooms,
    }


def main() -> None:
    """Print the table."""
    roots = [Path(__file__).parents[2], *(Path(name).resolve() for name in sys.argv[1:])]
    columns = [numbers(root) for root in roots]
    for name in columns[0]:
        print(f"{name:<50}", *(f"{column[name]!s:>10}" for column in columns))


if __name__ == "__main__":
    main()
