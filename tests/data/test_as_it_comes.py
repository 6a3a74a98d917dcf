"""Data as people have it: what the content is, fields under other names, fields that change the meaning."""

from __future__ import annotations

import gzip
import json
import zipfile

import pytest

from arriero import data
from arriero.data import DataOptions
from arriero.errors import ArrieroError, DataError, UsageError
from arriero.prompt import Renderer
from tests.conftest import build_tokenizer, ids_of

ROWS = [{"instruction": "a?", "output": "b"}, {"instruction": "你好？", "output": "我是甄嬛，家父是大理寺少卿。"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
ARRAY = json.dumps(ROWS, ensure_ascii=False)
TABLE = "\n".join(["instruction,output", *(f"{row['instruction']},{row['output']}" for row in ROWS)])
SAID = [[("user", row["instruction"]), ("assistant", row["output"])] for row in ROWS]
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
RENDERER = Renderer(build_tokenizer(), (2,))


@pytest.fixture(autouse=True)
def _home(home):
    """Every test has caches of its own."""


def load(tmp_path, name, content, **options):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return data.load(file, DataOptions(**options))


def said(loaded):
    talks = [loaded.conversation(index) for index in range(len(loaded.table))]
    return [[(turn.role, turn.content) for turn in talk.messages] for talk in talks]


def zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("a/rows.jsonl", json.dumps(ROWS[0]))
        archive.writestr("b.csv", TABLE.replace("a?,b\n", ""))
        archive.writestr("__MACOSX/b.csv", "x")
    return (tmp_path / "made.zip").read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.jsonl", ARRAY),
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS)),
        ("lines.json", LINES),
        ("commas.jsonl", LINES.replace("\n", ",\n") + ",\n"),
        ("commas.json", LINES.replace("\n", ",\n")),
        ("wrapped.json", f'{{"version": "1.0", "data": {ARRAY}, "more": [{{"x": 1}}]}}'),
        ("array.txt", ARRAY),
        ("lines.txt", LINES),
        ("array.csv", ARRAY),
        ("no-ending", ARRAY),
        ("table.csv", TABLE),
        ("table.tsv", TABLE.replace(",", "\t").replace("\n", "\r\n")),
        ("semicolons.csv", TABLE.replace(",", ";")),
        ("table.txt", TABLE.replace(",", "\t")),
        ("marked.csv", TABLE.encode("utf-8-sig")),
        ("excel.txt", TABLE.replace(",", "\t").encode("utf-16")),
        ("utf16.jsonl", LINES.encode("utf-16")),
        ("gbk.csv", TABLE.encode("gbk")),
        ("gbk.json", ARRAY.encode("gb18030")),
        ("gbk.jsonl", LINES.encode("gb18030")),
        ("rows.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),  # a time would be part of the test's name
        ("table.csv.gz", gzip.compress(TABLE.encode("gbk"), mtime=0)),
        ("rows.zip", zipped),
    ],
)
def test_the_content_decides_what_a_file_is(tmp_path, name, content):
    """By their endings all but a few of these gave an error, or dropped every row."""
    assert said(load(tmp_path, name, content(tmp_path) if callable(content) else content)) == SAID


def test_another_encoding_is_announced_and_can_be_named(tmp_path, caplog):
    caplog.set_level("INFO")
    load(tmp_path, "x.csv", TABLE.encode("gbk"))
    assert "x.csv: read as GB18030 (--encoding decides otherwise)" in caplog.text
    french = json.dumps([{"instruction": "où ?", "output": "là"}], ensure_ascii=False).encode("cp1252")
    with pytest.raises(DataError, match="is not UTF-8 text") as caught:
        load(tmp_path, "x.json", french)
    assert "--encoding" in caught.value.hint
    assert said(load(tmp_path, "x.json", french, encoding="cp1252")) == [[("user", "où ?"), ("assistant", "là")]]
    with pytest.raises(UsageError, match="no encoding 'utf-9'"):
        load(tmp_path, "x.json", french, encoding="utf-9")


def test_a_damaged_byte_does_not_make_another_encoding_of_utf8(tmp_path):
    content = LINES.encode() + b"\n" + LINES.encode().replace(b"a?", b"\xff") + b"\n" + LINES.encode()
    (drop,) = load(tmp_path, "x.jsonl", content).dropped
    assert (drop.row, drop.reason) == (2, "is not UTF-8 text (byte 17 of the line)")


def test_a_workbook_needs_its_package_and_says_so(tmp_path):
    """Without openpyxl the error names it; with it the sheet is read."""
    try:
        import openpyxl
    except ImportError:
        with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as archive:
            archive.writestr("xl/workbook.xml", "<workbook/>")
        with pytest.raises(ArrieroError, match="needs the package openpyxl") as caught:
            data.load(tmp_path / "x.xlsx")
        assert "arriero[excel]" in caught.value.hint
        return
    book = openpyxl.Workbook()
    for cells in (["instruction", "output"], *(list(row.values()) for row in ROWS)):
        book.active.append(cells)
    book.save(tmp_path / "x.xlsx")
    assert said(data.load(tmp_path / "x.xlsx")) == SAID


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[{"instruction": "a?", "output": "b"}, // no\n]', "no comments"),
        ("[{'instruction': 'a?', 'output': 'b'}]", "double quotes"),
        ('[{"instruction": "a?", "output": "b"},]', "remove the comma before ]"),
        ('[{"instruction": "a?", "output": "b",}]', "remove the comma before }"),
        ('[{"instruction": "a\n?", "output": "b"}]', r"written \n"),
        ('[{"instruction": "a?", "output": None}]', "write null"),
        ('[{"instruction": "a\\d", "output": "b"}]', "a backslash"),
        ('[{"instruction": "a?", "output": "b" "x": 1}]', "a comma is missing"),
        ('[{"instruction": "a?", "output": "b', "cut off"),
        ('[{"instruction": "a?", "output": "b"}\n{"instruction": "a?", "output": "b"}]', "a comma is missing"),
        ('// rows\n[{"instruction": "a?", "output": "b"}]', "no comments"),
    ],
)
def test_each_cause_has_its_hint(tmp_path, content, hint):
    """Whatever the cause, the hint asked whether the file was cut off while copying."""
    with pytest.raises(DataError) as caught:
        load(tmp_path, "x.json", content)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("line", "hint"),
    [("{'instruction': 'a?'}", "double quotes"), ('{"instruction": "a', r"written \n"), ("# x", "no comments")],
)
def test_a_line_s_cause_stands_with_its_reason(tmp_path, line, hint):
    (drop,) = load(tmp_path, "x.jsonl", f"{LINES}\n{line}\n{LINES}").dropped
    assert hint in drop.reason


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", '[{"instruction": "a?", "output": "b", "meta": {"x": 1, "x": 2}}]'),
        ("x.jsonl", '{"instruction": "a?", "output": "b", "meta": {"x": 1, "x": 2}}'),
        ("x.csv", "instruction,output,output\na?,b,c"),
    ],
)
def test_a_name_that_stands_twice_is_refused_wherever_it_stands(tmp_path, name, content):
    """Within an object, and in a table's header, the last one was taken silently."""
    with pytest.raises(DataError, match=r"the name '(x|output)' stands twice"):
        load(tmp_path, name, content)


def test_most_rows_unusable_is_an_error(tmp_path):
    """Nine rows of ten were left out with a warning, and the tenth was trained."""
    with pytest.raises(DataError, match="2 of its 3 rows cannot be used; the first: row 1"):
        load(tmp_path, "x.jsonl", f"{json.dumps(ROWS[0])}\n{{'a'\n{{'b'")


PAIR = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("row", "announced"),
    [
        ({"question": "q", "answer": "a"}, "question as instruction, answer as output"),
        ({"prompt": "q", "response": "a"}, "response as completion"),
        ({"query": "q", "response": "a"}, "query as instruction"),
        ({"instruction": "q", "response": "a"}, "response as output"),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, "conversation as conversations"),
        ({"conversation": [{"input": "q", "output": "a"}]}, "conversation as conversations"),
        ({"conversations": [ASKED, ANSWERED]}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "messages"),
        ({"prompt": [ASKED, ANSWERED]}, "prompt-completion"),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, "prompt-completion"),
        ({"messages": json.dumps([ASKED, ANSWERED])}, "messages"),
        ({"messages": [{**ASKED, "name": "Ana", "content": [{"type": "text", "text": "q"}]}, ANSWERED]}, "messages"),
    ],
)
def test_well_known_names_are_understood_and_announced(tmp_path, caplog, row, announced):
    caplog.set_level("INFO")
    assert said(load(tmp_path, "x.jsonl", json.dumps(row))) == [PAIR]
    assert announced in caplog.text


def test_columns_name_the_fields(tmp_path):
    rows = json.dumps([{"frage": "q", "antwort": "a", "output": "not this"}])
    named = load(tmp_path, "x.json", rows, columns="instruction=frage, output=antwort")
    assert said(named) == [PAIR]
    assert said(load(tmp_path, "x.txt", "frage|antwort\nq|a", columns="instruction=frage,output=antwort")) == [PAIR]
    with pytest.raises(UsageError, match="columns names instuction, which no format has"):
        load(tmp_path, "x.json", rows, columns="instuction=frage")
    for wrong in ("instruction", "=frage", "output=a,output=b"):
        with pytest.raises(UsageError, match="columns must be pairs"):
            DataOptions(columns=wrong)


def test_mixed_rows_are_each_read_in_their_own_format(tmp_path):
    """The first rows decided, and the others were left out."""
    rows = [ROWS[0], {"messages": [ASKED, ANSWERED]}, {"prompt": "q", "completion": "a"}]
    assert said(load(tmp_path, "x.json", json.dumps(rows))) == [SAID[0], PAIR, PAIR]


@pytest.mark.parametrize("field", ["weight", "train", "loss"])
@pytest.mark.parametrize("value", [0, False])
def test_an_answer_that_is_not_to_be_learnt_is_in_no_span(tmp_path, field, value):
    """The row was left out, or in ShareGPT's manner the turn was trained."""
    turns = [ASKED, {**ANSWERED, field: value}, ASKED, {**ANSWERED, "content": "b"}]
    sharegpt = [{"from": turn["role"], "value": turn["content"], **turn} for turn in turns]
    for turn in sharegpt:
        del turn["role"], turn["content"]
    for row in ({"messages": turns}, {"conversations": sharegpt}):
        (example,) = data.render(load(tmp_path, "x.jsonl", json.dumps(row)), RENDERER, DataOptions(), 256)[0]
        learnt = [token for token, loss in zip(example.ids, example.mask, strict=True) if loss]
        assert learnt == [*ids_of("b"), 2]


def test_a_system_prompt_beside_the_messages_is_used(tmp_path):
    """It was announced as not used."""
    loaded = load(tmp_path, "x.jsonl", json.dumps({"system": "s", "messages": [ASKED, ANSWERED]}))
    assert said(loaded) == [[("system", "s"), *PAIR]]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"label": False}, "not wanted .KTO"),
        ({"rejected": "x"}, "a preference pair"),
        ({"images": ["x.png"]}, "holds images"),
        ({"weight": 0}, "marked as not to be learnt"),
        ({"weight": 0.5}, "a loss can only be taken"),
        ({"messages": [ASKED, {**ANSWERED, "weight": 0}]}, "none of its answers is to be learnt"),
        ({"messages": [{**ASKED, "train": True}, ANSWERED]}, "only answers are learnt"),
        ({"messages": [ASKED, {**ANSWERED, "refusal": "x"}]}, "holds refusal"),
        ({"messages": [{**ASKED, "reasoning_content": "x"}, ANSWERED]}, "the user's turn holds reasoning_content"),
        ({"tools": [{"name": "f"}], "messages": [ASKED, ANSWERED]}, "no answer calls one"),
        ({"system": "s", "messages": [{"role": "system", "content": "t"}, ASKED, ANSWERED]}, "two system prompts"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(tmp_path, more, reason):
    """These fields were read over: an answer marked as bad was learnt."""
    with pytest.raises(DataError, match=reason):
        load(tmp_path, "x.jsonl", json.dumps({**ROWS[0], **more}))


def test_chosen_without_rejected_can_be_named(tmp_path):
    row = json.dumps({"prompt": "q", "chosen": "a"})
    assert said(load(tmp_path, "x.jsonl", row, columns="completion=chosen")) == [PAIR]


def test_a_row_far_too_long_is_left_out_by_its_beginning(tmp_path):
    """Nine megabytes were tokenized whole to be left out."""
    rows = [{**ROWS[0], "output": "x" * 9_000_000}, ROWS[0]]
    rendered = data.render(load(tmp_path, "x.json", json.dumps(rows)), RENDERER, DataOptions(), 256)
    assert len(rendered) == 1
    assert rendered.dropped[0].reason == "9000024 characters, more than 256 tokens, which is the limit"


def test_cutting_a_row_that_goes_on_after_its_last_learnt_answer_ends_it_there():
    """The end token of an answer in the middle was put behind text that is not learnt."""
    from arriero.messages import Conversation, Message

    turns = (
        Message("user", "q"),
        Message("assistant", "a"),
        Message("user", "q"),
        Message("assistant", "x" * 50, (), None, False),
    )
    rendered = RENDERER.render(Conversation(turns))
    shorter = rendered.cut(20)
    assert shorter.loss_spans == rendered.loss_spans
    assert shorter.ids == rendered.ids[: rendered.loss_spans[-1][1]]
