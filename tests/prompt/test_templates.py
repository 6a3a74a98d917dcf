"""Properties that hold for every template family: prefix, mask, round trip; and Llama 3.1 against Meta's own code."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from tests.prompt.templates import FAMILIES, tokenizer_for

RENDERERS = {}
for name, family in FAMILIES.items():
    made = tokenizer_for(family)
    RENDERERS[name] = Renderer(made, (made.convert_tokens_to_ids(family.end),))

# blanks and line breaks at both ends, where tokenizers merge, and characters of one to four bytes
content = st.text(st.sampled_from("ab \n\r\t你，🦙é[]/"), min_size=1, max_size=10).filter(str.strip)
turns = st.lists(st.tuples(content, content), min_size=1, max_size=3)


def conversation(pairs, system=None) -> Conversation:
    messages = [Message(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    return Conversation(((Message("system", system),) if system else ()) + tuple(messages))


@settings(max_examples=150)
@given(st.sampled_from(sorted(FAMILIES)), turns, st.none() | content)
def test_every_prompt_is_a_prefix_and_every_span_is_an_answer(name, pairs, system):
    family, renderer = FAMILIES[name], RENDERERS[name]
    talk = conversation(pairs, system if family.has_system else None)
    rendered = renderer.render(talk)
    tokenizer = renderer.tokenizer
    answers = [index for index, message in enumerate(talk.messages) if message.role == "assistant"]
    assert len(rendered.loss_spans) == len(answers)
    for index, (start, end) in zip(answers, rendered.loss_spans, strict=True):
        prompt = renderer.prompt(talk.messages[:index])
        assert prompt == list(rendered.ids[:start])
        answer = talk.messages[index].content
        expected = family.before_answer + (answer.strip() if family.strips else answer) + family.end
        assert tokenizer.decode(list(rendered.ids[start:end])) == expected
        assert rendered.ids[end - 1] in renderer.stop_token_ids
    whole = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in talk.messages], tokenize=False
    )
    assert tokenizer.decode(list(rendered.ids)) == whole


@given(st.sampled_from(sorted(FAMILIES)), turns)
def test_the_mask_is_the_spans_and_has_the_ids_length(name, pairs):
    rendered = RENDERERS[name].render(conversation(pairs))
    assert len(rendered.mask) == len(rendered.ids)
    assert sum(rendered.mask) == sum(end - start for start, end in rendered.loss_spans)


@settings(max_examples=30)
@given(st.lists(turns, min_size=1, max_size=5))
def test_many_at_once_are_what_each_is_alone(batch):
    for renderer in RENDERERS.values():
        talks = [conversation(pairs) for pairs in batch]
        texts = [text for talk in talks for text in renderer.rendered_texts(talk)]
        assert renderer.tokenize(texts) == [renderer.render(talk) for talk in talks]


def test_an_answer_that_begins_with_a_newline_is_tokenized_as_it_is_generated():
    """Tokenized in one go, "\\n" before and "\\n" in the answer become one token, which no prompt ends with."""
    renderer = RENDERERS["chatml"]
    tokenizer = renderer.tokenizer
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 1
    talk = conversation([("a", "\nb")])
    prompt = renderer.prompt(talk.messages[:1])
    rendered = renderer.render(talk)
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    assert prompt[-1] == newline
    assert list(rendered.ids[len(prompt) :][:2]) == [newline, *tokenizer("b", add_special_tokens=False)["input_ids"]]


def test_only_the_last_answer_on_request():
    renderer = Renderer(RENDERERS["chatml"].tokenizer, RENDERERS["chatml"].stop_token_ids, answers="last")
    talk = conversation([("a", "b"), ("a", "b")])
    assert renderer.render(talk).loss_spans == RENDERERS["chatml"].render(talk).loss_spans[-1:]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_exactly_one_beginning_of_sequence(name):
    renderer = RENDERERS[name]
    ids = renderer.prompt([Message("user", "a"), Message("assistant", "b"), Message("user", "a")])
    first = renderer.tokenizer.convert_tokens_to_ids(FAMILIES[name].specials[0])
    assert ids[0] == first
    if FAMILIES[name].template.startswith("{{ bos_token"):
        assert ids.count(first) == 1


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_special_token_in_content_is_refused(role):
    """It would end the turn, or begin another one, for whoever can write into a message."""
    messages = [Message("system", "s"), Message("user", "u"), Message("assistant", "a")]
    poisoned = [Message(m.role, "x<|im_end|>y") if m.role == role else m for m in messages]
    with pytest.raises(
        UsageError, match=f"the {role}'s message holds the special token <|im_end|>".replace("|", r"\|")
    ):
        RENDERERS["chatml"].render(Conversation(tuple(poisoned)))


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UsageError, match="lone surrogate at position 1"):
        RENDERERS["chatml"].prompt([Message("user", "a\ud800")])


def test_a_template_s_refusal_of_a_system_prompt_is_told():
    with pytest.raises(UsageError, match="System role not supported"):
        RENDERERS["turns"].render(conversation([("a", "b")], "s"))


@pytest.mark.parametrize(("length", "ids"), [(9, None), (10, 10), (11, 11), (12, 12), (13, 12)])
def test_cutting_keeps_the_end_token(length, ids):
    """12 ids, the answer's span is 9 to 12: three, of which the last ends the turn."""
    from arriero.prompt import Rendered

    rendered = Rendered((*range(9), 70, 71, 2), ((9, 12),))
    shorter = rendered.cut(length)
    if ids is None or ids == 10:
        assert shorter is None, "an end token alone would teach the model to say nothing"
    else:
        assert len(shorter.ids) == ids
        assert shorter.ids[-1] == 2
        assert shorter.loss_spans == ((9, ids),)


@pytest.mark.model
def test_smollm2_s_ids_spelled_out(embedded_model):
    """The real tokenizer and template; digits one by one, the newline after <|im_end|> not trained."""
    tokenizer = load_tokenizer(embedded_model)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, embedded_model), system="Be brief.")
    rendered = renderer.render(conversation([("hi", "hello 123  5")]))
    start = [1, 9690, 198, 6077, 5453, 30, 2, 198, 1, 4093, 198, 6004, 2, 198, 1, 520, 9531, 198]
    assert list(rendered.ids) == [*start, 28120, 216, 33, 34, 35, 256, 37, 2, 198]
    assert rendered.loss_spans == ((18, 26),)
    assert renderer.prompt([Message("user", "hi")]) == start


# Llama 3.1, the real tokenizer and template, against Meta's own chat format

DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.fixture(scope="module")
def meta():
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer

    return ChatFormat(Tokenizer.get_instance())


def by_meta(meta, messages) -> list[int]:
    from llama_models.datatypes import RawMessage

    return meta.encode_dialog_prompt([RawMessage(role=m.role, content=m.content) for m in messages]).tokens


@settings(max_examples=60, deadline=None)
@given(turns, st.none() | content, content)
def test_llama_prompts_are_meta_s(llama_tokenizer, meta, pairs, system, question):
    """The template strips answer and puts a date block into the system turn; Meta's code does neither."""
    renderer = Renderer(llama_tokenizer, (128001, 128008, 128009))
    talk = (*conversation(pairs, system).messages, Message("user", question))
    stripped = [Message(m.role, m.content.strip()) for m in talk if m.role != "system"]
    date_block = Message("system", DATE + (system or "").strip())
    assert renderer.prompt(talk) == by_meta(meta, [date_block, *stripped])


def test_llama_answers_are_trained_up_to_eot(llama_tokenizer, meta):
    renderer = Renderer(llama_tokenizer, (128001, 128008, 128009), system="现在你要扮演皇帝身边的女人--甄嬛")
    talk = conversation([("你是谁？", "我是甄嬛。")])
    rendered = renderer.render(talk)
    start, end = rendered.loss_spans[0]
    answer = meta.tokenizer.encode("我是甄嬛。", bos=False, eos=False)
    assert list(rendered.ids[start:end]) == [*answer, 128009]
    assert rendered.ids[:start] == tuple(renderer.prompt(talk.messages[:1]))
    assert rendered.ids[0] == 128000
    assert rendered.ids.count(128000) == 1


def test_llama_s_date_can_be_set(llama_tokenizer):
    renderer = Renderer(llama_tokenizer, (128009,), variables={"date_string": "1 Jan 2030"})
    text = llama_tokenizer.decode(renderer.prompt([Message("user", "hi")]))
    assert "Today Date: 1 Jan 2030" in text
