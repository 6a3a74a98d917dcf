"""Every package's docstring names each of its files and subpackages, one a line, and nothing that is gone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"^\s*([\w-]+\.[a-z]+|[\w-]+/)\s{2,}\S", re.MULTILINE)  # "layout.py   what it is", "graphs/   …"
UNNAMED = {"__init__.py", "py.typed", "__pycache__"}
PACKAGES = sorted(path.parent for top in ("arriero", "benchmarks") for path in (ROOT / top).rglob("__init__.py"))


def entries(docstring: str) -> list[str]:
    """The files and subpackages that a docstring lists."""
    return ENTRY.findall(docstring)


def contents(package: Path) -> list[str]:
    """What lies in a package: `name.py`, `page.html`, `subpackage/`."""
    paths = (path for path in package.iterdir() if path.name not in UNNAMED)
    return [f"{path.name}/" if path.is_dir() else path.name for path in paths]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_docstring_lists_what_is_there(package):
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert sorted(entries(docstring)) == sorted(contents(package))


def test_entries_are_told_from_prose():
    text = "Rows.\n\npack.py    rows from examples\ngraphs/    captured steps\n\nSee layout.py and\nplan.py for more."
    assert entries(text) == ["pack.py", "graphs/"]
    assert entries("twice.py   one\ntwice.py   two") == ["twice.py", "twice.py"]
