"""The words of the data and models pages: each name once, the same fields in both languages, none missing."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

import arriero.web
from arriero.web.words import TABLE, data

WEB = Path(arriero.web.__file__).parent
SOURCES = [WEB / "faults.py", *(WEB / "datasets").glob("*.py"), *(WEB / "shelf").glob("*.py")]
SOURCES += [WEB / "pages" / "data.py", WEB / "pages" / "models.py"]
KEYS = [key for key in TABLE if key.startswith(("data.", "models."))]


def fields(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("key", KEYS)
def test_both_languages_say_the_same(key):
    english, chinese = TABLE[key]
    assert fields(english) == fields(chinese)
    assert chinese == english or re.search(r"[\u4e00-\u9fff]", chinese)


def test_every_name_that_a_page_says_is_there_and_every_name_is_said():
    source = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    said = set(re.findall(r"""["']((?:data|models)\.[a-z_]+)["']""", source))
    assert said <= set(KEYS)
    rest_is_a_value = ("kind_", "flag_", "stage_", "view_", "from_", "join", "answers", "too_long")
    silent = [key for key in KEYS if key not in said and not key.endswith("_help")]
    assert [key for key in silent if not key.partition(".")[2].startswith(rest_is_a_value)] == []


def test_no_part_of_a_table_replaces_a_name_of_another():
    """ "saved" was a figure of the report and a message with fields, and the report could not be drawn."""
    parts = (data.OPENING, data.REPORT, data.ROWS, data.EDITING)
    assert sum(map(len, parts)) == len(data.WORDS)
