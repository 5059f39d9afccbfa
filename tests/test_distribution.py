"""What is given to users: a source distribution, the wheel made of it, and that one in an environment with nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_readme import blocks

import pytest_elastic

ROOT = Path(__file__).parent.parent
UNREACHABLE = re.compile(
    r"No matching distribution|Could not find a version|ConnectionError|Network is unreachable"
)


def done(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command has printed, at most two minutes later."""
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the source distribution, by itself."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    place = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "-d", place, "-t")
    made = done(*build, "sdist", cwd=ROOT)
    assert made.returncode == 0, made.stderr
    with tarfile.open(*place.glob("*.tar.gz")) as archive:
        archive.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.is_dir())
    made = done(*build, "wheel", cwd=source)
    assert made.returncode == 0, made.stderr
    return next(place.glob("*.whl"))


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    """Each file of it, its version, and addresses."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode("utf-8"))
    ours = {path for path in (ROOT / "pytest_elastic").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if ".dist-info/" not in name} == {
        str(path.relative_to(ROOT)) for path in ours
    }
    assert fields["Version"] == pytest_elastic.__version__
    assert {url.partition(",")[0] for url in fields.get_all("Project-URL")} >= {"Source", "Documentation"}


def test_versions_of_python_that_are_promised_were_tried():
    """Each classifier has its row in the table of what was tried."""
    promised = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8")
    )
    tried = re.findall(
        r"^\| Python (\S+) \| \S+ \| same", (ROOT / "docs/compatibility.md").read_text("utf-8"), re.M
    )
    assert promised == tried


def test_the_first_example_runs_in_a_bare_environment(wheel, tmp_path):
    """Of the wheel and what it asks for; without torch, and without a path to the checkout."""
    bare = tmp_path / "bare"
    assert done(sys.executable, "-m", "venv", "--without-pip", bare, cwd=tmp_path).returncode == 0
    installer = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        bare / "bin" / "python",
        "install",
        "-q",
        "--no-compile",
    )
    installed = done(*installer, wheel, cwd=tmp_path)
    if installed.returncode and UNREACHABLE.search(installed.stderr):
        pytest.skip(f"no index can be reached: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "test_first.py").write_text(blocks("python")[0], "utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    where = "import pytest_elastic; print(pytest_elastic.__file__)"
    found = done(bare / "bin" / "python", "-c", where, cwd=tmp_path, env=environment)
    assert found.stdout.startswith(str(bare))
    ran = done(bare / "bin" / "pytest", "-p", "no:cacheprovider", cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout
