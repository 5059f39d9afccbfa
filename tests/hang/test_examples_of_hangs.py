"""The examples of hangs: what they say is said of them is."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from interpreters import Template
from shared_run import done_once

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = [FOLDER / "test_hanging.py", FOLDER / "test_trainer.py"]
TOLD = {
    node.name: " ".join(text.split())
    for path in EXAMPLES
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node))
}
IN_TORCH = re.findall(r"def (test_\w+)", EXAMPLES[1].read_text())


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, template_with_libraries: Template) -> dict[str, str]:
    """Test -> its verdict and cause, of a run in which none is expected to fail."""

    def run(directory: Path) -> None:
        arguments = ["-q", "-p", "no:cacheprovider", "--runxfail", f"--elastic-artifacts={directory}"]
        arguments += ["--basetemp", str(directory / "temp"), *map(str, EXAMPLES)]
        template_with_libraries.run_to_end(arguments, FOLDER.parent, directory / "output", 400)

    directory = done_once(tmp_path_factory, "examples", run)
    found = {}
    for path in directory.glob("*/hang.json"):
        hang = json.loads(path.read_text())
        suspected = "" if hang["exact"] else " (suspected)"
        name = re.search(r"\.py-(test_\w+)-", path.parent.name)
        assert name is not None
        found[name[1]] = f"{hang['verdict']}{suspected}: {hang['cause']}"
    return found


def words(text: str) -> Counter[str]:
    """Without the order, which depends on who came first, and without spans of time."""
    return Counter(re.findall(r"\w+", re.sub(r"[0-9.]+ s away", "", text)))


@pytest.mark.parametrize("name", TOLD)
def test_an_example_is_told_of_as_it_says(said: dict[str, str], name: str) -> None:
    """The verdict, its ranks, its keys."""
    if name in IN_TORCH:
        pytest.importorskip("torch")
    assert words(said[name]) == words(TOLD[name]), said[name]
