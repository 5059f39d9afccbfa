"""The shape of the package: imports point down, third parties stay in their rooms, nothing grows too big."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_elastic import pristine

PACKAGE = Path(__file__).parent.parent / "pytest_elastic"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    0: {
        "__version__",
        "pristine",
        "errors",
        "clock",
        "events",
        "logging",
        "loop",
        "processes",
        "progress",
        "wording",
    },
    1: {"store", "timer", "hang"},
    2: {"collectives", "multiprocessing", "scheduling", "simulator", "faults", "report"},
    3: {"launch", "external", "adoption", "replays", "strategies"},
    4: {"plugin", "testing", "stateful"},
}
LEVEL = {part: level for level, parts in LEVELS.items() for part in parts}
# Parts of one level may build on each other where this says so, in one direction.
BESIDE = {part: {"pristine"} for part in ("clock", "events", "logging", "processes", "wording")}
BESIDE |= {"errors": {"wording"}, "progress": {"pristine", "clock"}}
BESIDE |= {
    "loop": {"pristine", "clock"},
    "hang": {"store"},
    "simulator": {"faults", "collectives", "scheduling"},
    "replays": {"launch"},
    "adoption": {"launch"},
    "external": {"launch"},
    "strategies": set(),
    "stateful": {"testing"},
}
THIRD_PARTIES = {
    "psutil": {"processes"},
    "hypothesis": {"strategies", "stateful"},
    "pytest": {"plugin"},
    "pytest_timeout": {"plugin"},
    "_pytest": set(),
    "torch": {"collectives", "store"},
    "greenlet": {"simulator"},
    "coverage": {"launch"},
    "ray": {"external"},
}
# Who sees what a test has patched, since that is the test's own: its simulation, its store.
LATE = ("pristine.py", "simulator/_patches.py", "store/_mock.py")
# Torch has this module, with the one name.
SMALL = {"logging.py"}
# Signatures that are torch's.
WIDE = {
    "multiprocessing/_context.py", "multiprocessing/_functions.py", "multiprocessing/_binaries.py",
    "multiprocessing/_start.py", "multiprocessing/tail_log.py", "store/_collective.py",
    "external/_ray_context.py",
}  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or "." * node.level
            found += (
                [f"{module}.{alias.name}" for alias in node.names] if module == "pytest_elastic" else [module]
            )
    return found


def wrong_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """A part imports only parts of a lower level, libraries stay in their parts, and patches are not seen."""
    part, name = part_of(path), str(path.relative_to(PACKAGE))
    for module in imports(tree):
        top, _, rest = module.partition(".")
        if not top:
            yield f"{module}: a relative import hides the part that it comes from"
        elif top == "pytest_elastic":
            other = rest.partition(".")[0]
            if part != "__init__" and not (
                other == part or LEVEL[other] < LEVEL[part] or other in BESIDE.get(part, ())
            ):
                yield f"{part} imports {other}"
        elif top not in sys.stdlib_module_names:
            if part not in THIRD_PARTIES[top]:
                yield f"{top} is for {THIRD_PARTIES[top] or 'nobody'}"
        elif top in pristine.MODULES and name not in LATE:
            yield f"{top} as a test may have patched it: pytest_elastic.pristine has it"


def wrong_doors(path: Path, tree: ast.Module) -> Iterator[str]:
    """A part takes what it needs of another from that one's `__init__`."""
    for module in imports(tree):
        names = module.split(".")
        foreign = names[0] == "pytest_elastic" and names[1] != part_of(path)
        if foreign and any(name.startswith("_") for name in names[2:]):
            yield f"{module} belongs to another part: its __init__ has what others need"


def wrong_sizes(path: Path, tree: ast.Module) -> Iterator[str]:
    """Files, functions and argument lists stay below their caps, and no file is a scrap."""
    door = path.name == "__init__.py"
    cap = 60 if door and part_of(path) not in ("plugin", "__init__") else 450
    lines = len(path.read_text("utf-8").splitlines())
    if lines > cap:
        yield f"{lines} lines, and the cap is {cap}"
    if lines < 40 and not door and str(path.relative_to(PACKAGE)) not in SMALL:
        yield f"{lines} lines: what other file is it a piece of?"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if length_of(node) > 50:
                yield f"{node.name} is too long"
            named = [
                arg.arg for arg in (*node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")
            ]
            if len(named) > 6 and str(path.relative_to(PACKAGE)) not in WIDE:
                yield f"{node.name} has {len(named)} arguments"


def locales_encodings(path: Path, tree: ast.Module) -> Iterator[str]:
    """Files of text name their encoding: by default it is the locale's, which may be ASCII."""
    for node in ast.walk(tree):
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
        if not given:
            yield f"line {node.lineno}: {name} without an encoding"


def length_of(function: ast.FunctionDef) -> int:
    """Lines of its body, the text before it aside."""
    first = function.body[ast.get_docstring(function) is not None and len(function.body) > 1]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize(
    "rule", [wrong_imports, wrong_doors, wrong_sizes, locales_encodings], ids=lambda rule: rule.__name__
)
def test_every_file_keeps_the_rule(rule):
    """All complaints at once, each with its file."""
    assert not [
        f"{path.relative_to(PACKAGE)}: {complaint}"
        for path in FILES
        for complaint in rule(path, ast.parse(path.read_text("utf-8")))
    ]


def test_most_functions_are_short():
    """Nine of ten functions have bodies under 20 lines."""
    lengths = [
        length_of(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert sum(length < 20 for length in lengths) >= 0.9 * len(lengths)


def test_the_plugin_is_thin():
    """The door to pytest translates; at most 13 % of the source is in it."""
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    plugin = sum(size for path, size in sizes.items() if part_of(path) == "plugin")
    assert plugin <= 0.13 * sum(sizes.values())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pytest_elastic", {"pytest_elastic.errors"}),
        ("pytest_elastic.store", {"pytest", "hypothesis", "torch", "psutil"}),
        ("pytest_elastic.timer", {"pytest", "hypothesis", "torch", "psutil"}),
        ("pytest_elastic.multiprocessing", {"pytest", "hypothesis", "torch"}),
        ("pytest_elastic.launch", {"pytest", "hypothesis", "torch", "pytest_elastic.report.exporters"}),
        ("pytest_elastic.simulator", {"pytest", "hypothesis", "torch", "psutil", "greenlet"}),
        ("pytest_elastic.collectives", {"pytest", "hypothesis", "torch", "psutil"}),
    ],
)
def test_what_an_import_does_not_import(module, absent):
    """A rank that uses one part does not pay for others."""
    code = f"import sys, {module}; print([name for name in {sorted(absent)} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_two_files_of_the_package_have_one_name():
    """Whoever looks for a file by its name finds one, the doors aside."""
    names = Counter(path.name for path in FILES)
    assert [name for name, count in names.items() if count > 1 and name != "__init__.py"] == []


def test_test_files_have_names_of_their_own():
    """Two test modules of one name cannot be collected in one run, but for those in a package."""
    root = PACKAGE.parent
    files = [path for folder in ("tests", "examples") for path in (root / folder).rglob("test_*.py")]
    names = [path.name for path in files if not (path.parent / "__init__.py").exists()]
    assert sorted(set(names)) == sorted(names)
