"""Every failure as an HTTP status and a body of OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

    400 invalid_request_error    a body that is not JSON, a field that is wrong, a prompt that does not fit
    404, 405                     no such model or path; a path that exists with another method
    499                          the client has gone away; nobody reads this one
    503 server_error             out of memory
    500 server_error             everything else; the log says what, the client is told nothing

Hints of errors are advice for the command line and are not sent.
"""

from __future__ import annotations

import json
import logging
import reprlib
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from arriero.errors import ArrieroError, ContextLengthError, MemoryLimitError, NotFoundError, UsageError

logger = logging.getLogger(__name__)


class RequestError(UsageError):
    """A request that this server refuses. `param` names the field as OpenAI would: `messages[0].content`."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class ErrorDetail(BaseModel):
    """What went wrong; `param` is the field at fault, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorDetail


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for an error. What is not the client's doing is logged and not told, for it may name paths."""
    param = code = None
    message = error.message if isinstance(error, ArrieroError) else ""
    match error:
        case RequestError():
            status, param, code = error.status, error.param, error.code
        case ContextLengthError():
            status, code = 400, "context_length_exceeded"
        case UsageError():
            status = 400
        case NotFoundError():
            status = 404
        case MemoryLimitError():
            status = 503
        case _:
            logger.error("a request failed", exc_info=error)
            status, message = 500, "the server failed to answer; its log says why"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def add_handlers(app: FastAPI) -> None:
    """Give `app` this file's answer to every exception."""
    app.add_exception_handler(ClientDisconnect, _gone)
    for kind in (HTTPException, RequestValidationError, ArrieroError, Exception):
        app.add_exception_handler(kind, _respond)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


async def _respond(request: Request, error: Exception) -> Response:
    headers = None
    if isinstance(error, HTTPException):
        headers, error = error.headers, _refused(request, error)
    elif isinstance(error, RequestValidationError):
        error = _invalid(error.errors()[0])
    status, body = describe(error)
    # Escaped to ASCII: a refused field's name may hold a lone surrogate, which UTF-8 cannot express.
    return Response(json.dumps(body), status, headers, "application/json")


def _refused(request: Request, error: HTTPException) -> RequestError:
    message = error.detail
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        message = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase}"
    return RequestError(message, status=error.status_code)


def _invalid(fault: dict[str, Any]) -> RequestError:
    """Pydantic's first complaint, in a sentence that names the field."""
    param = ""
    for part in fault["loc"][1:]:  # the first is always "body"
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    if not param:
        return RequestError("the body must be a JSON object")
    if fault["type"] == "extra_forbidden":
        return RequestError(f"the field {param} is not supported", param=param, code="unsupported_parameter")
    if fault["type"] == "missing":
        return RequestError(f"the field {param} is missing", param=param)
    return RequestError(f"{param}: {fault['msg']}, got {reprlib.repr(fault['input'])}", param=param)
