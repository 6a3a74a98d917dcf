"""The renderer: expected ids spelled out (`<s>` 1, `</s>` 2, `<sys>` 3, `<user>` 4, `<bot>` 5, a byte is 6 + byte)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Renderer
from tests.conftest import TEMPLATE, build_tokenizer, ids_of

A, B, C = (6 + ord(letter) for letter in "abc")


def renderer(template=TEMPLATE, **options):
    return Renderer(build_tokenizer(template), (2,), **options)


def talk(*turns):
    return Conversation(tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)))


def test_mask_covers_the_answer_and_the_token_that_ends_it():
    rendered = renderer().render(talk("a", "bc"))
    assert rendered.ids == (1, 4, A, 2, 5, B, C, 2)
    assert rendered.mask == (False, False, False, False, False, True, True, True)


def test_every_answer_of_a_longer_conversation_is_trained():
    rendered = renderer(system="c").render(talk("a", "b", "c", "a"))
    assert rendered.ids == (1, 3, C, 2, 4, A, 2, 5, B, 2, 4, C, 2, 5, A, 2)
    assert [i for i, loss in enumerate(rendered.mask) if loss] == [8, 9, 14, 15]


def test_what_follows_the_end_token_is_not_trained():
    """ChatML puts a newline after <|im_end|>; the model must not learn to write it."""
    rendered = renderer(TEMPLATE.replace("+ '</s>'", "+ '</s>\n'")).render(talk("a", "b"))
    assert rendered.ids == (1, 4, A, 2, 16, 5, B, 2, 16)
    assert rendered.mask == (False, False, False, False, False, False, True, True, False)


def test_a_conversation_s_own_system_prompt_goes_first():
    own = Conversation((Message("system", "b"), *talk("a", "c").messages))
    assert renderer(system="c").render(own).ids[:4] == (1, 3, B, 2)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(st.lists(text, min_size=1, max_size=4).filter(lambda turns: len(turns) % 2 == 0 or len(turns) == 1), text)
def test_the_served_prompt_is_what_training_put_before_the_answer(turns, answer):
    turns = turns if len(turns) % 2 else [*turns, "again"]
    made = renderer(system="Be brief.")
    asked = talk(*turns)
    trained = made.render(Conversation((*asked.messages, Message("assistant", answer))))
    prompt = made.prompt(asked.messages)
    assert list(trained.ids[: len(prompt)]) == prompt
    assert list(trained.ids[len(prompt) :]) == [*ids_of(answer), 2]
    assert trained.mask[len(prompt) :] == (True,) * (len(ids_of(answer)) + 1)


def test_exactly_one_beginning_of_sequence():
    """The tutorial tokenized rendered text again, which put a second one in front."""
    assert renderer().prompt(talk("a").messages).count(1) == 1


def test_a_template_that_rewrites_earlier_turns_teaches_each_answer_behind_its_own_prompt():
    """It was refused, and one such row ended the run."""
    first, second = renderer("{{ messages | length }}" + TEMPLATE).examples(talk("a", "b", "c", "a"))
    assert first.ids == (*ids_of("1"), 1, 4, A, 2, 5, B, 2)
    assert second.ids == (*ids_of("3"), 1, 4, A, 2, 5, B, 2, 4, C, 2, 5, A, 2)
    assert (first.loss_spans, second.loss_spans) == (((6, 8),), ((12, 14),))


def test_a_template_without_an_end_token_is_refused():
    """Training without one is how replies come to run on."""
    with pytest.raises(UsageError, match="no stop token after message 1"):
        renderer(TEMPLATE.replace("+ '</s>'", "")).render(talk("a", "b"))


def test_a_template_s_own_refusal_is_passed_on():
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UsageError, match="System role not supported"):
        renderer(refusing).prompt(talk("a").messages)


def test_ids_are_those_of_the_tokenizer_s_own_method():
    tokenizer = build_tokenizer()
    plain = [{"role": "user", "content": "a 骆"}, {"role": "assistant", "content": "b"}]
    expected = tokenizer.apply_chat_template(plain, tokenize=True, return_dict=False)
    assert list(renderer().render(Conversation.of(plain)).ids) == expected
    expected = tokenizer.apply_chat_template(plain[:1], add_generation_prompt=True, return_dict=False)
    assert renderer().prompt(plain[:1]) == expected


def test_today_is_frozen():
    dated = "{{ strftime_now('%Y') }}{{ messages[0]['content'] }}"
    assert renderer(dated, today="1999-01-31").prompt(talk("a").messages) == [*ids_of("1999"), A]


def test_variables_reach_the_template():
    dated = "{{ date_string }}{{ messages[0]['content'] }}"
    assert renderer(dated, variables={"date_string": "b"}).prompt(talk("a").messages) == [B, A]


def test_a_conversation_without_an_answer_teaches_nothing():
    with pytest.raises(UsageError, match="no assistant message"):
        renderer().render(talk("a"))
