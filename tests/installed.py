"""The tests against the wheel, where there is no checkout.

    python tests/installed.py [--also PACKAGE]... [ARGUMENT OF PYTEST]...

Builds the source distribution, and the wheel of it; makes an environment that has the wheel, what that needs, and
the packages that `--also` names; and runs pytest on what the source distribution has without the package.  All
that is in a temporary directory, so that nothing of the checkout is imported or read.  Without arguments, all
tests of the plugin are run, and the examples on two ranks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS = [["tests/plugin"], ["examples", "--elastic-nprocs=2"]]


def build(place: Path) -> tuple[Path, Path]:
    """The wheel, and the unpacked source distribution that it is made of, in a directory."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(place), "-t"]
    subprocess.run([*command, "sdist"], cwd=ROOT, check=True)
    with tarfile.open(*place.glob("*.tar.gz")) as archive:
        archive.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.is_dir())
    subprocess.run([*command, "wheel"], cwd=source, check=True)
    return next(place.glob("*.whl")), source


def run(also: list[str], runs: list[list[str]]) -> int:
    """Install and run; the first exit code of pytest that is not 0."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        wheel, source = build(place)
        shutil.rmtree(source / "pytest_elastic")
        bare = place / "bare"
        venv.create(bare)
        installer = [sys.executable, "-m", "pip", "--python", str(bare / "bin" / "python"), "install", "-q"]
        subprocess.run([*installer, str(wheel), *also], check=True)
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        found = [bare / "bin" / "python", "-c", "import pytest_elastic; print(pytest_elastic.__file__)"]
        where = subprocess.run(found, cwd=source, env=environment, capture_output=True, text=True, check=True)
        assert where.stdout.startswith(str(bare)), where.stdout
        ended = [
            subprocess.run([bare / "bin" / "pytest", *one], cwd=source, env=environment, check=False)
            for one in runs
        ]
    return next((one.returncode for one in ended if one.returncode), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--also", action="append", default=[], metavar="PACKAGE")
    given, arguments = parser.parse_known_args()
    sys.exit(run(given.also, [arguments] if arguments else RUNS))
