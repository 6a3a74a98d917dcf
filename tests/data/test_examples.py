"""Rows of several examples: a conversation whose history the template rewrites, raw text longer than the window."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero import data
from arriero.data import DataOptions, Single
from arriero.data.conversations import as_conversation, as_turns
from arriero.data.formats import parse
from arriero.messages import Conversation, Message
from arriero.prompt import Rendered, Renderer, tree_tokens
from tests.conftest import build_tokenizer, ids_of
from tests.prompt.templates import R1

# R1's, with the tiny tokenizer's tokens
REWRITING = R1.replace("<|User|>", "<user>").replace("<|Assistant|>", "<bot>")
RENDERER = Renderer(build_tokenizer(REWRITING), (2,))
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "r"}
TWICE = {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}


def rendered(tmp_path, rows, window=256, **options):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    chosen = DataOptions(**options)
    loaded = data.load(file, chosen)
    return loaded, data.render(loaded, RENDERER, chosen, window)


def test_a_row_of_two_answers_is_two_examples(tmp_path):
    """Such a row ended the run, and reasoning in a field of its own was refused."""
    loaded, rows = rendered(tmp_path, [TWICE, {"instruction": "q", "output": "a"}])
    assert (len(rows), [len(rows[0]), len(rows[1])]) == (2, [2, 1])
    assert rows[0] == RENDERER.examples(loaded.conversation(0))
    single = Single(rows)
    assert [single[index] for index in range(len(single))] == [*rows[0], *rows[1]]
    assert rows.lengths().tolist() == [len(single[index].ids) for index in range(3)]
    report = data.inspect(loaded, RENDERER, DataOptions(), window=256)
    assert (report.rows, report.kept, len(report.examples)) == (2, 2, 3)
    assert report.longest == max(rows.lengths())
    assert report.tokens == rows.lengths().sum()
    assert report.computed_tokens == tree_tokens(rows[0]) + tree_tokens(rows[1]) - report.prefix_tokens


def test_a_row_whose_template_refuses_it_is_left_out_alone(tmp_path):
    """One of them among many stopped the run."""
    called = [ASKED, {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}]
    _, rows = rendered(tmp_path, [{"messages": called, "tools": [{"name": "f"}]}, TWICE, TWICE])
    assert len(rows) == 2
    assert "has no place for tools" in rows.dropped[0].reason


def test_a_row_with_an_example_that_is_too_long_is_left_out_or_cut(tmp_path):
    length = len(RENDERER.examples(parse(TWICE, "messages", DataOptions()))[1].ids)
    _, rows = rendered(tmp_path, [TWICE, {"instruction": "q", "output": "a"}], window=length - 1)
    assert [drop.reason for drop in rows.dropped] == [f"{length} tokens, the limit is {length - 1}"]
    longer = {"messages": [ASKED, ANSWERED, ASKED, {**ANSWERED, "content": "a" * 80}]}
    _, rows = rendered(tmp_path, [longer], window=80, too_long="cut")
    assert rows.cut == 1
    assert [len(example.ids) for example in rows[0]][1] == 80


# --- raw text ---


def test_raw_text_is_learnt_whole_between_its_ends(tmp_path):
    """Rows of text alone were refused."""
    loaded, rows = rendered(tmp_path, [{"text": "a llama"}])
    assert loaded.format == "text"
    (example,) = rows[0]
    assert example == Rendered((1, *ids_of("a llama"), 2), ((1, 9),))


def test_longer_text_is_taken_in_pieces(tmp_path):
    """None of it is lost, cut or repeated; a last token alone has nothing to be predicted from."""
    text = "".join(chr(ord("a") + index % 26) for index in range(60))
    _, rows = rendered(tmp_path, [{"text": text}], window=20)
    ids = [token for example in rows[0] for token in example.ids]
    assert ids == [1, *ids_of(text), 2]
    assert [example.loss_spans for example in rows[0]] == [((1, 20),), ((0, 20),), ((0, 20),), ((0, 2),)]
    _, rows = rendered(tmp_path, [{"text": text[:-1]}], window=20)
    assert sum(len(example.ids) for example in rows[0]) == 60


def test_a_special_token_in_raw_text_is_refused(tmp_path):
    _, rows = rendered(tmp_path, [{"text": "a </s> b"}, {"text": "a"}])
    assert "the special token </s>" in rows.dropped[0].reason


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_that_nothing_calls_can_be_meant(choice):
    row = {"tools": [{"name": "f"}], "messages": [ASKED, ANSWERED], "tool_choice": choice}
    assert [tool.name for tool in parse(row, "messages", DataOptions()).tools] == ["f"]


words = st.text(min_size=1, max_size=5).filter(str.strip)


@given(words, words, st.none() | words)
def test_reasoning_and_text_come_back_from_the_cache(question, answer, reasoning):
    turns = (Message("user", question), Message("assistant", answer, reasoning_content=reasoning))
    for talk in (Conversation(turns), Conversation((), text=answer)):
        assert as_conversation(json.dumps(as_turns(talk))) == talk
