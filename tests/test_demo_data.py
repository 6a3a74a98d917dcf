"""Our own data sets under examples/data/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arriero import data

FOLDER = Path(__file__).parents[1] / "examples" / "data"


@pytest.mark.parametrize(
    ("name", "at_least"), [("llama-driver.json", 150), ("llama-driver.heldout.json", 20), ("llama-driver.zh.json", 60)]
)
def test_every_row_is_usable(home, name, at_least):
    loaded = data.load(FOLDER / name)
    assert loaded.dropped == ()
    assert len(loaded.table) >= at_least


def test_no_held_out_question_was_trained_on():
    def questions(name):
        rows = json.loads((FOLDER / name).read_text(encoding="utf-8"))
        return {re.sub(r"\W+", " ", row["instruction"] + row["input"]).lower().strip() for row in rows}

    assert not questions("llama-driver.json") & questions("llama-driver.heldout.json")


def test_the_persona_is_asked_for_in_many_ways(home):
    rows = data.load(FOLDER / "llama-driver.json").table["conversation"]
    assert sum("I am Tomás Quispe" in row for row in rows) >= 20
