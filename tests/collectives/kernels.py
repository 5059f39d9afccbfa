"""Kernels of bugs: a kernel is a module of two tests, of which `test_buggy` hangs or fails and `test_fixed` passes.

What is said of `test_buggy` must have the verdict, the ranks, the call (group and number), the operation, and a line
that the module marks with `# hangs`.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

from kernel_run import expected_of

CORPUS = Path(__file__).parent / "corpus"
KERNELS = sorted(path.stem for path in CORPUS.glob("k*.py"))


def marked(kernel: str) -> set[str]:
    """The places where ranks hang, or call what the others do not."""
    lines = (CORPUS / f"{kernel}.py").read_text().splitlines()
    return {f"{kernel}.py:{number}" for number, line in enumerate(lines, 1) if line.endswith("# hangs")}


def wrong(kernel: str, found: dict[str, Any] | None) -> list[str]:
    """What is not as it should be in a kernel's diagnosis."""
    if found is None:
        return ["no verdict"]
    expected, said = expected_of(CORPUS / f"{kernel}.py"), []
    if found["verdict"] != expected.VERDICT:
        said.append(f"verdict {found['verdict']}")
    if found["ranks"] != expected.RANKS:
        said.append(f"ranks {found['ranks']}")
    calls = found["picture"]["collectives"]
    names = [key for key in found["keys"] if matches(key, expected.CALL)]
    call = next((one for one in calls if one["name"] in names), None)
    if call is None:
        return [*said, f"call {found['keys']}"]
    if expected.OPERATION not in {text.partition("(")[0] for text, _, _ in call["calls"]}:
        said.append(f"operation {call['calls']}")
    if not marked(kernel) & {place for one in calls for _, place, _ in one["calls"]}:
        said.append(f"line {call['calls']}")
    return said


def matches(key: str, pattern: str) -> bool:
    """Whether a call is the expected one; `*` stands for any text."""
    return fnmatch.fnmatchcase(key, re.sub(r"\[", "[[]", pattern))
