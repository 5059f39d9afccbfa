"""The files that failed tests leave: a directory for each test, and an index of all.

*Rules.*  A test that passes, or fails as expected, leaves nothing, and what an earlier run left for it is
removed.  A file that is not ours stays, with its directory.  The index is made anew of the directories, so
that workers of one run, and runs of parts of a suite, add to the same one.  A full or read-only disk hides no
failure: there are fewer files then.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.pristine import json, os

RECORDING, REPORT, PAGE, INDEX = "recording.jsonl", "report.txt", "page.html", "index.html"
_FAILURE = "failure.json"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Where the files of a test go.

    Attributes:
        title: the test's id.
        directory: of all tests' files; `None` where there shall be none.
        base: paths are shown from here.
        traced: whether a failed run is drawn, and its events are written.
        replay: gives the command that runs the test in the same order again, `""` for none.
    """

    title: str
    directory: Path | None
    base: Path = Path()
    traced: bool = True
    replay: Callable[[], str] = str

    @property
    def own(self) -> Path | None:
        """The test's directory, which may not be there."""
        return None if self.directory is None else self.directory / name_of(self.title)

    def shown(self, path: Path) -> str:
        """The path as people are told it."""
        if self.directory is not None and path.is_relative_to(self.directory):
            return os.path.relpath(path, self.base)
        return str(shorter(path, self.base))

    def with_short_places(self, text: str) -> str:
        """The text, with places that end its lines, `(/base/t.py:8)`, as people are told them."""
        begin = re.escape(f"{self.base}/")
        return re.sub(rf"\({begin}([^()\n]+:\d+\)$)", r"(\1", text, flags=re.MULTILINE)

    def note(self, summary: str) -> None:
        """Note for the index that the test has failed, and of what."""
        if self.directory is None or self.own is None:
            return
        said = {"test": self.title, "summary": summary, "at": SYSTEM_CLOCK.time()}
        with suppress(OSError):
            self.own.mkdir(parents=True, exist_ok=True)
            (self.own / _FAILURE).write_text(json.dumps(said), "utf-8")
            if not (self.directory / ".gitignore").exists():  # As pytest does with its cache.
                (self.directory / ".gitignore").write_text("*\n", "utf-8")


def name_of(title: str) -> str:
    """A directory's name for a test: readable, and another one for another test."""
    words = re.sub(r"[^\w.=-]+", "-", title).strip("-")[-80:]
    return f"{words}-{zlib.crc32(title.encode('utf-8', 'surrogatepass')):08x}"


def shorter(path: Path, base: Path) -> Path:
    """The path from there, if it is below."""
    return path.relative_to(base) if path.is_relative_to(base) else path


def forget(title: str, directory: Path, keep_trace: bool = False) -> None:
    """Remove the files of an earlier failure of this test; whatever else is there stays.

    Args:
        keep_trace: the events and the page are those of a pass, and stay, too.
    """
    own = directory / name_of(title)
    if not own.is_dir():
        return
    from pytest_elastic.report.exporters import EXPORTERS  # Only now: few tests have failed before.

    with suppress(OSError):
        for name in (RECORDING, REPORT, _FAILURE, *(() if keep_trace else EXPORTERS)):
            (own / name).unlink(missing_ok=True)
        if not keep_trace:
            own.rmdir()


def write_index(directory: Path) -> None:
    """List the failures that are known, the newest first; no index where there are none."""
    found = []
    for file in directory.glob(f"*/{_FAILURE}"):
        with suppress(OSError, ValueError):
            said = json.loads(file.read_text("utf-8"))
            found.append((float(said["at"]), str(said["test"]), str(said["summary"]), file.parent))
    with suppress(OSError):
        if not found:
            (directory / INDEX).unlink(missing_ok=True)
            return
        rows = "".join(row(*one) for one in sorted(found, key=lambda one: (-one[0], one[1])))
        (directory / INDEX).write_text(
            _FRAME.format(count=len(found), rows=rows), "utf-8", "backslashreplace"
        )


def row(at: float, test: str, summary: str, own: Path) -> str:
    name = f"{own.name}/{PAGE}" if (own / PAGE).exists() else own.name
    when = datetime.fromtimestamp(at).isoformat(" ", "seconds")
    return (
        f'<tr><td><a href="{html.escape(name)}">{html.escape(test)}</a>'
        f"<td>{html.escape(summary)}<td><time>{when}</time>\n"
    )


_FRAME = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{count} failed tests on ranks</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
body {{ margin: 2rem }}
td {{ padding: .3rem 1.5rem .3rem 0; vertical-align: top; overflow-wrap: anywhere }}
time {{ white-space: nowrap; opacity: .7 }}
</style>
<h1>{count} failed tests on ranks</h1>
<table>
{rows}</table>
"""
