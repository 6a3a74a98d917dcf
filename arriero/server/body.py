"""Request bodies: JSON of exactly the declared fields and types, whatever the content type says."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json
from starlette.datastructures import MutableHeaders
from starlette.requests import Request

MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]


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
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error
