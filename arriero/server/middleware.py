"""What every request passes first: path, request id, API key, origin and host, rate limit, length of its body.

In this order, which matters:

    path       as our routes have it, so that all that follows sees one name for one endpoint
    caller     from the API key; the access log's record begins here, so that refusals are logged too
    host       before all else that is refused: it tells DNS rebinding from a visitor
    origin     before the key: a page of another site learns nothing of whether a key is good
    key        then the announced length, then whether the server is ready, then the rate limit, which counts last so
               that what is refused otherwise uses none of it
    body       is counted as it comes, for a length may be announced wrongly or not at all

Plain ASGI around the whole application, so that also what fails inside leaves with a request id and safe headers. Only
`/health` and `/ready` need no key. A page of another site cannot use the model through its visitor's browser: requests
that a browser sends from elsewhere are refused, and, where `hosts` are given, those under another name for this machine
(https://en.wikipedia.org/wiki/DNS_rebinding).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
from collections.abc import Collection

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arriero.server.access_log import AccessRecord
from arriero.server.auth import Caller
from arriero.server.errors import ANTHROPIC, RequestError, response
from arriero.server.in_process import BACKGROUND
from arriero.server.origins import SITE
from arriero.server.paths import Paths
from arriero.server.service import Service

OPEN_PATHS = ("/health", "/ready")
EXPOSED = "x-request-id, x-arriero-clamped, x-arriero-ignored, retry-after"  # what a page's script may read
BODY_SECONDS = 60.0  # within which a request's body has to come
SLOWEST = 2**18  # bytes in a second that a file comes at, at least
FORM_BYTES = 2**16  # of a form that a file comes in, besides the file
FILES = "/v1/files"
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
LOADING = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>Arriero</title>
<p>The model is being loaded. 模型加载中。"""


class RequestMiddleware:
    """The checks, around `app`.

    `origins` fits the other sites whose pages may send requests, `hosts` are the names this server answers to, by
    default all.
    """

    def __init__(
        self, app: ASGIApp, service: Service, paths: Paths, origins: re.Pattern[str], hosts: Collection[str]
    ) -> None:
        self._app = app
        self._service = service
        self._paths = paths
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] == "lifespan" or self._service.loop is None:  # mounted in another app there is no lifespan
            self._service.loop = asyncio.get_running_loop()
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        if scope["type"] == "http":
            scope = self._normalized(scope)
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if REQUEST_ID.fullmatch(sent_id) else f"req_{secrets.token_hex(12)}"
        client = scope.get("client")
        background_caller: Caller | None = scope.get(BACKGROUND)
        caller = background_caller or self._service.keys.caller(headers)
        sender = caller or Caller(client[0] if client else "local")
        record = AccessRecord(request_id, sender, method, scope["path"], background=background_caller is not None)
        scope["record"] = record
        completing = self._completing(send, scope, headers, caller)
        try:
            try:
                self._check(scope, headers, caller, record)
            except RequestError as error:
                record.refused = error.code
                await self._refuse(error, scope, receive, completing)
            else:
                limited = _limit_body(receive, self._body_limit(scope), record)
                await self._forward(scope, limited if scope["type"] == "http" else receive, completing)
        finally:
            self._service.finish_request(record, scope)

    def _normalized(self, scope: Scope) -> Scope:
        """The request as our routes have it: under its one path, and GET for HEAD, which only leaves out the body."""
        root = scope.get("root_path", "")
        page = scope["method"] in ("GET", "HEAD") and "text/html" in Headers(scope=scope).get("accept", "")
        path = root + self._paths.canonical(scope["path"].removeprefix(root), page=page)
        return {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}

    def _completing(self, send: Send, scope: Scope, headers: Headers, caller: Caller | None) -> Send:
        """`send` that notes the status and puts in the headers that every response has."""
        record: AccessRecord = scope["record"]
        origin = headers.get("origin", "")

        async def completing(message: Message) -> None:
            if message["type"] == "websocket.accept":
                record.status = 101
            elif message["type"] == "websocket.close":
                record.status = record.status or 403
            elif message["type"] == "http.response.body" and record.method == "HEAD":
                message = {**message, "body": b""}
            elif message["type"] == "http.response.start":
                record.status = message["status"]
                outgoing = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    outgoing.setdefault(name, value)
                outgoing["x-request-id"] = record.id
                if record.clamped is not None:
                    outgoing["x-arriero-clamped"] = f"max_tokens={record.clamped}"
                if record.ignored:
                    outgoing["x-arriero-ignored"] = record.ignored
                if record.path.startswith(ANTHROPIC):
                    outgoing["request-id"] = record.id  # where its clients look for it
                if self._allowed(origin):  # also on what never reaches the CORS middleware: refusals and failures
                    outgoing.setdefault("access-control-allow-origin", origin)
                    outgoing.setdefault("access-control-expose-headers", EXPOSED)
                    outgoing.add_vary_header("origin")
                if caller is not None and headers.get("authorization", "").lower().startswith("basic"):
                    secure = scope["scheme"] == "https"
                    outgoing.append("set-cookie", self._service.keys.cookie(caller, secure=secure))
            await send(message)

        return completing

    def _allowed(self, origin: str) -> bool:
        return bool(origin) and self._origins.fullmatch(origin) is not None

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._service.state == "loading" and scope["path"] == "/" and scope.get("method") == "GET":
            await HTMLResponse(LOADING, 503, {"retry-after": "1"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers, caller: Caller | None, record: AccessRecord) -> None:
        """RequestError for a request that may not come in."""
        host = headers.get("host", "")
        if self._hosts and _host_name(host).lower() not in self._hosts:
            raise _unknown_host(host)
        origin = headers.get("origin", "")
        if origin and origin.partition("://")[2] != host and not self._allowed(origin):
            raise _not_allowed(origin)
        preflight = scope.get("method") == "OPTIONS" and "access-control-request-method" in headers
        if scope["path"] in OPEN_PATHS or (preflight and self._allowed(origin)):
            return
        if caller is None and self._service.keys.required:
            raise RequestError("an API key is needed, as Authorization: Bearer KEY", status=401, code="invalid_api_key")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._body_limit(scope):
            raise _too_long(self._body_limit(scope))
        if scope.get("method") == "POST":
            self._service.check_ready()
            if not record.background:
                self._service.admission.check_rate(record.caller.name)

    def _body_limit(self, scope: Scope) -> int:
        """Bytes that the body of a request may have."""
        limits = self._service.admission.limits
        is_file = scope["path"].removeprefix(scope.get("root_path", "")) == FILES
        return limits.max_file + FORM_BYTES if is_file else limits.max_body

    async def _refuse(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        challenge = None
        if error.status == 401:
            page = "text/html" in Headers(scope=scope).get("accept", "")
            challenge = {"www-authenticate": 'Basic realm="Arriero", charset="UTF-8"' if page else "Bearer"}
        await response(scope["path"], error, challenge)(scope, receive, send)


def _limit_body(receive: Receive, limit: int, record: AccessRecord) -> Receive:
    """`receive`, raising once the body is longer than `limit` bytes, or has not come in time.

    That is BODY_SECONDS, and for what may be longer than usual as long as it takes at SLOWEST.
    """
    deadline = asyncio.get_running_loop().time() + max(BODY_SECONDS, limit / SLOWEST)
    length, complete = 0, False

    def refusal(error: RequestError) -> HTTPException:  # of the kind that FastAPI does not take for a broken body
        record.refused = error.code
        refused = HTTPException(error.status, error.message)
        refused.__cause__ = error
        return refused

    async def counted() -> Message:
        nonlocal length, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            slow = RequestError("the body came too slowly", status=408, code="body_timeout")
            raise refusal(slow) from slow
        if message["type"] == "http.disconnect":
            raise HTTPException(499, "the client has gone away")
        length += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if length > limit:
            raise refusal(_too_long(limit))
        return message

    return counted


def _unknown_host(host: str) -> RequestError:
    way = f"; if it is: arriero serve --allow-host {shlex.quote(_host_name(host))}" if host else ""
    return RequestError(f"this server is not called {host!r}{way}", status=403, code="unknown_host")


def _not_allowed(origin: str) -> RequestError:
    # A page without an origin, in a sandboxed frame or from a file, says "null", which nothing tells from another's.
    way = f"; if they should: arriero serve --allow-origin {shlex.quote(origin)}" if SITE.fullmatch(origin) else ""
    return RequestError(f"pages of {origin} may not use this server{way}", status=403, code="origin_not_allowed")


def _too_long(limit: int) -> RequestError:
    return RequestError(f"the body is longer than {limit} bytes", status=413, code="request_too_large")


def _host_name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host
