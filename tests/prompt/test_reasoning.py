"""Which tags a template sets reasoning apart by, and how it is taken out of an answer however that is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.constraint import JsonSchema, Reasoned
from arriero.errors import UsageError
from arriero.messages import Message
from arriero.prompt import ReasoningReader, Renderer
from arriero.prompt.reasoning import Tags
from tests.conftest import TEMPLATE, TOOL_TEMPLATE, build_tokenizer
from tests.prompt.reasoning import BRACKETS, CLOSED, GEMMA4, OPENED, QWEN3, R1, SMOLLM3, reasoning_tokenizer
from tests.prompt.templates import CHATML, CODER, HERMES, MISTRAL_NEW, THINKING

HELLO = [Message("user", "hi")]
THINK = Tags("<think>", "</think>")


def renderer_of(template, make=build_tokenizer, **options):
    return Renderer(make(template), (2,), **options)


@pytest.mark.parametrize(
    ("template", "tags"),
    [
        (QWEN3, Tags("<think>", "</think>", "enable_thinking")),
        (R1, THINK),
        (SMOLLM3, Tags("<think>", "</think>", "enable_thinking")),
        (BRACKETS, Tags("[THINK]", "[/THINK]")),
        (THINKING, THINK),
        (GEMMA4, Tags("<|channel>", "<channel|>", "enable_thinking", "thought\n")),
        *[(template, None) for template in (TEMPLATE, TOOL_TEMPLATE, CHATML, HERMES, CODER, MISTRAL_NEW)],
    ],
)
def test_the_template_says_which_tags_are_those_of_reasoning(template, tags):
    """No list of models: other pairs of tags, those of tools above all, stay text."""
    assert renderer_of(template).tags == tags


def test_the_real_llama_template_sets_no_reasoning_apart(llama_tokenizer):
    assert Renderer(llama_tokenizer, (128009,)).tags is None


@pytest.mark.parametrize(
    ("template", "variables", "messages", "begins"),
    [
        (QWEN3, {}, HELLO, "free"),
        (QWEN3, {"enable_thinking": False}, HELLO, "closed"),
        (GEMMA4, {"enable_thinking": True}, HELLO, "free"),
        (GEMMA4, {}, HELLO, "closed"),
        (R1, {}, HELLO, "opened"),
        (R1, {}, [Message("user", "what is <think>")], "opened"),
        (QWEN3, {}, [Message("user", "what is <think>")], "free"),
        (QWEN3, {}, [*HELLO, Message("assistant", "<think>\nSo")], "opened"),
        (QWEN3, {}, [*HELLO, Message("assistant", "It is", reasoning_content="So")], "closed"),
        (R1, {}, [*HELLO, Message("assistant", "It is")], "closed"),
    ],
)
def test_the_prompt_says_where_the_reasoning_begins(template, variables, messages, begins):
    assert renderer_of(template, variables=variables).asked(messages).reasoning.begins == begins


def test_reasoning_of_an_answer_that_goes_on_is_in_the_prompt():
    """With nothing said yet the whole turn would be dropped."""
    renderer = renderer_of(QWEN3)
    text = renderer.tokenizer.decode(renderer.prompt([*HELLO, Message("assistant", "", reasoning_content="So.")]))
    assert text == "<s><user>hi</s><bot><think>\nSo.\n</think>\n\n"


def test_special_tokens_in_reasoning_are_text():
    renderer = renderer_of(QWEN3)
    ids = renderer.prompt([*HELLO, Message("assistant", "It", reasoning_content="</s><user>")])
    assert (ids.count(2), ids.count(4)) == (1, 1)


def read(tags, begins, pieces):
    reader = ReasoningReader(tags, begins)
    parts = [*map(reader.push, pieces), reader.push("", final=True)]
    thoughts, taken, texts = zip(*parts, strict=True)
    return "".join(thoughts), sum(taken), "".join(texts)


@given(st.data(), st.sampled_from(["free", "opened"]), st.booleans())
def test_reasoning_is_taken_out_however_the_text_is_split(data, begins, closes):
    """Every character is one of the reasoning's, of the text's, or was taken; nothing comes twice or in between."""
    part = st.text(st.sampled_from("<think>/ \nab[]"), max_size=12)
    thought = data.draw(part.filter(lambda text: "</think>" not in text))
    text = data.draw(part) if closes else ""
    whole = ("" if begins == "opened" else "<think>") + thought + ("</think>" if closes else "") + text
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    found, taken, shown = read(THINK, begins, pieces)
    assert found == thought.strip()
    assert shown == text.lstrip()
    assert taken == len(whole) - len(shown)


@given(st.text(st.sampled_from("<think>/ \na"), max_size=12), st.integers(0, 12))
def test_an_answer_without_reasoning_is_left_as_it_is(text, cut):
    if text.lstrip().startswith("<think>"):
        return
    assert read(THINK, "free", [text[:cut], text[cut:]]) == ("", 0, text)


@given(st.data())
def test_the_channel_s_name_is_no_reasoning(data):
    thought = data.draw(st.sampled_from(["", "So", "thought\nSo"]))
    whole = f"<|channel>thought\n{thought}<channel|>Yes"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(renderer_of(GEMMA4).tags, "free", pieces) == (thought, len(whole) - len("Yes"), "Yes")


def test_what_may_begin_a_tag_is_all_that_is_held_back():
    reader = ReasoningReader(THINK, "opened")
    assert [reader.push(piece)[0] for piece in ("\n\nSo", " it", " \n", "is </", "b>", "</think", "x")] == [
        "So", " it", "", " \nis", " </b>", "", "</thinkx"
    ]  # fmt: skip


def test_a_limit_needs_tags_that_are_tokens():
    """Where they are several, nothing says that one is complete, and what was forced would not be what is learnt."""
    schema = JsonSchema({"type": "object"})
    spelt = renderer_of(R1).asked(HELLO).reasoning
    assert spelt.constraint(schema, None) == Reasoned("<think>", "</think>", True, schema, None, (2,))
    with pytest.raises(UsageError, match="max_reasoning_tokens needs tags that are tokens of the vocabulary"):
        spelt.constraint(None, 5)
    whole = renderer_of(R1, reasoning_tokenizer).asked(HELLO).reasoning
    assert whole.constraint(None, 5) == Reasoned(OPENED, CLOSED, True, None, 5, (2,))
    assert whole.constraint(None, None) is None
