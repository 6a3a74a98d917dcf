"""Turns to be answered: what the template takes is taken, what it refuses is refused in its words, none is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Renderer
from tests.conftest import TEMPLATE, TOOL_TEMPLATE, build_tokenizer, ids_of
from tests.prompt.templates import FAMILIES, HERMES, THINKING, Family, tokenizer_for
from tests.prompt.test_templates import RENDERERS, content, conversation, turns

ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
)


def renderer_of(template, **options):
    return Renderer(build_tokenizer(template), (2,), **options)


def talk(text):
    """`"s:a u:b"` -> a system's message a and a user's b."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message(roles[part[0]], part[2:]) for part in text.split()]


def prompt_of(renderer, messages, **flags):
    return renderer.tokenizer.decode(renderer.prompt(messages, **flags), clean_up_tokenization_spaces=False)


# --- orders that training does not take ---


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("u:a a:b s:c u:d", "<s><user>a</s><bot>b</s><sys>c</s><user>d</s><bot>"),
        ("u:a s:b", "<s><user>a</s><sys>b</s><bot>"),
        ("s:a", "<s><sys>a</s><bot>"),
        ("s:a s:b", "<s><sys>a</s><sys>b</s><bot>"),
        ("a:a u:b", "<s><bot>a</s><user>b</s><bot>"),
        ("u:a u:b", "<s><user>a</s><user>b</s><bot>"),
        ("u:a a:b", "<s><user>a</s><bot>b"),
        ("a:b", "<s><bot>b"),
        ("u: a: u:", "<s><user></s><bot></s><user></s><bot>"),
        ("u:a a:", "<s><user>a</s><bot>"),
    ],
)
def test_turns_in_any_order_that_the_template_takes(asked, expected):
    """All of these used to be refused before the template was asked."""
    assert prompt_of(renderer_of(TEMPLATE), talk(asked)) == expected


def test_the_renderer_s_system_prompt_goes_first_where_none_does():
    renderer = renderer_of(TEMPLATE, system="z")
    assert prompt_of(renderer, talk("u:a s:b u:c")) == "<s><sys>z</s><user>a</s><sys>b</s><user>c</s><bot>"
    assert prompt_of(renderer, talk("s:b u:c")) == "<s><sys>b</s><user>c</s><bot>"


def test_training_is_as_strict_as_ever():
    for asked in ("u:a a:b s:c u:d a:e", "s:a", "a:a u:b a:c", "u:a u:b a:c", "u: a:b", "u:a a:"):
        with pytest.raises(UsageError, match=r"turn \d|at least one user message"):
            Conversation(tuple(talk(asked)))


def test_texts_of_one_role_are_joined_where_the_template_wants_turns_that_alternate():
    renderer = renderer_of(ALTERNATING)
    assert prompt_of(renderer, talk("u:a u:b a:c a:d u:e")) == "<s>[user]a\nb[assistant]c\nd[user]e"


def test_the_template_s_own_words_are_the_error():
    for asked in ("a:a u:b", "s:a u:b", "u:a a:b s:c"):
        with pytest.raises(UsageError, match="refuses this conversation: Roles must alternate user/assistant"):
            renderer_of(ALTERNATING).prompt(talk(asked))
    with pytest.raises(UsageError, match="System role not supported"):
        RENDERERS["turns"].prompt(talk("s:a u:b"))


def test_no_messages_are_no_conversation():
    with pytest.raises(UsageError, match="at least one message"):
        renderer_of(TEMPLATE).prompt([])


# --- tools: results that are missing, calls that are not JSON ---


def called(arguments, *more):
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": "1", "type": "function", "function": function}]
    return [Message("user", "a"), {"role": "assistant", "content": None, "tool_calls": calls}, *more]


def test_results_may_be_missing_and_arguments_need_not_be_json():
    """They used to end the conversation: an agent that was interrupted could not go on."""
    renderer = renderer_of(TOOL_TEMPLATE)
    assert prompt_of(renderer, called("{}", Message("user", "b"))).endswith("</tool_call></s><user>b</s><bot>")
    assert prompt_of(renderer, called("{}")).endswith("</tool_call></s><bot>")
    for arguments, shown in (('{"a', r'"{\"a"'), ("[1]", '"[1]"'), ('{"a": NaN}', r'"{\"a\": NaN}"')):
        text = prompt_of(renderer, called(arguments, Message("tool", "wrong", tool_call_id="1")))
        assert f'"arguments": {shown}}}' in text
        assert "wrong" in text


def test_a_result_without_its_call_is_a_turn_too():
    assert "<tool_response>\nb" in prompt_of(renderer_of(TOOL_TEMPLATE), [Message("user", "a"), Message("tool", "b")])


def test_no_result_is_lost_where_calls_are_written_one_at_a_time(llama_tokenizer):
    renderer = Renderer(llama_tokenizer, (128008, 128009))
    assert not renderer.native_call_format.several
    stray = Message("tool", "stray", tool_call_id="9")
    text = prompt_of(renderer, called("{}", Message("tool", "twelve", tool_call_id="1"), stray))
    assert text.count("twelve") == text.count("stray") == 1


# --- nothing is left out silently ---


def hermes():
    made = tokenizer_for(Family(HERMES, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
    return Renderer(made, (made.eos_token_id,))


@pytest.mark.parametrize("said", ["Be brief.", "a", "user", "im_start", "你", "🦙", '"', "</think>"])
def test_a_turn_that_the_template_leaves_out_is_refused_by_name(said):
    """This template shows a system turn at the beginning only; others just vanished from the prompt."""
    asked = [Message("user", "a user said a"), Message("system", said), Message("user", "a")]
    with pytest.raises(UsageError, match=r"leaves message 1 \(system\) out of the prompt"):
        hermes().prompt(asked)
    assert said in prompt_of(hermes(), [asked[1], asked[0]])


def test_what_a_template_writes_otherwise_is_not_left_out():
    """Escaped, put elsewhere, or without the reasoning: the turn is there."""
    escaped = renderer_of("{% for m in messages %}{{ m.content | tojson }}{% endfor %}")
    assert prompt_of(escaped, [Message("user", 'a"\nb')]) == r'"a\"\nb"'
    last = renderer_of("{% for m in messages[1:] %}{{ m.content }}{% endfor %}{{ messages[0].content }}")
    assert prompt_of(last, talk("s:x u:y a:z u:a")) == "yzax"
    thinking = renderer_of(THINKING.replace("<|im_start|>", "<user>").replace("<|im_end|>", "</s>"))
    assert "hm" not in prompt_of(thinking, [*talk("u:a"), Message("assistant", "<think>hm</think>b"), *talk("u:c")])


def test_a_second_system_turn_that_the_template_would_overwrite_is_joined():
    assert prompt_of(RENDERERS["inst"], talk("s:a s:b u:c")) == "<s>[INST] a\nb\n\nc [/INST]"


# --- continuing an answer ---


@settings(max_examples=200)
@given(st.sampled_from(sorted(FAMILIES)), turns, st.none() | content)
def test_a_continued_answer_is_what_training_has_before_its_end_token(name, pairs, system):
    family, renderer = FAMILIES[name], RENDERERS[name]
    whole = conversation(pairs, system if family.has_system else None).messages
    begun = whole[-1].content.rstrip() if family.strips else whole[-1].content
    turns = (*whole[:-1], Message("assistant", begun))
    rendered = renderer.render(Conversation(turns))
    assert renderer.prompt(turns) == list(rendered.ids[: rendered.loss_spans[-1][1] - 1])


STRIPPING = TEMPLATE.replace("m['content']", "m['content'] | trim")


@settings(max_examples=200)
@given(st.sampled_from([TEMPLATE, STRIPPING]), content, content, st.data())
def test_every_beginning_of_an_answer_is_a_prefix_of_what_training_has(template, question, answer, data):
    """One byte is one token here, so this holds at every character, blanks at its end included."""
    renderer = renderer_of(template)
    begun = answer[: data.draw(st.integers(1, len(answer)))]
    trained = renderer.render(Conversation((Message("user", question), Message("assistant", answer))))
    prompt = renderer.prompt([Message("user", question), Message("assistant", begun)])
    shown = begun.lstrip() if template == STRIPPING else begun
    start = trained.loss_spans[-1][0]
    if template == TEMPLATE or len(shown) <= len(answer.strip()):
        assert prompt == list(trained.ids[: len(prompt)])
    assert prompt[start:] == ids_of(shown)


@settings(max_examples=60)
@given(turns, content)
def test_llama_s_continued_answers_are_those_of_training(llama_tokenizer, pairs, system):
    renderer = Renderer(llama_tokenizer, (128001, 128008, 128009))
    turns = conversation([(ask, answer.rstrip()) for ask, answer in pairs], system).messages
    rendered = renderer.render(Conversation(turns))
    assert renderer.prompt(turns) == list(rendered.ids[: rendered.loss_spans[-1][1] - 1])


def test_blanks_at_the_end_of_a_begun_answer_stay():
    """Who puts both parts together has the whole answer; a template that strips would have lost one."""
    text = prompt_of(RENDERERS["headers"], [Message("user", "a"), Message("assistant", " Sure, ")])
    assert text.endswith("<|head|>assistant<|/head|>\n\nSure, ")


def test_a_template_that_rewrites_earlier_turns_can_answer_though_not_train():
    """R1's distilled models begin an answer with <think> and show earlier ones without: only one turn was possible."""
    template = (
        "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<bot><sys>{% endif %}"
    )
    assert prompt_of(renderer_of(template), talk("u:a a:b u:c")) == "<user>a<bot>b<user>c<bot><sys>"
    assert prompt_of(renderer_of(template), talk("u:a a:b")) == "<user>a<bot>b"


def test_an_answer_that_is_not_shown_cannot_be_continued():
    with pytest.raises(UsageError, match="cannot be continued"):
        renderer_of("{{ messages[0].content }}").prompt(talk("u:a a:b"))
