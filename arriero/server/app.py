"""The application: which paths there are, and what happens on those that there are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Unpack

from fastapi import FastAPI, HTTPException
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from arriero.chat import Chat
from arriero.server import errors
from arriero.server.admission import Limits
from arriero.server.auth import Keys
from arriero.server.middleware import OPEN_PATHS, RequestMiddleware
from arriero.server.models import Models
from arriero.server.origins import pattern_of
from arriero.server.paths import Paths
from arriero.server.routes import anthropic, health, ollama, openai, tutorial
from arriero.server.schemas import JsonRequest
from arriero.server.service import Service, ServiceOptions

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
LIMITS = Limits()


class OwnRoute(APIRoute):
    """A route that reads its body as JSON and keeps its path to itself, also when a page is mounted at "/".

    Starlette passes a request with the wrong method on to a later catch-all, so `GET /v1/chat/completions` would be
    answered with the page's HTML. Only at "/" is that right: POST is the tutorial's, everything else the page's.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As in Starlette, except that a method that no route of the path has is a partial match at "/" only."""
        match, child_scope = super().matches(scope)
        if match is Match.PARTIAL and self.path != "/" and scope["method"] not in self._allowed(scope):
            match = Match.FULL  # handling a full match answers 405
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in Starlette, except that what is allowed are the methods of all routes of this path."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self._allowed(scope)))})
        await super().handle(scope, receive, send)

    def _allowed(self, scope: Scope) -> set[str]:
        own = (route for route in scope["app"].routes if isinstance(route, OwnRoute) and route.path == self.path)
        return {method for route in own for method in route.methods or ()}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given a JsonRequest where the body is not a form."""
        handler = super().get_route_handler()
        if any(isinstance(param.field_info, Form) for param in self.dependant.body_params):
            return handler  # a file comes in a form

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest.of(request))

        return handle


class Unpaged(APIRoute):
    """`GET /` where no page is mounted there, which would be found after it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """A partial match, upon which the router continues to look for a full one."""
        match, child_scope = super().matches(scope)
        return Match.PARTIAL if match is Match.FULL else match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET, and 405 for the methods that neither this nor the tutorial's route takes."""
        if scope["method"] != "GET":
            raise HTTPException(405, headers={"Allow": "GET, POST"})
        await super().handle(scope, receive, send)


class Application(FastAPI):
    """FastAPI behind our middleware, which all requests pass before anything of FastAPI's."""

    def __init__(self, service: Service, origins: re.Pattern[str], hosts: Collection[str]) -> None:
        # The pages of documentation would load their scripts from another machine.
        super().__init__(
            title="Arriero",
            redirect_slashes=False,
            docs_url=None,
            redoc_url=None,
            responses={"4XX": {"model": errors.ErrorBody}, "5XX": {"model": errors.ErrorBody}},
        )
        self.state.service = self.service = service
        self.paths = Paths(self.routes)
        self._middleware = RequestMiddleware(super().__call__, service, self.paths, origins, hosts)

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the key that is needed where one is."""
        document = super().openapi()
        if self.service.keys.required:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
            for path in OPEN_PATHS:
                document["paths"][path]["get"]["security"] = []
        return document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["app"] = self
        await self._middleware(scope, receive, send)


def create_app(
    chat_or_none: Chat | None,
    *,
    limits: Limits = LIMITS,
    keys: Keys | None = None,
    origins: Collection[str] = (),
    hosts: Collection[str] = (),
    **handling: Unpack[ServiceOptions],
) -> Application:
    """Serve a chat; the caller closes it. None for one that comes later, by `app.service.open`.

    `keys` are the API keys that are good; without them anybody is let in. `origins` are other sites ("https://a.b", or
    patterns as in `pattern_of`) whose pages may use this server, `hosts` the names it answers to, by default all.

    Another ASGI app may be mounted at "/" afterwards: it gets every request that is not to a path of this one.
    """
    allowed = pattern_of(origins)
    service = Service(limits, keys or Keys({}), **handling)
    app = Application(service, allowed, hosts)
    if chat_or_none is not None:
        service.open(Models(chat_or_none))
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origin_regex=allowed.pattern,
            allow_methods=["HEAD", *METHODS],
            allow_headers=["*"],
            allow_private_network=True,  # asked for by browsers of the years before they ask their users instead
        )
    app.router.route_class = OwnRoute
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    app.router.add_api_route("/", running, response_model=None, responses=text, route_class_override=Unpaged)
    errors.add_handlers(app)
    for api in (health, tutorial, openai, anthropic, ollama):
        api.add_routes(app, service)

    @app.api_route("/v1/{_:path}", methods=METHODS, include_in_schema=False)
    @app.api_route("/api/{_:path}", methods=METHODS, include_in_schema=False)
    async def unknown(request: Request) -> None:
        """Paths of these APIs that are not served stay errors in their shapes instead of becoming the page."""
        root = request.scope["root_path"]
        base = app.paths.base(request.url.path.removeprefix(root))
        if base is None:
            raise HTTPException(404)
        advice = f"the client's base URL should be {request.url.replace(path=root + base, query='')}"
        raise errors.RequestError(f"{request.method} {request.url.path}: Not Found; {advice}", status=404)

    return app


async def running() -> Response:
    """The web page, or, where none is installed, a line that says that there is a server."""
    return PlainTextResponse("Arriero is running")
