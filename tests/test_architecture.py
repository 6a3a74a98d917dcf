"""docs/architecture.md and README's tree are about the code as it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rooms():
    """`arriero/` at its top: chat.py, server/, …"""
    paths = (
        path for path in (ROOT / "arriero").iterdir() if path.name not in {"__init__.py", "__pycache__", "py.typed"}
    )
    return {f"{path.name}/" if path.is_dir() else path.name for path in paths}


def test_every_room_is_in_the_table_and_none_that_is_gone():
    table = DOCUMENT.partition("## Rooms")[2].partition("\n## ")[0]
    first_cells = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([\w.]+/?)`", first_cells)) == rooms()


def test_the_layers_are_those_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["name"] == "imports point down"]
    written = DOCUMENT.partition("## Who may import whom")[2].partition("\n## ")[0]
    assert re.findall(r"^    (\S.*)$", written, re.MULTILINE) == [
        layer.replace("arriero.", "").replace(" : ", " · ") for layer in layers
    ]


def test_the_readmes_tree_is_the_tree():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The source tree")[2].partition("\n## ")[0]
    names = re.findall(r"^ {4}(\S+)", tree, re.MULTILINE)
    assert names, "README lost its tree"
    assert [name for name in names if not (ROOT / name).exists()] == []
    packages = {f"arriero/{name}" for name in rooms() if name.endswith("/")}
    assert packages <= set(names), "a room is missing in README's tree"
