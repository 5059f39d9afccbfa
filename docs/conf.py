"""Sphinx: `python -m sphinx -W --keep-going -n docs build` builds the pages strictly.

*No network is needed.*  Inventories of other projects are asked for once, at the start.  Those that do not
answer are left out: their names stay plain text, and no warning is made of it.  Only references to what is
ours are checked, with and without a network; a misspelt one fails the build.

Tables that the code has already (options, operations of the store, kinds of faults, events, files) are made
from it by the directive `from-code`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

import pytest_elastic
from pytest_elastic import events
from pytest_elastic.plugin._options import TABLE
from pytest_elastic.store import OPERATIONS

logger = getLogger(__name__)
DOCS = Path(__file__).parent.resolve()
REPOSITORY = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]

project, author = "pytest-elastic", "the pytest-elastic authors"
copyright = f"2026, {author}"
version = release = pytest_elastic.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pytest-elastic {version}"

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
default_role = "code"  # Docstrings quote code by single backticks.

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_use_ivar = True

NEIGHBOURS = {
    "python": "https://docs.python.org/3/",
    "pytest": "https://docs.pytest.org/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
# What is not ours may be unknown here, and what is private has no page.
nitpick_ignore_regex = [
    ("py:.*", r"(?!pytest_elastic\.).*"),
    ("py:.*", r"pytest_elastic\.(.*\.)?_.*"),
    ("py:.*", r"pytest_elastic\.(loop|pristine|processes)\..*"),
]
# Sphinx searches a word of a signature everywhere, and names such as `rank` are in many classes.
suppress_warnings = ["ref.python"]


def answering(neighbours: dict[str, str], seconds: float = 5.0) -> Iterator[tuple[str, tuple[str, None]]]:
    """The inventories that can be had, as `intersphinx_mapping` wants them."""
    for name, url in neighbours.items():
        try:
            with urlopen(f"{url}objects.inv", timeout=seconds):
                yield name, (url, None)
        except (URLError, TimeoutError, ConnectionError):
            print(f"{url} does not answer: names of {name} are not linked")


intersphinx_mapping = dict(answering(NEIGHBOURS))


# Tables from the code.


def row(*cells: object) -> str:
    """A row of a table; no cell may end it."""
    return "| " + " | ".join(re.sub(r"\s+", " ", str(cell)).replace("|", r"\|") for cell in cells) + " |\n"


def table(*heads: str) -> str:
    return row(*heads) + row(*["---"] * len(heads))


def options() -> str:
    """Each option with its ini, from the table that declares them."""
    lines = [table("option", "ini", "default", "meaning")]
    for option in TABLE:
        choices = "\\|".join(getattr(option.check, "choices", ()))
        flag = "" if option.metavar is None else f"`{option.flag}={option.metavar or choices}`"
        # The cells of a table may have an escaped bar in code, which `row` would escape again.
        flag = flag.replace("\\|", "|")
        ini = f"`elastic_{option.name}`" if option.ini else ""
        lines.append(row(flag, ini, f"`{option.default}`" if option.default else "", option.help))
    return "".join(lines)


def operations() -> str:
    """The operations of the store, with their codes and letters on the wire."""
    lines = [table("code", "operation", "arguments", "answer", "may wait", "what it does to its keys")]
    for one in OPERATIONS.values():
        waits = "yes" if one.blocks else ""
        lines.append(
            row(one.code, f"`{one.name}`", f"`{one.arguments}`" if one.arguments else "",
                f"`{one.answer}`" if one.answer else "", waits, one.effect.value)
        )  # fmt: skip
    return "".join(lines)


def records() -> str:
    """The events of `events.jsonl`."""
    lines = [table("event", "fields", "what happened")]
    for name, one in events.KINDS.items():
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(one))
        lines.append(row(f"`{name}`", fields, (one.__doc__ or "").split("\n\n")[0]))
    return "".join(lines)


def top() -> str:
    """The names at the top of the package, each with its page."""
    names = sorted((name, part) for name, part in pytest_elastic._HOME.items())
    lines = [f"{{py:obj}}`{name} <pytest_elastic.{part}.{name}>`" for name, part in names]
    return ", ".join(lines) + "."


TABLES: dict[str, Callable[[], str]] = {
    "options": options,
    "operations": operations,
    "events": records,
    "top": top,
}


class FromCode(SphinxDirective):
    """A table that is made from the code: its name in `TABLES`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(TABLES[self.arguments[0]]())


def at_its_door(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, child: nodes.TextElement
) -> nodes.Element | None:
    """A class is defined in a private file, and documented where its part exports it."""
    target = node.get("reftarget", "")
    public = re.sub(r"(?<=\.)_\w+\.", "", target)
    if node.get("refdomain") != "py" or public == target:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, child)


def as_rst(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: an indented block is code, and a quoted name may be followed by a letter."""
    found, before = [], 0
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if number and not lines[number - 1] and indent > before:
            found += [f"{' ' * before}.. code-block:: python", ""]
        if line:
            before = indent
        found.append(re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line))
    if what in ("attribute", "property") and found:
        found[0] = f": {found[0]}"  # Else napoleon takes what is before a colon for a type.
    lines[:] = found


def to_the_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Links that leave `docs`, as the pages have them in a checkout, go to the repository."""
    here = (DOCS / page).parent

    def absolute(link: re.Match[str]) -> str:
        path = (here / link["path"]).resolve()
        inside = path.is_relative_to(DOCS) or not path.exists()
        return link[0] if inside else f"]({REPOSITORY}/blob/main/{path.relative_to(DOCS.parent)})"

    source[0] = re.sub(r"\]\((?P<path>\.\./[^)#]+)\)", absolute, source[0])


def public_bases(app: Sphinx, name: str, thing: object, options: object, bases: list[type]) -> None:
    """Classes that only share code have no page."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")] or [object]


def all_is_there(app: Sphinx, env: BuildEnvironment) -> None:
    """Each name that a part has for users is on a page."""
    documented = env.domains.python_domain.objects
    for part in pkgutil.iter_modules(pytest_elastic.__path__, "pytest_elastic."):
        for name in getattr(importlib.import_module(part.name), "__all__", ()):
            if f"{part.name}.{name}" not in documented and part.name != "pytest_elastic.plugin":
                logger.warning("%s.%s is public, and on no page", part.name, name)


def setup(app: Sphinx) -> None:
    app.add_directive("from-code", FromCode)
    app.connect("env-check-consistency", all_is_there)
    app.connect("source-read", to_the_repository)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # Before napoleon.
    app.connect("missing-reference", at_its_door)
