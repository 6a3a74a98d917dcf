"""ChatArriero: LangChain's chat model over a Chat, with tools and structured output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from arriero.chat import Options, Reply
from arriero.errors import UsageError
from arriero.langchain.convert import answer, answer_chunk, chat_options, choice_of, prompt_value, turns
from arriero.langchain.models import OverChat, Request
from arriero.langchain.parsers import parser_of
from arriero.messages import Message, NamedTool, Piece, Tool

Method = Literal["json_schema", "json_mode", "function_calling"]


log = logging.getLogger(__name__)
REPEATS = 3


def repeated(messages: Sequence[Message]) -> str | None:
    """The tool that the last answers have called again and again with the same arguments: an agent's endless loop."""
    answers = [message.tool_calls for message in messages if message.role == "assistant"][-REPEATS:]
    calls = {tuple((call.name, call.arguments) for call in made) for made in answers}
    if len(answers) < REPEATS or len(calls) > 1 or messages[-1].role != "tool":
        return None
    (made,) = calls
    return made[0][0] if len(made) == 1 else None


class ChatArriero(OverChat, BaseChatModel):  # type: ignore[misc]  # its `_stream(messages)` is ours and LLM's `prompt`
    """System, human, AI and tool messages in; an AI message out, with tool calls, token counts and finish reason.

    An AI message at the end is continued, and what comes back is what follows it. Text messages of one role in a row
    are joined with a line break, as LangChain's `merge_message_runs` does, where the chat template takes them in no
    other way. `streaming` is LangChain's own: with True `invoke` streams too, for callbacks; with False `stream` waits
    for all.
    """

    _kind = "chat"
    streaming: bool | None = None

    @property
    def _llm_type(self) -> str:
        return "arriero-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        """What the model can be given and asked for, under LangChain's names; agents go by it.

        A server is not asked, so its model's name and window are not in it.
        """
        local = ModelProfile()
        if self._remote is None:
            window, tags = self.chat.window, self.chat.renderer.tags
            local = ModelProfile(name=self.chat.model, max_input_tokens=window, max_output_tokens=window)
            local["reasoning_output"] = tags is not None
        return local | ModelProfile(
            open_weights=True,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            image_url_inputs=False,
            pdf_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
        )

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """The model with tools that it may call; "any", True, or the name of one as `tool_choice` demand a call.

        A demanded call always comes, for the engine is held to its form. With `parallel_tool_calls` false an answer
        ends with its first call.
        """
        made = [convert_to_openai_tool(tool, strict=kwargs.get("strict")) for tool in tools]
        kwargs.pop("strict", None)
        return self.bind(tools=made, tool_choice=choice_of(tool_choice), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, Any]:
        """Answers as objects of `schema`: a Pydantic class, a TypedDict, a JSON schema or an OpenAI function.

        "json_schema" holds the engine to the schema and shows it to the model, "json_mode" to any JSON object, and
        "function_calling" demands a call of a tool with that schema. `strict` changes nothing: they always hold. With
        `include_raw` the result is an object of `raw`, `parsed` and `parsing_error`.

        An answer that was cut, at its limit of tokens or at a stop string, raises CutOffError; a stream does so at its
        end, after the parts that came.
        """
        if method not in get_args(Method) or (schema is None and method != "json_mode"):
            raise UsageError(
                f"structured output needs a schema and a method json_schema or function_calling, got {method}"
            )
        parser = parser_of(schema, by_call=method == "function_calling")
        model = self._structured(schema, method, **kwargs)
        if not include_raw:
            return model | parser

        def parsed(raw: AIMessage) -> dict[str, Any]:
            try:
                return {"raw": raw, "parsed": parser.invoke(raw), "parsing_error": None}
            except Exception as error:  # whatever a schema's own validators raise
                return {"raw": raw, "parsed": None, "parsing_error": error}

        return model | parsed

    def _structured(self, schema: Any, method: Method, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """The model, held to `schema`."""
        json_schema = {"type": "object"} if schema is None else convert_to_json_schema(schema)
        shown = {"kwargs": {"method": method}, "schema": json_schema}
        if method == "function_calling":
            return self.bind_tools([schema], tool_choice="any", ls_structured_output_format=shown, **kwargs)
        response_format: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            response_format = {"type": "json_schema", "json_schema": {"schema": json_schema}}
        return self.bind(response_format=response_format, ls_structured_output_format=shown, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The part of a cache's key that is not the prompt. LangChain's own goes by `dumps`, which leaves out paths."""
        given = {**self._identifying_params, "output_version": self.output_version, "stop": stop, **kwargs}
        return str(sorted(given.items()))

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._result(*self._complete(messages, stop, kwargs))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._result(*await self._acomplete(messages, stop, kwargs))

    def _result(self, reply: Reply, facts: dict[str, Any]) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(reply, facts))])

    def _request(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> Request:
        chat, messages, sampling, options = super()._request(prompt, stop, given)
        again = repeated(messages)
        if options.get("tools") and again is not None and options["tool_choice"] != NamedTool(again):
            log.warning("%s was called %d times in a row in the same way; it is not offered again", again, REPEATS)
            options["tools"] = [tool for tool in map(Tool.of, options["tools"]) if tool.name != again]
            options["tool_choice"] = options["tool_choice"] if options["tools"] else "none"
        return chat, messages, sampling, options

    def _options(self, given: dict[str, Any]) -> Options:
        return chat_options(given)

    def _turns(self, prompt: list[BaseMessage]) -> Sequence[Message]:
        return turns(prompt)

    def _chunk(self, piece: Piece, facts: dict[str, Any]) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=answer_chunk(piece, facts))

    def _given(self, prompt: LanguageModelInput) -> list[BaseMessage]:
        return prompt_value(prompt).to_messages()

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The tokens of these messages as a prompt, so with the chat template, the system prompt and `tools`."""
        return len(self.render(messages, **({} if tools is None else {"tools": tools}))) if messages else 0
