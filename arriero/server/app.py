"""The application: which paths there are, and what happens on those that there are not."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from arriero.chat import Chat
from arriero.server import errors, openai, tutorial
from arriero.server.body import JsonRequest


class OwnRoute(APIRoute):
    """A route that reads its body as JSON and keeps its path to itself, also when a page is mounted at "/".

    Starlette passes a request with the wrong method on to a later catch-all, so `GET /v1/chat/completions` would be
    answered with the page's HTML. Only at "/" is that wanted: POST is the tutorial's, everything else the page's.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As in Starlette, except that a wrong method is never a partial match."""
        match, child_scope = super().matches(scope)
        if match is Match.PARTIAL:
            match = Match.NONE if self.path == "/" else Match.FULL  # handling a full match answers 405
        return match, child_scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given a JsonRequest."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest.of(request))

        return handle


def create_app(chat: Chat) -> FastAPI:
    """Serve `chat`; the caller closes it.

    Another ASGI app may be mounted at "/" afterwards: it gets every request that is not to a path of this one.
    """
    app = FastAPI(
        title="Arriero",
        redirect_slashes=False,
        responses={"4XX": {"model": errors.ErrorBody}, "5XX": {"model": errors.ErrorBody}},
    )
    app.router.route_class = OwnRoute
    errors.add_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is there, and what it serves."""
        return {"status": "ok", "model": openai.model_id(chat), "engine": chat.engine.name}

    tutorial.add_routes(app, chat)
    openai.add_routes(app, chat)

    @app.api_route("/v1/{_:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def unknown() -> None:
        """OpenAI's paths that are not served stay errors in OpenAI's shape instead of becoming the page."""
        raise HTTPException(404)

    return app
