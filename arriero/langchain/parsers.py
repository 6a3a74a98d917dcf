"""Structured answers as objects, by LangChain's own parsers, which repair JSON that was cut: here that is an error.

A parser sees a stream's message grow; only its last state carries a finish reason, and only that must be complete.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import Generation
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from arriero.errors import CutOffError


class _Whole(BaseOutputParser[Any]):
    """Stands before one of LangChain's parsers and raises CutOffError for an answer that ended too early."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        self._check(result[0].message)  # type: ignore[attr-defined]  # of a chat model's generation
        return super().parse_result(result, partial=partial)

    @staticmethod
    def _check(message: AIMessage) -> None:
        reason = message.response_metadata.get("finish_reason")
        if reason == "length":
            limit = message.usage_metadata["output_tokens"] if message.usage_metadata else None
            raise CutOffError(
                f"the structured answer reached its limit of {limit} tokens before it was complete",
                hint="allow more: max_tokens=…",
            )
        if reason is not None and not _is_complete(message):
            raise CutOffError(
                f"the structured answer ended before it was complete (finish reason {reason}): {message.text!r}",
                hint="leave out stop strings that may stand in it",
            )


def _is_complete(message: AIMessage) -> bool:
    """Whether a message holds whole calls, or is JSON; LangChain repairs cut arguments of streamed calls."""
    chunks = getattr(message, "tool_call_chunks", ())
    if message.invalid_tool_calls or not all(_is_json(chunk["args"] or "{}") for chunk in chunks):
        return False
    return bool(message.tool_calls) or _is_json(message.text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class _WholeJson(_Whole, JsonOutputParser):
    pass


class _WholeObject(_Whole, PydanticOutputParser):  # type: ignore[type-arg]
    pass


class _WholeArguments(_Whole, JsonOutputKeyToolsParser):
    pass


class _WholeArgumentsObject(_Whole, PydanticToolsParser):
    pass


def parser_of(schema: dict[str, Any] | type | None, *, by_call: bool) -> BaseOutputParser[Any]:
    """What makes an object of `schema` of a whole answer, or of its one call; of None, whatever JSON it holds."""
    model: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    if by_call and schema is not None:
        if model is not None:
            return _WholeArgumentsObject(tools=[model], first_tool_only=True)
        return _WholeArguments(key_name=convert_to_openai_tool(schema)["function"]["name"], first_tool_only=True)
    return _WholeObject(pydantic_object=model) if model is not None else _WholeJson()
