"""Request bodies: JSON of exactly the declared fields and types, whatever the content type says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, from_json
from starlette.datastructures import MutableHeaders
from starlette.requests import Request


def _strings(stop: object) -> object:
    if not isinstance(stop, str | list):
        raise PydanticCustomError("stop", "Input should be a string or a list of up to 4 strings")
    return [stop] if isinstance(stop, str) else stop


def text_parts(kind: str) -> Callable[[object], object]:
    """What makes a content that is text a list of one part of that kind, before it is checked."""

    def listed(content: object) -> object:
        if isinstance(content, str):
            return [{"type": kind, "text": content}]
        if not isinstance(content, list):
            raise PydanticCustomError("content", "Input should be text or a list of text parts")
        return content

    return listed


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wholes(values: object) -> object:
    floats = isinstance(values, list) and float in set(map(type, values))
    return [_whole(value) for value in values] if floats and isinstance(values, list) else values


Whole = Annotated[int, BeforeValidator(_whole)]  # 16.0 is one: JSON has one kind of number
AnyTokenIds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_wholes)]
TokenIds = Annotated[AnyTokenIds, Field(min_length=1)]
MaxTokens = Annotated[Whole, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Choices = Annotated[Whole, Field(ge=1, le=128)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
StopString = Annotated[str, Field(min_length=1)]
StopStrings = Annotated[list[StopString], Field(max_length=4)]
Stop = Annotated[StopStrings, BeforeValidator(_strings, json_schema_input_type=StopString | StopStrings)]
Schema = dict[str, Any]


class RequestBody(BaseModel):
    """Base of all request bodies: unknown fields are refused, nothing is converted (`true` is not a number)."""

    model_config = ConfigDict(strict=True, extra="forbid")


class JsonRequest(Request):
    """A request that FastAPI takes for JSON: the tutorial's own client sends "application/jons"."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """This request with its content type set right."""
        MutableHeaders(scope=request.scope)["content-type"] = "application/json"
        return cls(request.scope, request.receive)

    async def json(self) -> Any:
        """The body; raises HTTPException 400 where it is not JSON in UTF-8.

        Python's own parser would let lone surrogates through, which no tokenizer can encode, and NaN.
        """
        try:
            body = from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error
        if self.app.state.service.log_prompts:
            self.scope["record"].body = body
        return body
