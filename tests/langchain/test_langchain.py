"""LangChain over a scripted engine: what its own suites leave unchecked, see test_suites.py."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import aclosing
from dataclasses import replace
from typing import get_args

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import ConfigurableField

from arriero.chat import load
from arriero.engines import Generation
from arriero.engines.registry import EngineName
from arriero.errors import NotFoundError, UsageError
from arriero.langchain import ArrieroLLM, ChatArriero
from arriero.messages import Sampling
from tests.conftest import TOOL_TEMPLATE, ScriptedEngine, ids_of
from tests.prompt.reasoning import QWEN3
from tests.prompt.test_options import OWN

HI = [1, 4, *ids_of("hi"), 2, 5]  # <s> <user> h i </s> <bot>
both = pytest.mark.parametrize("kind", [ArrieroLLM, ChatArriero])


def text(output) -> str:
    """The text of an answer or of a part of one: LLMs give strings, chat models messages."""
    return output if isinstance(output, str) else output.text


# --- what the engine is asked ---


def test_a_text_prompt_is_one_user_message(scripted_chat):
    chat = scripted_chat("hello")
    assert ArrieroLLM(chat=chat).invoke("hi") == "hello"
    assert chat.engine.asked[0][0] == HI == chat.render([{"role": "user", "content": "hi"}])


def test_a_conversation_gives_the_ids_of_chat_render(scripted_chat):
    chat = scripted_chat("x")
    turns = [SystemMessage("Be kind."), HumanMessage("hi"), AIMessage("yo"), HumanMessage("骆")]
    ChatArriero(chat=chat).invoke(turns)
    system, last = ids_of("Be kind."), ids_of("骆")
    expected = [1, 3, *system, 2, 4, *ids_of("hi"), 2, 5, *ids_of("yo"), 2, 4, *last, 2, 5]
    assert chat.engine.asked[0][0] == expected
    roles = ["system", "user", "assistant", "user"]
    ours = [{"role": role, "content": turn.content} for role, turn in zip(roles, turns, strict=True)]
    assert chat.render(ours) == expected


@both
def test_the_system_field_goes_in_front(scripted_chat, kind):
    chat = scripted_chat("x")
    kind(chat=chat, system="Be kind.").invoke("hi")
    assert chat.engine.asked[0][0] == [1, 3, *ids_of("Be kind."), 2, *HI[1:]]


def test_a_system_message_replaces_the_system_field(scripted_chat):
    chat = scripted_chat("x")
    ChatArriero(chat=chat, system="Be kind.").invoke([("system", "Be brief."), ("human", "hi")])
    assert chat.engine.asked[0][0] == [1, 3, *ids_of("Be brief."), 2, *HI[1:]]


def test_text_parts_are_joined_and_messages_in_a_row_are_turns(scripted_chat):
    chat = scripted_chat("x")
    parts = HumanMessage(content=["a", {"type": "text", "text": "b"}])
    ChatArriero(chat=chat).invoke([parts, HumanMessage("c")])
    assert chat.engine.asked[0][0] == [1, 4, *ids_of("ab"), 2, 4, *ids_of("c"), 2, 5]


def test_an_ai_message_at_the_end_is_continued(scripted_chat):
    """It used to be refused, and with it prefill."""
    chat = scripted_chat("!")
    assert ChatArriero(chat=chat).invoke([HumanMessage("hi"), AIMessage("yo")]).content == "!"
    assert chat.engine.asked[0][0] == [*HI, *ids_of("yo")]


def test_calls_that_are_not_json_are_shown_as_text(scripted_chat):
    """They used to end the conversation."""
    chat = scripted_chat("x", template=TOOL_TEMPLATE)
    wrong = AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None}])
    ChatArriero(chat=chat).invoke([HumanMessage("hi"), wrong, ToolMessage("not JSON", tool_call_id="1")])
    assert '{"name": "f", "arguments": "{"}' in chat.renderer.tokenizer.decode(chat.engine.asked[0][0])


def test_an_answer_can_be_sent_back(scripted_chat):
    chat = scripted_chat("yo")
    model = ChatArriero(chat=chat, output_version="v1")  # its content is a list of parts
    model.invoke([HumanMessage("hi"), model.invoke("hi"), HumanMessage("hi")])
    assert chat.engine.asked[1][0] == [*HI, *ids_of("yo"), 2, *HI[1:]]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (FunctionMessage("3", name="f"), "FunctionMessage"),
        (ChatMessage("hi", role="user"), "ChatMessage"),
        (HumanMessage([{"type": "image", "url": "http://127.0.0.1/a.png"}]), "type image"),
    ],
)
def test_what_the_model_cannot_be_given_is_named(scripted_chat, message, named):
    chat = scripted_chat("x")
    with pytest.raises(UsageError, match=named):
        ChatArriero(chat=chat).invoke([HumanMessage("hi"), message])
    assert chat.engine.asked == []


def test_chains(scripted_chat):
    chat = scripted_chat("yes")
    for prompt, model in (
        (ChatPromptTemplate.from_messages([("system", "Be kind."), ("human", "{word}")]), ChatArriero(chat=chat)),
        (PromptTemplate.from_template("{word}"), ArrieroLLM(chat=chat, system="Be kind.")),
    ):
        chain = prompt | model | StrOutputParser()
        assert chain.invoke({"word": "hi"}) == "yes"
        assert "".join(chain.stream({"word": "hi"})) == "yes"
    expected = [1, 3, *ids_of("Be kind."), 2, *HI[1:]]
    assert [asked[0] for asked in chat.engine.asked] == [expected] * 4


# --- parameters ---


@both
def test_zero_is_a_value(scripted_chat, kind):
    chat = scripted_chat("x")
    chat.defaults = replace(chat.defaults, temperature=0.7, top_k=50)
    kind(chat=chat, temperature=0, top_k=0, seed=0).invoke("hi")
    kind(chat=chat, temperature=1, seed=5).invoke("hi", temperature=0, seed=0)
    kind(chat=chat).invoke("hi")
    sampling = [asked[1] for asked in chat.engine.asked]
    assert [(s.temperature, s.top_k, s.seed) for s in sampling] == [(0, 0, 0), (0, 50, 0), (0.7, 50, None)]


@both
def test_every_parameter_arrives_from_the_constructor_and_from_a_call(scripted_chat, kind):
    chat = scripted_chat("abcdef")
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1, "seed": 3, "max_new_tokens": 4}
    assert text(kind(chat=chat, **given, stop=["z"]).invoke("hi")) == "abcd"
    assert text(kind(chat=chat).invoke("hi", **given, stop=["z"])) == "abcd"
    assert [asked[1:] for asked in chat.engine.asked] == [(Sampling(**given, stop=("z",)), 4)] * 2
    assert set(Sampling.__slots__) <= set(kind.model_fields)


@both
def test_langchains_name_for_the_length(scripted_chat, kind):
    chat = scripted_chat("abcdef")
    assert text(kind(chat=chat, max_tokens=2).invoke("hi")) == "ab"
    assert text(kind(chat=chat, max_tokens=2).invoke("hi", max_tokens=3)) == "abc"
    with pytest.raises(UsageError, match="'max_new_tokens' is given twice"):
        kind(chat=chat, max_tokens=2, max_new_tokens=2)


@both
def test_unknown_arguments_of_a_call_are_refused_by_name(scripted_chat, kind):
    chat = scripted_chat("x")
    model = kind(chat=chat)
    with pytest.raises(UsageError, match="'temprature'; did you mean 'temperature'"):
        model.invoke("hi", temprature=1)
    with pytest.raises(UsageError, match="'best_of'"):
        list(model.stream("hi", best_of=2))
    if kind is ArrieroLLM:
        with pytest.raises(UsageError, match="'tools'"):
            model.bind(tools=[]).batch(["hi"])
    with pytest.raises(UsageError, match="'logprobs'"):
        asyncio.run(model.ainvoke("hi", logprobs=True))
    with pytest.raises(UsageError, match="temperature must be between 0 and 2"):
        model.invoke("hi", temperature=3)
    assert chat.engine.asked == []


@both
def test_unknown_arguments_of_the_constructor(scripted_chat, kind):
    with pytest.raises(UsageError, match="'adaptor'; did you mean 'adapter'"):
        kind(adaptor="runs/huanhuan")
    with pytest.raises(UsageError, match="'max_token'; did you mean 'max_tokens'"):
        kind(max_token=3)


@both
@pytest.mark.parametrize("name", ["api_key", "timeout", "max_retries"])
def test_arguments_of_remote_models_are_refused_where_none_is_meant(scripted_chat, kind, name):
    with pytest.raises(UsageError, match=f"^unknown argument '{name}'") as caught:
        kind(chat=scripted_chat("x"), **{name: 1})
    assert "base_url" in caught.value.hint
    with pytest.raises(UsageError, match=f"^unknown argument '{name}'"):
        kind(chat=scripted_chat("x")).invoke("hi", **{name: 1})


# --- answers ---


@pytest.mark.parametrize(("given", "heard"), [({}, 0), ({"streaming": True}, 4), ({"streaming": False}, 0)])
def test_streaming_says_whether_callbacks_hear_an_invocation(scripted_chat, given, heard):
    """It was accepted with a warning that it has no effect."""
    listener = Listener()
    ChatArriero(chat=scripted_chat("abc"), **given).invoke("hi", config={"callbacks": [listener]})
    assert len(listener.tokens) == heard


def test_an_answer_carries_usage_finish_reason_and_model(scripted_chat):
    model = ChatArriero(chat=scripted_chat("abc"))
    usage = {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}  # a b c </s>
    chunks = list(model.stream("hi"))
    for message in (model.invoke("hi"), asyncio.run(model.ainvoke("hi")), sum(chunks[1:], chunks[0])):
        assert message.usage_metadata == usage
        assert message.response_metadata["finish_reason"] == "stop"
        assert message.response_metadata["model_name"] == "tiny"
    assert model.invoke("hi", max_new_tokens=2).response_metadata["finish_reason"] == "length"


@both
def test_streams_join_to_the_answer(scripted_chat, kind):
    model = kind(chat=scripted_chat("骆 and 🦙"))

    async def stream() -> list[str]:
        return [text(chunk) async for chunk in model.astream("hi")]

    chunks = [text(chunk) for chunk in model.stream("hi")]
    assert [chunk for chunk in chunks if chunk] == ["骆", *" and ", "🦙"]
    assert asyncio.run(stream()) == chunks
    assert text(model.invoke("hi")) == text(asyncio.run(model.ainvoke("hi"))) == "骆 and 🦙" == "".join(chunks)


class Listener(BaseCallbackHandler):
    """Keeps what LangChain reports of a run."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.result = None

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, response, **kwargs):
        self.result = response


@both
def test_callbacks_hear_every_token_of_a_stream(scripted_chat, kind):
    model = kind(chat=scripted_chat("abc"))
    sync, other = Listener(), Listener()
    list(model.stream("hi", {"callbacks": [sync]}))

    async def stream() -> None:
        assert [chunk async for chunk in model.astream("hi", {"callbacks": [other]})]

    asyncio.run(stream())
    for listener in (sync, other):
        assert listener.tokens == ["a", "b", "c", ""]
        generation = listener.result.generations[0][0]
        facts = generation.generation_info if kind is ArrieroLLM else vars(generation.message)
        assert generation.text == "abc"
        assert facts["usage_metadata"]["output_tokens"] == 4
        assert facts["response_metadata"]["finish_reason"] == "stop"


@both
def test_stop_cuts_the_text_and_is_never_partly_shown(scripted_chat, kind):
    chat = scripted_chat("one STOP two")
    model = kind(chat=chat)

    async def stream() -> list[str]:
        return [text(chunk) async for chunk in model.astream("hi", stop=["STOP"])]

    answers = [
        text(model.invoke("hi", stop=["STOP"])),
        text(asyncio.run(model.ainvoke("hi", stop=["STOP"]))),
        "".join(text(chunk) for chunk in model.stream("hi", stop=["STOP"])),
        "".join(asyncio.run(stream())),
        text(model.bind(stop=["STOP"]).invoke("hi")),
        text(kind(chat=chat, stop=["STOP"]).invoke("hi")),
    ]
    assert answers == ["one "] * 6
    assert all(generation.cancelled for generation in chat.engine.generations)


@both
def test_stop_of_a_call_adds_to_the_objects_own(scripted_chat, kind):
    chat = scripted_chat("one two three")
    model = kind(chat=chat, stop=["three"])
    assert text(model.invoke("hi", stop=["two"])) == "one "
    assert text(model.invoke("hi", stop=["four"])) == "one two "
    assert text(model.invoke("hi", stop="two")) == "one ", "a bare string is one stop string, not one for each letter"
    assert [asked[1].stop for asked in chat.engine.asked] == [("three", "two"), ("three", "four"), ("three", "two")]


class EchoEngine(ScriptedEngine):
    """Answers each prompt with its own text, once `together` of them are in flight."""

    def __init__(self, together: int) -> None:
        super().__init__("")
        self.meeting = threading.Barrier(together)

    def submit(self, prompt_ids, sampling, *, max_new_tokens, **options):
        generation = Generation(len(prompt_ids))
        answer = bytes(token - 6 for token in prompt_ids if token >= 6).decode()
        threading.Thread(target=self._answer, args=(generation, answer, max_new_tokens), daemon=True).start()
        return generation

    def _answer(self, generation, answer, limit):
        try:
            self.meeting.wait(10)
        except threading.BrokenBarrierError:
            return generation.finish("cancelled")
        return super()._answer(generation, answer, limit)


@both
def test_a_batch_is_answered_together_and_in_order(scripted_chat, kind):
    chat = scripted_chat("")
    chat.engine = EchoEngine(together=4)
    model = kind(chat=chat)
    prompts = ["first", "second", "third", "fourth"]
    assert [text(answer) for answer in model.batch(prompts)] == prompts
    assert [text(answer) for answer in asyncio.run(model.abatch(prompts))] == prompts


@both
def test_a_bad_prompt_in_a_batch_spoils_no_other(scripted_chat, kind):
    answers = kind(chat=scripted_chat("x")).batch(["hi", "\ud800", "hi"], return_exceptions=True)
    assert [isinstance(answer, UsageError) or text(answer) for answer in answers] == ["x", True, "x"]


# --- breaking off, and the event loop ---


@both
def test_breaking_off_a_stream_cancels_the_generation(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)
    stream = kind(chat=chat).stream("hi")
    assert text(next(stream)) == "a"
    stream.close()
    assert chat.engine.generations[0].cancelled


@both
def test_breaking_off_an_async_stream_cancels_the_generation(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)

    async def main() -> None:
        async with aclosing(kind(chat=chat).astream("hi")) as stream:
            assert text(await anext(stream)) == "a"
            assert not chat.engine.generations[0].cancelled
        for _ in range(10):  # LangChain drops our stream and leaves closing it to the loop: give it a turn
            await asyncio.sleep(0)
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
def test_our_own_async_stream_cancels_before_it_is_closed(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)

    async def main() -> None:
        model = kind(chat=chat)
        stream = model._astream("hi" if kind is ArrieroLLM else [HumanMessage("hi")])
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_a_cancelled_task_cancels_the_generation(scripted_chat, kind, how):
    chat = scripted_chat("abcdef", gate=2)

    async def main() -> None:
        task = asyncio.ensure_future(answer(kind(chat=chat), how))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_the_event_loop_is_free_while_the_engine_works(scripted_chat, kind, how):
    chat = scripted_chat("abc", gate=1)

    async def main() -> str:
        task = asyncio.ensure_future(answer(kind(chat=chat), how))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        held = chat.engine.generations[0].finish_reason is None  # else the gate gave up on a blocked loop
        chat.engine.release.set()
        assert held
        return await task

    assert asyncio.run(main()) == "abc"


async def answer(model, how: str) -> str:
    """Ask `hi`, at once or as a stream."""
    if how == "ainvoke":
        return text(await model.ainvoke("hi"))
    return "".join([text(chunk) async for chunk in model.astream("hi")])


# --- loading, identity ---


@both
def test_a_model_is_loaded_with_the_object(home, model_dir, kind):
    chat = load(model_dir, engine="transformers")
    expected = chat.complete([{"role": "user", "content": "hi"}], Sampling(max_new_tokens=8)).text
    model = kind(model_name_or_path=str(model_dir), engine="transformers", max_new_tokens=8)
    assert text(model.invoke("hi")) == expected
    assert (model.chat.model, model.model) == ("tiny", str(model_dir))
    chat.close()
    model.chat.close()


@both
def test_copies_that_langchain_makes_share_the_loaded_model(home, model_dir, other_model_dir, kind):
    model = kind(model=model_dir, engine="transformers")
    fields = {name: ConfigurableField(id=name) for name in ("temperature", "model")}
    configurable = model.configurable_fields(**fields)
    warmer, _ = configurable.with_config(configurable={"temperature": 0.5}).prepare()
    assert (warmer.temperature, warmer.chat) == (0.5, model.chat)
    other, _ = configurable.with_config(configurable={"model": other_model_dir}).prepare()
    assert (other.chat.model, model.chat.model) == ("other", "tiny")
    other.chat.close()
    model.chat.close()


@both
def test_wrong_options_raise_before_anything_is_loaded(home, scripted_chat, kind):
    with pytest.raises(NotFoundError, match="no model is called 'lama'"):
        kind(model="lama")
    with pytest.raises(UsageError, match="temperature must be between"):
        kind(model="lama", temperature=9)
    with pytest.raises(UsageError, match="either a chat, or"):
        kind(model="lama", chat=scripted_chat("x"))
    assert get_args(kind.model_fields["engine"].annotation) == get_args(EngineName)


@both
def test_a_cache_tells_objects_apart_by_what_an_answer_depends_on(scripted_chat, kind):
    chat, cache = scripted_chat("a", "b", "c", "d"), InMemoryCache()
    options = [{}, {"system": "Be kind."}, {"temperature": 0}, {"stop": ["x"]}]
    first = [text(kind(chat=chat, cache=cache, **option).invoke("hi")) for option in options]
    again = [text(kind(chat=chat, cache=cache, **option).invoke("hi")) for option in options]
    assert first == again == ["a", "b", "c", "d"]
    assert len(chat.engine.asked) == 4


def test_tracing_names(scripted_chat):
    chat = scripted_chat("x")
    model = ChatArriero(chat=chat, temperature=0, max_new_tokens=9, stop=["a"])
    assert model._get_ls_params(stop=["b"]) == {
        "ls_provider": "arriero",
        "ls_model_name": "tiny",
        "ls_model_type": "chat",
        "ls_temperature": 0,
        "ls_max_tokens": 9,
        "ls_stop": ["a", "b"],
    }
    assert ArrieroLLM(chat=chat)._get_ls_params()["ls_model_type"] == "llm"
    assert (ArrieroLLM(chat=chat)._llm_type, model._llm_type) == ("arriero", "arriero-chat")


@both
def test_tokens_are_counted_by_the_models_own_tokenizer(scripted_chat, kind):
    chat = scripted_chat("x")
    assert kind(chat=chat).get_num_tokens("a骆") == 4
    assert kind(chat=chat, custom_get_token_ids=lambda words: [0]).get_num_tokens("a骆") == 1


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_langchain_core_the_error_says_what_to_install():
    done = python("import sys; sys.modules['langchain_core'] = None; import arriero.langchain")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        'ImportError: arriero.langchain needs langchain-core: pip install "arriero[langchain]"'
    )


def test_the_import_loads_no_heavy_package():
    heavy = "{'torch', 'transformers', 'openvino', 'peft'}"
    done = python(f"import sys, arriero.langchain; print(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_reasoning_comes_beside_the_content_and_goes_back(scripted_chat):
    """As `additional_kwargs["reasoning_content"]`, where LangChain's own models of DeepSeek and Ollama have it."""
    model = ChatArriero(chat=scripted_chat("<think>hm</think>yes", template=QWEN3))
    answer = model.invoke("hi")
    assert (answer.content, answer.additional_kwargs["reasoning_content"]) == ("yes", "hm")
    chunks = list(model.stream("hi"))
    whole = sum(chunks[1:], chunks[0])
    assert (whole.content, whole.additional_kwargs["reasoning_content"]) == ("yes", "hm")
    engine, decode = model.chat.engine, model.chat.renderer.tokenizer.decode
    model.invoke([HumanMessage("hi"), answer])
    assert decode(engine.asked[-1][0]).endswith("<bot><think>\nhm\n</think>\n\nyes")
    model.invoke("hi", chat_template_kwargs={"enable_thinking": False})
    assert decode(engine.asked[-1][0]).endswith("<bot><think>\n\n</think>\n\n")


def test_what_is_said_of_the_prompt_loads_the_model(model_dir, tmp_path):
    (tmp_path / "own.jinja").write_text(OWN)
    model = ChatArriero(
        model=model_dir, engine="transformers", template={"mood": "x"}, fold_system=True,
        chat_template=str(tmp_path / "own.jinja"), system="Be.", max_reasoning_tokens=9,
    )  # fmt: skip
    try:
        ids = model.chat.render([{"role": "system", "content": "Be."}, {"role": "user", "content": "hi"}])
        assert model.chat.renderer.tokenizer.decode(ids) == "x<user>Be.\n\nhi<pad><bot>"
    finally:
        model.chat.close()
