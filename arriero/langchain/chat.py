"""ChatArriero: LangChain's chat model over a Chat, with tools and structured output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from arriero.chat import Options, Reply
from arriero.errors import UsageError
from arriero.langchain.models import OverChat
from arriero.langchain.words import answer, answer_chunk, chat_options, choice_of, turns
from arriero.messages import Message, Piece

Method = Literal["json_schema", "json_mode", "function_calling"]


class ChatArriero(OverChat, BaseChatModel):  # type: ignore[misc]  # its `_stream(messages)` is ours and LLM's `prompt`
    """System, human, AI and tool messages in; an AI message out, with tool calls, token counts and finish reason.

    An AI message at the end is continued, and what comes back is what follows it. Text messages of one role in a row
    are joined with a line break, as LangChain's `merge_message_runs` does, where the chat template takes them in no
    other way.
    """

    _kind = "chat"

    @property
    def _llm_type(self) -> str:
        return "arriero-chat"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """The model with tools that it may call; "any", True, or the name of one as `tool_choice` demand a call.

        A demanded call always comes, for the engine is held to its form.
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
        """
        if method == "function_calling" and schema is not None:
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method not in ("json_schema", "json_mode") or (schema is None and method != "json_mode"):
            raise UsageError(
                f"structured output needs a schema and a method json_schema or function_calling, got {method}"
            )
        wanted = convert_to_json_schema(schema) if schema is not None else {"type": "object"}
        shown = {"kwargs": {"method": method}, "schema": wanted}
        response_format: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            response_format = {"type": "json_schema", "json_schema": {"schema": wanted}}
        model = self.bind(response_format=response_format, ls_structured_output_format=shown, **kwargs)
        parser: BaseOutputParser[Any] = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        nothing = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([nothing], exception_key="parsing_error")

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._result(self._complete(messages, stop, kwargs))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._result(await self._acomplete(messages, stop, kwargs))

    def _result(self, reply: Reply) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(reply, self._facts(reply)))])

    def _options(self, given: dict[str, Any]) -> Options:
        return chat_options(given)

    def _turns(self, prompt: list[BaseMessage]) -> Sequence[Message]:
        return turns(prompt)

    def _chunk(self, piece: Piece, numbers: count[int]) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=answer_chunk(piece, self._facts(piece), numbers))
