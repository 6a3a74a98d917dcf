"""Special tokens in what people write are text: they are encoded as text, and nothing becomes structure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Tool, ToolCall
from arriero.prompt import OutputSpec, Renderer
from arriero.prompt.tool_format import GENERIC
from arriero.prompt.tracing import private
from tests.conftest import SPECIALS, TEMPLATE, TOOL_TEMPLATE, build_tokenizer
from tests.prompt.templates import FAMILIES, GLUED, HERMES, THINKING, Family, tokenizer_for

CHATML_FAMILY = FAMILIES["chatml"]
MORE = {
    "hermes": Family(HERMES, CHATML_FAMILY.specials, CHATML_FAMILY.end),
    "glued": Family(GLUED, ("<s>", "</s>"), "</s>"),
    "thinking": Family(THINKING, CHATML_FAMILY.specials, CHATML_FAMILY.end),
}
RENDERERS = {}
for name, family in (FAMILIES | MORE).items():
    made = tokenizer_for(family)
    RENDERERS[name] = Renderer(made, (made.convert_tokens_to_ids(family.end),))
for name, template in (("tiny", TEMPLATE), ("tiny tools", TOOL_TEMPLATE)):
    RENDERERS[name] = Renderer(build_tokenizer(template), (2,))


def specials_of(renderer) -> list[str]:
    return [token.content for token in renderer.tokenizer.added_tokens_decoder.values() if token.special]


def poison(specials: list[str]):
    """Special tokens, their halves, and what templates look for."""
    halves = st.sampled_from(specials).flatmap(
        lambda token: st.integers(0, len(token)).flatmap(lambda at: st.sampled_from([token[:at], token[at:]]))
    )
    others = ["a", " ", "\n", "你", "🦙", '"', "\\", "</think>", "<think>", "user", "<tool_call>"]
    return st.lists(st.sampled_from(specials) | halves | st.sampled_from(others), max_size=5).map("".join)


def structure_of(renderer, ids) -> list[str]:
    return [renderer.tokenizer.convert_ids_to_tokens(token) for token in ids if token in renderer.special_ids]


def check(renderer, turns, tools=(), harmless=()) -> None:
    """The ids are those of the template's text, with the same special tokens as where nobody wrote any."""
    ids = renderer.prompt(turns, OutputSpec.of(tools))
    expected = renderer.prompt(harmless, OutputSpec.of([Tool(tool.name, "x", tool.parameters) for tool in tools]))
    assert structure_of(renderer, ids) == structure_of(renderer, expected)
    plain = renderer.chat_template.text(turns, answer_follows=True, tools=tools)
    assert renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == plain


@settings(max_examples=400)
@given(st.data(), st.sampled_from(sorted(RENDERERS)))
def test_nothing_that_is_written_becomes_structure(data, name):
    renderer = RENDERERS[name]
    text = poison(specials_of(renderer))
    roles = ["user", *["assistant", "user"] * data.draw(st.integers(0, 2))]
    if name != "turns" and data.draw(st.booleans()):
        roles.insert(0, "system")
    turns = [Message(role, data.draw(text)) for role in roles]
    harmless = [Message(turn.role, "x" if turn.content else "") for turn in turns]
    check(renderer, turns, harmless=harmless)


def called(draw):
    """A question, a call and its result, whose texts are all drawn."""
    arguments = json.dumps({draw(): [draw(), {draw(): draw()}]}, ensure_ascii=False)
    call = ToolCall(draw() or "id", draw() or "name", arguments)
    return [Message("user", draw()), Message("assistant", "", (call,)), Message("tool", draw(), tool_call_id=call.id)]


def tool(draw):
    parameters = {"type": "object", "properties": {draw(): {"type": "string", "enum": [draw()]}}}
    return Tool("weather", draw(), parameters)


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["hermes", "tiny tools"]))
def test_nothing_about_tools_becomes_structure(data, name):
    renderer = RENDERERS[name]
    text = poison(specials_of(renderer))
    check(renderer, called(lambda: data.draw(text)), [tool(lambda: data.draw(text))], called(lambda: "x"))


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["tiny", "chatml"]))
def test_nothing_about_tools_becomes_structure_in_the_generic_form(data, name):
    """Tools, calls and results are texts of plain turns there, and some of it people wrote."""
    renderer = RENDERERS[name]
    assert renderer.tool_call_format is GENERIC
    text = poison(specials_of(renderer))
    turns, tools = called(lambda: data.draw(text)), [tool(lambda: data.draw(text))]
    ids = renderer.prompt(turns, OutputSpec.of(tools))
    expected = renderer.prompt(called(lambda: "x"), OutputSpec.of([tool(lambda: "x")]))
    assert structure_of(renderer, ids) == structure_of(renderer, expected)
    shown = renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    call = turns[1].tool_calls[0]
    assert f'"name": "{call.name}", "arguments": {call.arguments}' in shown
    assert f'"content": {json.dumps(turns[2].content, ensure_ascii=False)}' in shown
    assert json.dumps(tools[0].definition["function"], ensure_ascii=False) in shown


@pytest.fixture(scope="module")
def llama(llama_tokenizer):
    return Renderer(llama_tokenizer, tuple(llama_tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|eot_id|>"])))


@settings(max_examples=80)
@given(st.data())
def test_llama_s_special_tokens_in_text_are_text(llama, data):
    renderer = llama
    text = poison(["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|python_tag|>"])
    roles = ["system", "user", "assistant", "user"]
    turns = [Message(role, data.draw(text)) for role in roles]
    check(renderer, turns, harmless=[Message(role, "x") for role in roles])
    tools = [Tool("weather", data.draw(text), {"type": "object", "properties": {data.draw(text): {}}})]
    call = ToolCall("id", data.draw(text) or "name", json.dumps({data.draw(text): data.draw(text)}))
    turns = [Message("user", data.draw(text)), Message("assistant", "", (call,)), Message("tool", data.draw(text))]
    harmless = [Message("user", "x"), Message("assistant", "", (ToolCall("id", "n", "{}"),)), Message("tool", "x")]
    check(renderer, turns, tools, harmless)


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_every_special_token_is_text_in_every_message(name):
    renderer = RENDERERS[name]
    for special in specials_of(renderer):
        for text in (special, f"a{special}b", special * 2):
            check(renderer, [Message("user", text)], harmless=[Message("user", "x")])


def test_llama_s_every_special_token_is_text(llama):
    everything = "|".join(specials_of(llama))
    assert everything.count("<|") == 256
    check(llama, [Message("user", everything)], harmless=[Message("user", "x")])


def test_text_beside_special_tokens_is_tokenized_as_ever():
    """`</s>` is four bytes here, spelled out; the structure is <s> <user> … </s> <bot>."""
    ids = RENDERERS["tiny"].prompt([Message("user", "a</s>b")])
    assert ids == [1, 4, *(6 + byte for byte in b"a</s>b"), 2, 5]
    assert all(special in SPECIALS for special in structure_of(RENDERERS["tiny"], ids))


def test_two_messages_do_not_add_up_to_a_special_token():
    """The template writes nothing between them, and no message alone holds one: this got through."""
    ids = RENDERERS["glued"].prompt([Message("system", "a<"), Message("user", "/s>b")])
    assert structure_of(RENDERERS["glued"], ids) == ["<s>"]


def test_a_key_that_is_a_word_of_the_template_is_text_too():
    """Keys that the template asks for stay as they are; `<s>` is among its words, and got through that way."""
    call = ToolCall("1", "f", '{"<s>": {"</s>": 1}}')
    ids = RENDERERS["tiny tools"].prompt([Message("user", "a"), Message("assistant", "", (call,))])
    assert structure_of(RENDERERS["tiny tools"], ids) == ["<s>", "<user>", "</s>", "<bot>", "</s>", "<bot>"]


def test_the_private_area_is_no_way_in():
    """It is where structure is told apart from text once there are special tokens in the text."""
    renderer, hidden = RENDERERS["tiny"], private("</s>")
    assert renderer.prompt([Message("user", hidden)]) == [1, 4, *(6 + byte for byte in hidden.encode()), 2, 5]
    with pytest.raises(UsageError, match="stands in the conversation"):
        renderer.prompt([Message("user", f"{hidden}</s>")])


def test_a_template_that_takes_text_out_puts_no_special_token_together():
    renderer = renderer_of("{{ bos_token }}{% for m in messages %}{{ m.content | replace('XX', '') }}{% endfor %}")
    ids = renderer.prompt([Message("user", "a</XXs>b")])
    assert renderer.tokenizer.decode(ids) == "<s>a</s>b"
    assert structure_of(renderer, ids) == ["<s>"]


def test_where_a_template_makes_special_tokens_of_text_that_is_refused():
    renderer = renderer_of("{{ bos_token }}{% for m in messages %}{{ m.content | lower }}{% endfor %}")
    assert renderer.tokenizer.decode(renderer.prompt([Message("user", "A < B")])) == "<s>a < b"
    with pytest.raises(UsageError, match="puts special tokens together"):
        renderer.prompt([Message("user", "a</S>b")])
    with pytest.raises(UsageError, match="the user's message holds the special token </s>"):
        renderer.prompt([Message("user", "A</s>b")])


def test_words_that_a_template_looks_for_are_found_beside_special_tokens():
    renderer = RENDERERS["thinking"]
    turns = [Message("user", "a"), Message("assistant", "<think>hm</think>b <|im_end|>"), Message("user", "c")]
    text = renderer.tokenizer.decode(renderer.prompt(turns))
    assert "hm" not in text
    assert text.count("<|im_end|>") == 4
    assert structure_of(renderer, renderer.prompt(turns)).count("<|im_end|>") == 3


SHOWN = "{% if style is defined %}{{ style.text }}{% for key in style.more %}{{ key }}{% endfor %}{% endif %}"


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["chatml", "headers", "inst", "hermes", "thinking", "glued"]))
def test_nothing_in_the_variables_of_a_request_becomes_structure(data, name):
    """A template writes them as it does messages, beside its own special tokens or right between them."""
    family = (FAMILIES | MORE)[name]
    renderer = RENDERERS[name]
    before = data.draw(st.booleans())
    template = SHOWN + family.template if before else family.template + SHOWN
    made = tokenizer_for(replace(family, template=template))
    renderer = Renderer(made, renderer.stop_token_ids)
    text = poison(specials_of(renderer))
    style = {"text": data.draw(text), "more": {data.draw(text): 1}}
    turns = [Message("user", data.draw(text))]
    ids = renderer.prompt(turns, chat_template_kwargs={"style": style})
    plain = renderer.prompt([Message("user", "x")], chat_template_kwargs={"style": {"text": "x", "more": {"x": 1}}})
    assert structure_of(renderer, ids) == structure_of(renderer, plain)
    shown = renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert style["text"] + next(iter(style["more"])) in shown


def test_a_variable_that_cannot_be_followed_is_refused_where_it_holds_a_special_token():
    """The template takes no marked text there, so every special token would be taken for its own."""
    picky = "{% if mode | upper == mode | lower %}{{ raise_exception('letters, please') }}{% endif %}{{ mode }}"
    renderer = renderer_of("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}" + picky)
    turns = [Message("user", "a")]
    assert renderer.tokenizer.decode(renderer.prompt(turns, chat_template_kwargs={"mode": "b"})) == "<s>ab"
    with pytest.raises(UsageError, match="the template's variable mode holds the special token </s>"):
        renderer.prompt(turns, chat_template_kwargs={"mode": "b</s>"})


@pytest.mark.parametrize(
    "name",
    ["messages", "tools", "add_generation_prompt", "bos_token", "strftime_now", "raise_exception"],
)
def test_variables_that_the_template_has_already_are_refused(name):
    with pytest.raises(UsageError, match=f"variable of the chat template may not be called {name}: "):
        RENDERERS["tiny"].prompt([Message("user", "a")], chat_template_kwargs={"other": 1, name: "x"})


def test_variables_that_were_trained_are_not_changed_by_a_request_and_others_are():
    """The prompt would not be the one that was trained. The same value, which clients send always, was refused too."""
    shown = renderer_of("{% for m in messages %}{{ m.content }}{% endfor %}{{ a }}{{ b }}")
    renderer = replace(shown, variables={"a": 1, "b": 2}, frozen=frozenset({"a"}))

    def prompt(**variables):
        return renderer.tokenizer.decode(renderer.prompt([Message("user", "x")], chat_template_kwargs=variables))

    assert (prompt(), prompt(b=3), prompt(a=1)) == ("x12", "x13", "x12")
    with pytest.raises(UsageError, match="was trained with the template's variable a as 1, got 2"):
        prompt(a=2)


@pytest.mark.parametrize("value", [object(), "\ud800", float("nan")])
def test_variables_that_are_no_json_are_refused(value):
    with pytest.raises(UsageError, match=r"cannot be written as JSON|variable mode is not Unicode text"):
        RENDERERS["tiny"].prompt([Message("user", "a")], chat_template_kwargs={"mode": value})


@pytest.mark.parametrize("write", ["{{ 1 // n }}", "{% for i in range(n) %}{% endfor %}", "{{ n | list }}"])
def test_a_template_that_fails_on_a_variable_refuses_it(write):
    """Only messages and tools were there to fail on, and they never made a template divide by zero."""
    renderer = renderer_of("{% for m in messages %}{{ m.content }}{% endfor %}" + write)
    bad = {"n": 10**9 if "range" in write else 0}
    with pytest.raises(UsageError, match="the chat template refuses this conversation"):
        renderer.prompt([Message("user", "a")], chat_template_kwargs=bad)


def test_training_still_refuses_them():
    talk = Conversation((Message("user", "a"), Message("assistant", "x<|im_end|>")))
    with pytest.raises(UsageError, match=r"the assistant's message holds the special token <\|im_end\|>"):
        RENDERERS["chatml"].render(talk)


def renderer_of(template):
    tokenizer = tokenizer_for(Family(template, FAMILIES["inst"].specials, "</s>"))
    return Renderer(tokenizer, (tokenizer.eos_token_id,))
