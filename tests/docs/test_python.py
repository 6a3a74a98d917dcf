"""Python in README and docs: it compiles, and what it takes from Arriero is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from dataclasses import fields

import pytest

import arriero
from arriero.loading import Loading
from arriero.server.offline import BatchOptions
from arriero.training.options import TrainOptions
from tests.docs.written import ROOT, Written, blocks, inline

STATEMENT = re.compile(r"^(?:from|import|with|for) |^\w+(?:\.\w+)*(?: = |\()", re.MULTILINE)
PYTHON = [block for block in blocks() if STATEMENT.search(block.text)]
CALLS = [each for each in inline() if re.match(r"arriero\.\w+\(|from arriero", each.text)]
NAMES = [each for each in inline() if re.fullmatch(r"arriero(?:\.\w+)+", each.text) and each.text != "arriero.json"]
KEYWORDS = {
    "load": {"model", "adapter", "ray", "replicas", "gpus_per_replica", *Loading.__optional_keys__},
    "train": {"output", "model", "system", "ray", "workers", "storage", *(each.name for each in fields(TrainOptions))},
    "batch": {"output", "at_once", "progress", *BatchOptions.__optional_keys__},
}


def taken(written: Written) -> None:
    """Compile it, import what it imports of Arriero, look up what it calls there."""
    for node in ast.walk(ast.parse(written.text.replace("…", "..."))):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("arriero"):
                assert [name.name for name in names if not hasattr(importlib.import_module(module), name.name)] == []
            case ast.Attribute(value=ast.Name(id="arriero"), attr=name):
                assert pkgutil.resolve_name(f"arriero.{name}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="arriero"), attr=name), keywords=keywords):
                takes = KEYWORDS.get(name) or set(inspect.signature(getattr(arriero, name)).parameters)
                assert {each.arg for each in keywords} <= takes


@pytest.mark.parametrize("written", [*PYTHON, *CALLS], ids=lambda each: str(each).partition("\n")[0])
def test_it_compiles_and_its_names_are_there(written):
    taken(written)


@pytest.mark.parametrize("written", NAMES, ids=str)
def test_a_dotted_name_is_there(written):
    assert pkgutil.resolve_name(written.text) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        "from arriero.langchain import ArrieroChat",
        'chat = arriero.laod(adapter="runs/mine")',
        'arriero.train("my.json", output="runs/mine", epoch=2)',
        "arriero.Sampling(max_tokens=2)",
        'print("Who are you?',
    ],
)
def test_what_is_gone_fails(wrong):
    with pytest.raises((AssertionError, AttributeError, SyntaxError)):
        taken(Written(ROOT / "README.md", 1, wrong))


def test_python_is_told_from_commands_and_trees():
    files = {block.file.name for block in PYTHON}
    assert {"README.md", "answering.md", "batch.md", "langchain.md", "serving.md"} <= files
    assert STATEMENT.search("arriero/cli/    one file a verb\nmake demo\ncurl -X POST http://x -d '{}'") is None
