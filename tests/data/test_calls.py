"""Rows with calls of tools: every manner gives the same turns; calls are in the loss behind the ids an engine gets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.data import DataOptions
from arriero.data.conversations import as_conversation, as_turns
from arriero.data.formats import parse
from arriero.prompt import OutputSpec, Renderer
from tests.conftest import TOOL_TEMPLATE, build_tokenizer
from tests.prompt.templates import CODER, HERMES, Family, tokenizer_for

TOOL = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CALL = '{"name": "f", "arguments": {"a": "b"}}'
OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
ROWS = {
    "openai": ("messages", {"tools": [{"type": "function", "function": TOOL}], "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"}, {"role": "assistant", "content": "a"}]}),
    "sharegpt": ("sharegpt", {"tools": json.dumps([TOOL]), "conversations": [
        {"from": "human", "value": "q"}, {"from": "function_call", "value": CALL},
        {"from": "observation", "value": "r"}, {"from": "gpt", "value": "a"}]}),
    "ms-swift": ("messages", {"tools": json.dumps([TOOL]), "messages": [
        {"role": "user", "content": "q"}, {"role": "tool_call", "content": CALL},
        {"role": "tool_response", "content": "r"}, {"role": "assistant", "content": "a"}]}),
}  # fmt: skip
MADE = {"tiny": build_tokenizer(TOOL_TEMPLATE)}
for name, source in (("hermes", HERMES), ("coder", CODER)):
    MADE[name] = tokenizer_for(Family(source, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
RENDERERS = {name: Renderer(made, (made.eos_token_id,)) for name, made in MADE.items()}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_calls_in_every_manner_are_the_same_turns(name):
    """They were refused: "holds tool calls, which cannot be trained on"."""
    form, row = ROWS[name]
    talk = parse(row, form, DataOptions())
    assert [turn.role for turn in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert [(call.name, call.values) for call in talk.messages[1].tool_calls] == [("f", {"a": "b"})]
    assert talk.messages[2].tool_call_id == talk.messages[1].tool_calls[0].id
    assert [tool.name for tool in talk.tools] == ["f"]
    assert as_conversation(json.dumps(as_turns(talk))) == talk


@given(
    st.sampled_from(sorted(RENDERERS)), st.sampled_from(sorted(ROWS)), st.text('ab 你\n"\\é', min_size=1, max_size=9)
)
def test_calls_are_learnt_behind_the_ids_that_an_engine_gets(template, name, argument):
    renderer, (form, row) = RENDERERS[template], ROWS[name]
    text = json.dumps(row, ensure_ascii=False)
    call = json.dumps({"name": "f", "arguments": {"a": argument}})
    row = json.loads(text)
    for turn in row.get("messages", row.get("conversations")):
        if "tool_calls" in turn:
            turn["tool_calls"][0]["function"]["arguments"] = json.dumps({"a": argument})
        elif "{" in (turn.get("content") or turn.get("value") or ""):
            turn["content" if "content" in turn else "value"] = call
    talk = parse(row, form, DataOptions())
    rendered = renderer.render(talk)
    for turn, (start, _) in zip((1, 3), rendered.loss_spans, strict=True):
        assert renderer.prompt(talk.messages[:turn], OutputSpec(talk.tools)) == list(rendered.ids[:start])
    learnt = renderer.tokenizer.decode(list(rendered.ids[slice(*rendered.loss_spans[0])]))
    assert "f" in learnt
    shown = argument if template == "coder" else json.dumps({"a": argument}, ensure_ascii=False)
    assert shown in learnt
