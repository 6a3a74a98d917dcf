"""Everything the page says is in the table, in both languages, and everything in the table is said."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

import pytest

import arriero.web
from arriero.web.words import TABLE, preferred, say, speaking
from tests.web.drawn_words import keys, undeclared

ROOM = Path(arriero.web.__file__).parent
MODULES = sorted(file for file in ROOM.rglob("*.py") if file.parent.name != "words")
BAD = '''
"""A page with faults."""
import streamlit as st
LABEL = "Named before"
def main(place, rows, chosen):
    st.title("Drawn as it is")
    place.button(label=f"{len(rows)} rows")
    st.sidebar.caption("no" if chosen == "off" else "yes")
    st.text(LABEL)
    st.selectbox(say("a.b"), ["x", "y"], format_func=lambda name: "Model " + name)
    st.radio(say("a.b"), ["Option"])
    with place.expander("中文"):
        st.markdown(", ".join(["one", say("a.c")]))
    st.dataframe(rows, column_config={"q": st.column_config.TextColumn("Question")})
    return "A sentence that is drawn elsewhere"
'''
GOOD = '''
"""A page as it should be."""
import streamlit as st
def main(place, rows, log):
    place.title(say("a.title"), anchor=False)
    st.button(say("a.b", n=len(rows)), key="go", icon=":material/star:", width="stretch", args=("x",))
    st.text(rows["text"] if rows["kind"] == "text" else rows.get("other"))
    st.chat_message("user").markdown(":red[:material/error:]")
    place.caption(f"{say('a.c')} · {len(rows):,} 😀 {1 / 2:.1f} …")
    st.html("<style>.some-class { color: red }</style>")
    st.session_state.setdefault("language", "en")
    log.write("Written to a file")
    st.set_page_config(page_title="Arriero", layout="wide")
    raise UsageError("an error has words of its own")
'''


def fields(text: str) -> set[str | None]:
    return {field for _, field, _, _ in Formatter().parse(text) if field is not None}


@pytest.mark.parametrize("key", TABLE)
def test_both_languages_say_it_with_the_same_fields(key):
    english, chinese = TABLE[key]
    assert english.strip()
    assert chinese.strip()
    assert fields(english) == fields(chinese)
    assert not re.search("[\u4e00-\u9fff]", english)


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(ROOM)))
def test_no_module_draws_a_text_of_its_own(module):
    assert undeclared(module.read_text()) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(ROOM)))
def test_what_is_said_exists_and_gets_its_fields(module):
    source = module.read_text()
    said, patterns, _ = keys(source)
    assert said <= TABLE.keys()
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in TABLE)] == []
    for call in ast.walk(ast.parse(source)):
        if (
            isinstance(call, ast.Call)
            and getattr(call.func, "id", "") == "say"
            and isinstance(call.args[0], ast.Constant)
        ):
            given = {keyword.arg for keyword in call.keywords}
            assert None in given or given == fields(TABLE[call.args[0].value][0]), call.args[0].value


def test_all_that_the_table_has_is_said_somewhere():
    used: set[str] = set()
    for module in MODULES:
        said, patterns, strings = keys(module.read_text())
        used |= said | (strings & TABLE.keys())
        used |= {key for key in TABLE for pattern in patterns if re.fullmatch(pattern, key)}
    assert TABLE.keys() - used == set()


def test_the_search_finds_every_fault_and_nothing_else():
    assert [text for _, text in undeclared(BAD)] == [
        "Named before",
        "Drawn as it is",
        " rows",
        "no",
        "yes",
        "Model ",
        "Option",
        "中文",
        "one",
        "Question",
        "q",
        "A sentence that is drawn elsewhere",
    ]
    assert undeclared(GOOD) == []


def test_keys_are_found_in_every_form():
    source = 'say("a.b", n=1); say(f"c.{x}_d"); say("e.f" if x == "no" else "g.h"); run("i.j")'
    assert keys(source)[:2] == ({"a.b", "e.f", "g.h"}, {r"c\.\w+_d"})
    assert "i.j" in keys(source)[2]


def test_the_language_is_the_browsers():
    assert [preferred(locale) for locale in ("zh-CN", "zh", "zh-Hant-TW", "en-US", "de", "zha", None)] == [
        *["zh"] * 3,
        *["en"] * 4,
    ]
    with speaking("zh"):
        assert say("common.page_chat") == "对话"
    assert say("common.page_chat") == "Chat"
