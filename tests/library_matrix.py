"""The library table: each library is used while its tests are collected and then in ranks, and in ranks only.

    python tests/library_matrix.py [--write docs/compatibility.md] [NAME ...]

*Method.*  It runs in an environment that has this package and the libraries; rows of those that are missing are
left as they are on the page.  Each row is two runs of pytest with two ranks, of a module that does the row's work
as it is imported and in its test, and of one that does it in its test only.  A row is good if both pass.

The exit code is the number of rows that are not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

LIMIT = 60  # Seconds for a test; for a run, three times that.
MARK = "## Libraries in a rank"


@dataclass(frozen=True)
class Row:
    """A use of a library.

    Attributes:
        name: the distribution, and what is done where there are several rows of it.
        module: that must be there.
        code: the body of a function that does some work and returns nothing.
    """

    name: str
    module: str
    code: str


ROWS = [
    Row("numpy", "numpy", "import numpy\nassert (numpy.ones((400, 400)) @ numpy.ones((400, 400)))[0, 0] == 400"),
    Row("scipy", "scipy", "import numpy, scipy.linalg\nscipy.linalg.svd(numpy.eye(300))"),
    Row("pandas", "pandas", "import pandas\nassert pandas.DataFrame({'a': range(1000)}).groupby('a').sum().shape == (1000, 0)"),
    Row("scikit-learn", "sklearn", "import numpy\nfrom sklearn.cluster import KMeans\nKMeans(3, n_init=1).fit(numpy.random.rand(3000, 4))"),
    Row("lightgbm", "lightgbm", "import numpy, lightgbm\nx = numpy.random.rand(500, 4)\nlightgbm.train({'verbose': -1, 'num_threads': 2}, lightgbm.Dataset(x, x[:, 0]), 3)"),
    Row("xgboost", "xgboost", "import numpy, xgboost\nx = numpy.random.rand(500, 4)\nxgboost.train({'nthread': 2}, xgboost.DMatrix(x, x[:, 0]), 3)"),
    Row("numba", "numba", "import numba, numpy\n@numba.njit(parallel=True)\ndef total(x):\n    s = 0.0\n    for i in numba.prange(x.size):\n        s += x[i]\n    return s\nassert total(numpy.ones(10000)) == 10000"),
    Row("polars", "polars", "import polars\nassert polars.DataFrame({'a': range(9999), 'b': range(9999)}).lazy().group_by('a').agg(polars.col('b').sum()).collect().height == 9999"),
    Row("jax", "jax", "import jax, jax.numpy\nassert jax.jit(lambda x: x @ x)(jax.numpy.ones((300, 300)))[0, 0] == 300"),
    Row("pyarrow", "pyarrow", "import pyarrow, pyarrow.compute\nt = pyarrow.table({'a': list(range(9999))})\nassert t.group_by('a').aggregate([]).num_rows == 9999"),
    Row("duckdb", "duckdb", "import duckdb\nassert duckdb.connect().sql('select count(*) from range(999999)').fetchall() == [(999999,)]"),
    Row("numexpr", "numexpr", "import numexpr, numpy\nx = numpy.ones(999999)\nassert numexpr.evaluate('x + x')[0] == 2"),
    Row("torch, one thread", "torch", "import torch\ntorch.set_num_threads(1)\nassert torch.ones(1 << 20).add_(1).sum() == 2 << 20"),
    Row("torch, two threads", "torch", "import torch\ntorch.set_num_threads(2)\nassert torch.ones(1 << 20).add_(1).sum() == 2 << 20"),
    Row("torch, backward", "torch", "import torch\ntorch.set_num_threads(2)\nm = torch.nn.Linear(500, 500)\nm(torch.ones(900, 500)).sum().backward()"),
    Row("torch, DataLoader", "torch", "import torch\nassert len(list(torch.utils.data.DataLoader(range(8), num_workers=1))) == 8"),
    Row("joblib", "joblib", "import joblib\nassert joblib.Parallel(2)(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]"),
    Row("joblib, threads", "joblib", "import joblib\nglobal pool\npool = globals().get('pool') or joblib.Parallel(2, backend='threading').__enter__()\nassert pool(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]"),
    Row("dask", "dask", "import dask\nassert dask.compute(dask.delayed(sum)([1, 2]), scheduler='threads') == (3,)"),
    Row("ThreadPoolExecutor", "concurrent", "from concurrent.futures import ThreadPoolExecutor\nglobal pool\npool = globals().get('pool') or ThreadPoolExecutor(2)\nassert list(pool.map(abs, [-1, -2])) == [1, 2]"),
    Row("ProcessPoolExecutor", "concurrent", "from concurrent.futures import ProcessPoolExecutor\nglobal pool\npool = globals().get('pool') or ProcessPoolExecutor(2)\nassert list(pool.map(abs, [-1, -2])) == [1, 2]"),
    Row("multiprocessing.Pool", "multiprocessing", "import multiprocessing\nglobal pool\npool = globals().get('pool') or multiprocessing.Pool(2)\nassert pool.map(abs, [-1, -2]) == [1, 2]"),
]  # fmt: skip


@dataclass
class Result:
    """A row's end: for each of the two runs how it went, in words."""

    row: Row
    cells: list[str]
    good: bool
    text: str

    def __str__(self) -> str:
        try:
            version = importlib.metadata.version(self.row.name.partition(",")[0])
        except importlib.metadata.PackageNotFoundError:  # It is Python's own.
            version = ""
        return f"| {self.row.name} | {version} | {' | '.join(self.cells)} |"


def run_row(row: Row, directory: Path) -> Result:
    """Run both modules of a row."""
    work = f"def work():\n{indent(row.code, '    ')}\n"
    test = "def test_it(world):\n    work()\n    world.barrier()\n"
    cells, texts = [], []
    for module in (f"{work}\nwork()\n\n{test}", f"{work}\n{test}"):
        place = directory / str(len(cells))
        place.mkdir()
        (place / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (place / "test_row.py").write_text(module, encoding="utf-8")
        cell, text = _run(place)
        cells.append(cell)
        texts.append(text)
    good = all("passes" in cell for cell in cells)
    return Result(row, cells, good, "" if good else "\n".join(texts))


def _run(directory: Path) -> tuple[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "--elastic-nprocs=2", f"--elastic-timeout={LIMIT}"]
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=directory, env=env, capture_output=True, text=True, timeout=3 * LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"no end within {3 * LIMIT} s", ""
    seconds = time.monotonic() - begin
    said = re.search(r"start method (\w+) \((.*)\)", done.stdout)
    how = "?" if said is None else said[1] if said[1] == "fork" else f"{said[1]}: {said[2]}"
    end = "passes" if done.returncode == 0 else _failure(done.stdout)
    return f"{end} ({how}), {seconds:.1f} s".replace("|", "/"), done.stdout + done.stderr


def _failure(text: str) -> str:
    line = next((line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return line.partition(" - ")[2][:150] or "does not end as it should"


def page_with(results: list[Result], page: str) -> str:
    """The page of documentation; rows that were not run stay as they are on it."""
    above, _, below = page.partition(MARK)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in below.splitlines() if " | " in line}
    known |= {one.row.name: str(one) for one in results}
    rows = [known[row.name] for row in ROWS if row.name in known]
    return "\n".join([f"{above.rstrip()}\n\n{HEAD}", *rows, ""])


HEAD = f"""\
{MARK}

Two runs with two ranks for each: of a module that uses the library as it is imported and again in its test, and of
one that uses it in its test only. In brackets the start method that `auto` took, and why it was not `fork`. The
seconds are those of the whole run on two slow cores that had other work. `python tests/library_matrix.py --write docs/compatibility.md`
makes this table.

| library | version | used at import, then in ranks | used in ranks only |
|---|---|---|---|"""


def main() -> int:
    """Run the rows that are named, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to run; all by default")
    parser.add_argument("--write", type=Path, help="the page to write")
    given = parser.parse_args()
    if unknown := set(given.names) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    results = []
    for row in ROWS:
        if (given.names and row.name not in given.names) or importlib.util.find_spec(row.module) is None:
            continue
        with tempfile.TemporaryDirectory(prefix="rows-") as place:
            results.append(run_row(row, Path(place)))
        print(results[-1], indent(results[-1].text, "    "), sep="\n", flush=True)
    if given.write:
        given.write.write_text(page_with(results, given.write.read_text("utf-8")), encoding="utf-8")
    return sum(not result.good for result in results)


if __name__ == "__main__":
    sys.exit(main())
