"""Examples of a conversation: all of an answer stands behind the ids that an engine gets, whatever template it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Tool, ToolCall
from arriero.prompt import OutputSpec, Renderer
from tests.prompt.reasoning import CLOSED, GEMMA4, OPENED, reasoning_tokenizer
from tests.prompt.templates import CALLING, FAMILIES, REASONING, Family, tokenizer_for

ALL = {**FAMILIES, **REASONING, **CALLING}
RENDERERS = {}
for name, family in ALL.items():
    made = tokenizer_for(family)
    RENDERERS[name] = Renderer(made, (made.convert_tokens_to_ids(family.end),))

content = st.text(st.sampled_from("ab \n\t你é[]/<"), min_size=1, max_size=8).filter(str.strip)
thought = st.none() | content
turns = st.lists(st.tuples(content, thought, content, st.booleans()), min_size=1, max_size=3)


def conversation(rows, system=None):
    """Questions, reasoning (in a field of its own, or in the text) and answers."""
    messages = [Message("system", system)] if system else []
    for question, reasoning, answer, inline in rows:
        messages.append(Message("user", question))
        if reasoning is not None and inline:
            messages.append(Message("assistant", f"<think>\n{reasoning}\n</think>\n\n{answer}"))
        else:
            messages.append(Message("assistant", answer, reasoning_content=reasoning))
    return Conversation(tuple(messages))


def decoded(renderer, ids):
    return renderer.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def learnt(renderer, example, span):
    """The text of a span, with how the prompt begins it."""
    start, end = span
    return decoded(renderer, example.ids[:start]), decoded(renderer, example.ids[start:end])


def squeezed(text):
    return "".join(text.split())


def check(renderer, talk, examples):
    """Every answer is in a span of its own, whole, behind the ids that answering gives the engine."""
    spans = [(example, span) for example in examples for span in example.loss_spans]
    answers = [index for index, message in enumerate(talk.messages) if message.role == "assistant"]
    for index, (rendered, (start, end)) in zip(answers, spans, strict=True):
        message = talk.messages[index]
        prompt = renderer.prompt(talk.messages[:index], OutputSpec(talk.tools))
        assert prompt == list(rendered.ids[:start])
        before, after = learnt(renderer, rendered, (start, end))
        at, said = 0, squeezed(after)
        for text in (message.reasoning_content or "", message.content):
            expected = squeezed(text).removeprefix("<think>" if squeezed(before).endswith("<think>") else "")
            at = said.find(expected, at) + len(expected)
            assert at >= len(expected), f"{expected} is learnt, in its place"
        opened = squeezed(before).endswith("<think>")
        assert not opened or "</think>" in after, "what the prompt opens is closed"
        assert rendered.ids[end - 1] in renderer.stop_token_ids
        assert sum(token in renderer.stop_token_ids for token in rendered.ids[start:end]) == 1


@settings(max_examples=400)
@given(st.sampled_from(sorted(ALL)), turns, thought, st.sampled_from(["auto", "each"]))
@example("mistral-new", [("q", "]<", "<", False)], None, "auto")  # the end of [/INST] was taken for the reasoning's
@example("chatml", [("q", "a", "ab", False)], None, "auto")
def test_every_answer_is_learnt_whole_behind_the_ids_that_an_engine_gets(name, rows, system, answers):
    """Templates that rewrite history were refused, or taught the bare answer where inference begins with <think>."""
    renderer = replace(RENDERERS[name], answers=answers)
    talk = conversation(rows, system if ALL[name].has_system else None)
    examples = renderer.examples(talk)
    check(renderer, talk, examples)
    if answers == "each":
        assert len(examples) == len(rows)
    elif name in FAMILIES and not any(reasoning for _, reasoning, _, inline in rows if not inline):
        assert len(examples) == 1, "where nothing is rewritten one example holds all"


def test_r1_spelled_out():
    """The prompt has begun the block, the history has lost it, and an answer without one closes an empty one."""
    renderer = RENDERERS["r1"]
    first, second = renderer.examples(conversation([("q", "r", "a", True), ("p", None, "b", False)]))
    assert learnt(renderer, first, *first.loss_spans) == (
        "<|bos|><|User|>q<|Assistant|><think>\n",
        "r\n</think>\n\na<|eos|>",
    )
    before = "<|bos|><|User|>q<|Assistant|>\n\na<|eos|><|User|>p<|Assistant|><think>\n"
    assert learnt(renderer, second, *second.loss_spans) == (before, "\n</think>\n\nb<|eos|>")


def test_qwen_s_first_reasoning_is_learnt():
    """It was deleted silently, and the bare answer was learnt."""
    renderer = RENDERERS["qwen3"]
    first, second = renderer.examples(conversation([("q", "r", "a", True), ("p", "s", "b", False)]))
    head = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(renderer, first, *first.loss_spans) == (head, "<think>\nr\n</think>\n\na<|im_end|>")
    before = f"{head}a<|im_end|>\n<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(renderer, second, *second.loss_spans) == (before, "<think>\ns\n</think>\n\nb<|im_end|>")


def test_the_last_answer_alone_is_an_example_where_history_is_rewritten():
    renderer = replace(RENDERERS["qwq"], answers="last")
    talk = conversation([("q", "r", "a", True), ("p", "s", "b", True)])
    assert renderer.examples(talk) == RENDERERS["qwq"].examples(talk)[-1:]


def test_all_answers_in_one_example_are_refused_where_history_is_rewritten():
    with pytest.raises(UsageError, match="rewrites earlier turns") as caught:
        replace(RENDERERS["qwen3"], answers="all").examples(
            conversation([("q", "r", "a", True), ("p", "s", "b", True)])
        )
    assert "--answers each" in caught.value.hint


def test_reasoning_where_the_prompt_has_closed_it_is_refused():
    made = tokenizer_for(REASONING["qwen3"])
    renderer = Renderer(made, (made.eos_token_id,), variables={"enable_thinking": False})
    check(renderer, plain := conversation([("q", None, "a", False)]), renderer.examples(plain))
    with pytest.raises(UsageError, match="asks for an answer without any"):
        renderer.examples(conversation([("q", "r", "a", True)]))


@pytest.mark.parametrize("name", sorted(REASONING))
def test_a_second_turn_is_answered(name):
    """Though its prompt is not how the prompt before and its answer went on."""
    talk = conversation([("q", "r", "a", True)])
    prompt = decoded(RENDERERS[name], RENDERERS[name].prompt([*talk.messages, Message("user", "p")]))
    assert "a<|" in prompt
    assert prompt.rindex("p") > prompt.index("a<|")


# --- calls of tools ---

TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}}})
LLAMA = (
    "{{ bos_token }}{% if tools %}{{ '<|head|>system<|/head|>\n\n' + tools[0] | tojson + '<|eot|>' }}{% endif %}"
    '{% for m in messages %}{% if m.tool_calls %}{{ \'<|head|>assistant<|/head|>\n\n{"name": "\''
    ' + m.tool_calls[0].function.name + \'", "parameters": \' + m.tool_calls[0].function.arguments | tojson'
    " + '}<|eot|>' }}"
    "{% else %}{{ '<|head|>' + ('ipython' if m.role == 'tool' else m.role) + '<|/head|>\n\n' + m.content | trim"
    " + '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
CALLERS = {name: RENDERERS[name] for name in CALLING}
made = tokenizer_for(Family(LLAMA, FAMILIES["headers"].specials, "<|eot|>"))
CALLERS["llama"] = Renderer(made, (made.convert_tokens_to_ids("<|eot|>"),))
argument = st.text('ab 你"\\é', min_size=1, max_size=6)
beside = st.just("") | content


def test_text_beside_a_call_that_reads_like_a_part_of_it_is_not_taken_for_learnt():
    call = ToolCall("c1", "f", json.dumps({"a": "x"}))
    result = Message("tool", "r", tool_call_id="c1")
    asked = (Message("user", "q"), Message("assistant", "name", (call,)), result, Message("assistant", "b"))
    with pytest.raises(UsageError, match="text beside the calls of message 1"):
        CALLERS["llama"].examples(Conversation(asked, (TOOL,)))


def test_reasoning_is_learnt_between_the_template_s_own_tags():
    """It was put between <think> and </think>, and what the prompt had opened was never closed."""
    made = tokenizer_for(
        Family(
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<user>' + m.content }}{% else %}"
            "{{ '<bot>' + m.content.split('[/THINK]')[-1] + eos_token }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<bot>[THINK]' }}{% endif %}",
            ("<bos>", "<user>", "<bot>", "<eos>"),
            "<eos>",
        )
    )
    renderer = Renderer(made, (made.eos_token_id,))
    first, second = renderer.examples(conversation([("q", "r", "a", False), ("p", None, "b", False)]))
    assert learnt(renderer, first, *first.loss_spans) == ("<bos><user>q<bot>[THINK]", "\nr\n[/THINK]\n\na<eos>")
    assert learnt(renderer, second, *second.loss_spans)[1] == "\n\n[/THINK]\n\nb<eos>"


def test_gemma_4_s_reasoning_is_learnt_in_its_channel():
    talk = conversation([("q", "r", "a", False)])
    renderer = Renderer(reasoning_tokenizer(GEMMA4), (2,), variables={"enable_thinking": True})
    (example,) = renderer.examples(talk)
    assert learnt(renderer, example, *example.loss_spans)[1] == "<|channel>thought\nr\n<channel|>a</s>"
    assert {OPENED, CLOSED} < {*example.ids}
    with pytest.raises(UsageError, match="asks for an answer without any"):
        Renderer(reasoning_tokenizer(GEMMA4), (2,)).examples(talk)


@settings(max_examples=150)
@given(st.sampled_from(sorted(CALLERS)), beside, argument, content)
def test_calls_and_the_text_beside_them_are_learnt_or_the_row_is_refused(name, text, value, answer):
    """Llama's and Mistral's templates drop the text beside a call: what was not in the loss was not reported either."""
    renderer = CALLERS[name]
    call = ToolCall("c1", "f", json.dumps({"a": value}, ensure_ascii=False))
    result = Message("tool", "r", tool_call_id="c1")
    asked = (Message("user", "q"), Message("assistant", text, (call,)), result, Message("assistant", answer))
    talk = Conversation(asked, (TOOL,))
    try:
        examples = renderer.examples(talk)
    except UsageError as error:
        assert text, "a call alone can be learnt"
        assert "text beside the calls of message 1" in error.message  # noqa: PT017  only where there is one
        return
    check(renderer, talk, examples)
    first = learnt(renderer, examples[0], examples[0].loss_spans[0])[1]
    assert "f" in first
    assert value in first or json.dumps(value, ensure_ascii=False)[1:-1] in first
