"""Every failure as an HTTP status and a body of OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

    400 invalid_request_error    a body that is not JSON, a field that is wrong, a prompt that does not fit
    401, 403                     no key, or not the right one; a page of another site
    404, 405                     no such model or path; a path that exists with another method
    413, 429                     the body is too long; too many requests of one key in a minute
    499                          the client has gone away; nobody reads this one
    503 server_error             loading, full, shutting down, out of memory; with Retry-After
    500 server_error             everything else; the log says what, the client's copy says nothing

On the paths of other APIs the same statuses have their bodies: Anthropic's {"type": "error", "error": {"type",
"message"}} (https://docs.anthropic.com/en/api/errors), Ollama's {"error": message}.

Hints of errors are advice for the command line and are not sent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
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


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ANTHROPIC, OLLAMA = "/v1/messages", "/api/"  # what the paths of these APIs begin with
NO_THREADS = "thread_unsupported_request"  # upon which Anthropic's clients send the whole conversation instead
ANTHROPIC_KINDS = {404: "not_found_error", 413: "request_too_large", 500: "api_error", 503: "overloaded_error"}


class RequestError(UsageError):
    """A request that this server refuses.

    `param` names the field as OpenAI would: `messages[0].content`. `retry_after` is in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.retry_after = retry_after


@contextlib.contextmanager
def at(param: str) -> Iterator[None]:
    """Say of the usage errors within which field they are about."""
    try:
        yield
    except RequestError as error:
        raise RequestError(error.message, param=f"{param}.{error.param}" if error.param else param) from error
    except UsageError as error:
        raise RequestError(error.message, param=param) from error


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
    """Status and body for an error. What is not the client's doing is logged and not sent, for it may name paths."""
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
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe_at(path: str, error: Exception) -> tuple[int, dict[str, Any]]:
    """`describe`, with the body in the shape of the API that `path` belongs to."""
    status, body = describe(error)
    message, code = body["error"]["message"], body["error"]["code"]
    if path.startswith(ANTHROPIC):
        fault = {"type": ANTHROPIC_KINDS.get(status, body["error"]["type"]), "message": message}
        if code == NO_THREADS:
            fault["details"] = {"error_code": code, "unsupported": [body["error"]["param"]]}
        return status, {"type": "error", "error": fault}
    return status, {"error": message} if path.startswith(OLLAMA) else body


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
        faults = error.errors()
        error = _invalid(faults, dict(request.query_params) if faults[0]["loc"][0] == "query" else error.body)
    return response(request.url.path, error, headers)


def response(path: str, error: Exception, headers: Mapping[str, str] | None = None) -> Response:
    """The whole response to a request to `path` that failed with `error`."""
    status, body = describe_at(path, error)
    after = (
        error.retry_after
        if isinstance(error, RequestError)
        else 1.0
        if status == HTTPStatus.SERVICE_UNAVAILABLE
        else None
    )
    if after is not None:
        headers = {"retry-after": str(max(1, math.ceil(after))), **(headers or {})}
    # Escaped to ASCII: a refused field's name may hold a lone surrogate, which UTF-8 cannot express.
    return Response(json.dumps(body), status, headers, "application/json")


def _refused(request: Request, error: HTTPException) -> RequestError:
    if isinstance(error.__cause__, RequestError):
        return error.__cause__
    message = error.detail
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        message = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase}"
    return RequestError(message, status=error.status_code)


def _invalid(faults: Sequence[dict[str, Any]], body: Any) -> RequestError:
    """Pydantic's complaint about the first bad field, in a sentence that names it."""
    # A union is complained about once for each of its types: the one that was meant has no fault of type.
    of_field = [fault for fault in faults if fault["loc"][:2] == faults[0]["loc"][:2]]
    fault = next((fault for fault in of_field if not fault["type"].endswith("_type")), faults[0])
    param = ""
    last = len(fault["loc"]) - 1
    for index, key in enumerate(fault["loc"][1:], 1):  # the first is "body" or "query"
        # Pydantic also names which one of several shapes it tried, which is nothing that is in the body.
        inside = key in body if isinstance(body, Mapping) else isinstance(body, list) and isinstance(key, int)
        if inside or (fault["type"] == "missing" and index == last):
            param += f"[{key}]" if isinstance(key, int) else f".{key}" if param else key
        if inside:
            body = body[key]
    if not param:
        return RequestError("the body must be a JSON object")
    if fault["type"] == "extra_forbidden":
        allowed = fault.get("ctx", {}).get("allowed")
        verdict = f"supported only as {allowed}, got {reprlib.repr(fault['input'])}" if allowed else "not supported"
        return RequestError(f"the field {param} is {verdict}", param=param, code="unsupported_parameter")
    if fault["type"] == "missing":
        return RequestError(f"the field {param} is missing", param=param)
    return RequestError(f"{param}: {fault['msg']}, got {reprlib.repr(fault['input'])}", param=param)
