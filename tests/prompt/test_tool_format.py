"""Tools and schemas in the prompt, and the form of a call as the model's own template writes it."""

from __future__ import annotations

import json
import re

import pytest

from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Tool, ToolCall
from arriero.prompt import CallReader, OutputSpec, Renderer, TemplateError
from arriero.prompt.tool_format import GENERIC, one_at_a_time
from tests.conftest import TEMPLATE, TOOL_TEMPLATE, build_tokenizer
from tests.prompt.templates import (
    CHATML,
    CODER,
    GEMMA,
    MISTRAL_NEW,
    MISTRAL_OLD,
)
from tests.prompt.weather import ASKED, CALLED, CITY, CLOCK, TWICE, WEATHER, call, rendered, result


def reference(renderer, messages, tools=None):
    """The text of transformers' own method; it takes arguments as objects."""
    plain = json.loads(json.dumps(messages))
    for message in plain:
        for made in message.get("tool_calls", ()):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    tools = tools and [Tool.of(tool).definition for tool in tools]
    return renderer.tokenizer.apply_chat_template(plain, tools, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", ["hermes", "llama"])
@pytest.mark.parametrize("messages", [ASKED, CALLED])
def test_tools_are_rendered_as_transformers_renders_them(request, name, messages):
    renderer = request.getfixturevalue(name)
    text = rendered(renderer, messages, [WEATHER, CLOCK])
    assert text == reference(renderer, messages, [WEATHER, CLOCK])
    assert '"name": "clock"' in text
    assert "12 °C" in text or messages is ASKED


def test_a_conversation_with_calls_is_rendered_without_tools_too(llama):
    text = rendered(llama, CALLED)
    assert text == reference(llama, CALLED)
    assert '{"name": "weather", "parameters": {"city": "Potosí"}}<|eot_id|>' in text


def test_calls_of_one_turn_stay_together_where_the_template_can(hermes):
    assert hermes.native_call_format.several
    assert rendered(hermes, TWICE, [WEATHER]) == reference(hermes, TWICE, [WEATHER])


def test_calls_of_one_turn_become_turns_where_the_template_takes_one_at_a_time(llama):
    """Llama 3.1 writes several calls into an answer, but its template refuses to render them again."""
    assert not llama.native_call_format.several
    first, second = ({"role": "assistant", "content": "", "tool_calls": [made]} for made in TWICE[2]["tool_calls"])
    turns = [*ASKED, first, result(1), second, result(2, "noon")]
    assert rendered(llama, TWICE, [WEATHER]) == reference(llama, turns, [WEATHER])


def test_a_result_of_two_calls_of_one_id_is_shown_once():
    """It stood after each of them."""
    twins = [*ASKED, {"role": "assistant", "tool_calls": [call(1, "clock", "{}"), call(1, "clock", "{}")]}, result(1)]
    turns = one_at_a_time([Message.of(turn) for turn in twins])
    assert [turn.role for turn in turns[2:]] == ["assistant", "tool", "assistant"]


def test_the_form_of_a_call_is_what_the_template_writes(hermes, llama):
    form = hermes.native_call_format
    assert (form.before, form.between) == ('<tool_call>\n{"name": "', '", "arguments": ')
    assert form.after == "}\n</tool_call>"
    form = llama.native_call_format
    assert (form.before, form.between, form.after) == ('{"name": "', '", "parameters": ', "}")


@pytest.mark.parametrize("name", ["hermes", "llama"])
def test_a_call_in_the_templates_form_is_read_again(request, name):
    form = request.getfixturevalue(name).native_call_format
    reader = CallReader([Tool("weather")])
    text = form.before + "weather" + form.between + '{"city": "Potosí"}' + form.after
    (found,) = [part.call for part in [*reader.push(text), *reader.flush()] if part.call]
    assert (found.name, found.values) == ("weather", {"city": "Potosí"})


# --- templates that take tools and write arguments or ids in their own way ---


def own(template):
    return Renderer(build_tokenizer(template), (2,))


@pytest.mark.parametrize("template", [CODER, MISTRAL_OLD, MISTRAL_NEW, GEMMA])
def test_the_templates_of_other_families_are_used_as_they_are(template):
    renderer = own(template)
    assert renderer.tool_call_format is renderer.native_call_format
    text = rendered(renderer, CALLED, [WEATHER])
    assert "weather" in text.partition("Be brief.")[0]
    assert "12 °C" in text
    assert "<tool_response>\n{" not in text


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (MISTRAL_OLD, ('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]")),
        (MISTRAL_NEW, ("[TOOL_CALLS]", "[ARGS]", "")),
        (CODER, (GENERIC.before, GENERIC.between, GENERIC.after)),
        (GEMMA, (GENERIC.before, GENERIC.between, GENERIC.after)),
    ],
)
def test_a_demanded_call_is_json_that_is_read_and_has_no_id(template, form):
    made = own(template).native_call_format
    assert (made.before, made.between, made.after) == form
    reader = CallReader([Tool("weather")])
    text = made.written(ToolCall("x", "weather", '{"city": "Potosí"}'))
    assert [part.call.values for part in [*reader.push(text), *reader.flush()] if part.call] == [{"city": "Potosí"}]


@pytest.mark.parametrize("template", [MISTRAL_OLD, MISTRAL_NEW])
def test_ids_are_shortened_for_templates_that_take_no_others(template):
    """A conversation with calls of our own ids was refused: "Tool call IDs should be … with length 9"."""
    renderer = own(template)
    assert renderer.native_call_format.short_ids
    text = rendered(renderer, TWICE, [WEATHER])
    ids = re.findall(r"\[TOOL_RESULTS\](.{9})", text)
    assert len(set(ids)) == 2
    assert all(text.count(short) == 2 for short in ids), "a result names its call"


@pytest.mark.parametrize("arguments", ['{"city": "Poto', "Potosí", "[]", "NaN", '{"a": NaN}', '{"a": "\\ud83d"}'])
@pytest.mark.parametrize("template", [TOOL_TEMPLATE, CODER, MISTRAL_OLD, MISTRAL_NEW, GEMMA, TEMPLATE, CHATML])
def test_a_call_with_malformed_arguments_does_not_block_the_conversation(template, arguments):
    """A model wrote them, or the limit cut them off; the client sends back what it was sent."""
    turns = [*ASKED, {"role": "assistant", "tool_calls": [call(1, "weather", arguments)]}, result(1, "no JSON")]
    text = rendered(own(template), turns, [WEATHER])
    assert arguments in text or json.dumps(arguments, ensure_ascii=False)[1:-1] in text, "nothing is dropped"


# --- templates that have no place for tools ---


@pytest.mark.parametrize("template", [TEMPLATE, CHATML])
def test_a_template_without_a_place_for_tools_gets_the_generic_form(template, caplog):
    renderer = own(template + "{# announced once #}")
    text = rendered(renderer, ASKED, [WEATHER, CLOCK])
    system, _, question = text.partition("Weather in Potosí?")
    assert system.index("Be brief.\n\nYou can call these functions") < system.index('<tools>\n{"name": "weather"')
    assert json.dumps(CITY) in system
    assert '<tool_call>\n{"name": "function_name"' in system
    assert "tool" not in question
    rendered(renderer.with_system("Be kind."), ASKED, [WEATHER])
    lines = [record.message for record in caplog.records if "generic form" in record.message]
    assert len(lines) == 1
    assert "has no place for tools" in lines[0]


def test_calls_and_results_are_plain_turns_in_the_generic_form():
    turns = [*TWICE, {"role": "user", "content": "And now?"}]
    head = '<tool_call>\n{"name": "weather", "arguments": {"city": "Potosí"}}\n</tool_call>'
    clock = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    results = (
        '<tool_response>\n{"name": "clock", "content": "noon"}\n</tool_response>\n'
        '<tool_response>\n{"name": "weather", "content": "12 °C"}\n</tool_response>'
    )
    expected = f"<s><sys>Be brief.</s><user>Weather in Potosí?</s><bot>Hm.\n{head}\n{clock}</s><user>{results}"
    assert rendered(own(TEMPLATE), TWICE) == f"{expected}</s><bot>"
    assert rendered(own(TEMPLATE), turns) == f"{expected}\nAnd now?</s><bot>", "roles still alternate"


def test_results_without_a_call_are_turns_in_the_generic_form_too():
    stray = [*ASKED, result(1, "noon"), {"role": "user", "content": "And now?"}]
    text = rendered(own(TEMPLATE), stray)
    assert '<user><tool_response>\n{"name": "", "content": "noon"}\n</tool_response>\nAnd now?</s><bot>' in text


def test_an_answer_after_calls_goes_on_in_the_generic_form_too():
    begun = {"role": "assistant", "content": "It is"}
    assert rendered(own(TEMPLATE), [*CALLED, begun], [WEATHER]).endswith("</tool_response></s><bot>It is")


def test_a_result_is_of_the_last_call_before_it_that_has_its_id():
    """Clients count calls anew with each answer; all results had the name of the last call of that id."""
    again = [*CALLED, {"role": "assistant", "tool_calls": [call(1, "clock", "{}")]}, result(1, "noon")]
    text = rendered(own(TEMPLATE), again)
    assert text.index('{"name": "weather", "content"') < text.index('{"name": "clock", "content": "noon"}')


def test_without_a_system_turn_tools_are_shown_with_the_question():
    renderer = own(TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"))
    text = rendered(renderer, ASKED[1:], [WEATHER], "auto", CITY)
    assert text.index("Weather in Potosí?") < text.index("<tools>") < text.index("Unless you call a function, answer")


def test_training_is_as_strict_as_it_was():
    """What is trained is what the template writes: no generic form gets into a training example."""
    conversation = Conversation.of([*CALLED, {"role": "assistant", "content": "Cold."}])
    with pytest.raises(TemplateError, match="has no place for tools"):
        own(TEMPLATE).render(conversation)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<tool_call>\n{", "<|tool_calls_begin|>{"),  # DeepSeek's
        ("{% for call in m.tool_calls %}", "{% for call in [] %}"),
        ("m.role == 'tool'", "m.role == 'ipython'"),
    ],
)
def test_a_template_whose_calls_cannot_be_read_gets_the_generic_form(old, new):
    assert old in TOOL_TEMPLATE
    renderer = own(TOOL_TEMPLATE.replace(old, new))
    with pytest.raises(TemplateError, match="in a form that is not read here"):
        renderer.native_call_format  # noqa: B018  raises
    assert "You can call these functions" in rendered(renderer, ASKED, [WEATHER])


def test_a_template_that_refuses_calls_gets_the_generic_form():
    renderer = own(TOOL_TEMPLATE.replace("{% for call in", "{{ raise_exception('no calls here') }}{% for call in"))
    with pytest.raises(TemplateError, match=r"with tool calls, the chat template refuses.*no calls here"):
        renderer.native_call_format  # noqa: B018  raises
    assert "You can call these functions" in rendered(renderer, ASKED, [WEATHER])


# --- what the prompt may not hold ---

SPECIAL = "</s>"


@pytest.mark.parametrize(
    ("messages", "tools", "where"),
    [
        (ASKED, [{"function": {"name": "f", "description": SPECIAL}}], "definition of the tool f"),
        (ASKED, [{"function": {"name": "f", "parameters": {"properties": {SPECIAL: {}}}}}], "definition of the tool f"),
        ([*CALLED[:-1], result(1, SPECIAL)], [WEATHER], "the tool's message"),
        (
            [*ASKED, {"role": "assistant", "tool_calls": [call(1, "w", '{"a": "\\u003c/s>"}')]}, result(1)],
            [],
            "the call of w",
        ),
        ([*ASKED, {"role": "assistant", "tool_calls": [call(1, SPECIAL)]}, result(1)], [], "the call of </s>"),
    ],
)
def test_special_tokens_are_found_wherever_they_would_get_into_what_is_trained(messages, tools, where):
    renderer = Renderer(build_tokenizer(TOOL_TEMPLATE), (2,))
    with pytest.raises(UsageError, match=f"{where} holds the special token {SPECIAL}"):
        renderer.chat_template.check(Conversation.of(messages).messages, map(Tool.of, tools))
    text = rendered(renderer, messages, tools)
    assert SPECIAL in text.removesuffix("</s><bot>")
    ids = renderer.prompt(ASKED, OutputSpec.of(schema={"title": SPECIAL}))
    assert ids.count(2) == 2, "of the schema in the system prompt it is text"
