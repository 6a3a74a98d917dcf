"""What clients write for a path that is served: with slashes at its end, or without the /v1 that it begins with.

A base URL is given to a client by hand, and clients differ in whether /v1 belongs to it. Every path of ours is also
found under those names. No other path is touched: it may be one of a page that is mounted beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from arriero.server.errors import ANTHROPIC, OLLAMA

V1 = "/v1"


class Paths:
    """The paths of these routes, as they are now; those that are not documented are nobody's."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    def served(self, path: str) -> bool:
        """Whether a route has this path, for whatever method."""
        routes = (route for route in self._routes if isinstance(route, APIRoute) and route.include_in_schema)
        return any(route.path_regex.match(path) for route in routes)

    def canonical(self, path: str, *, page: bool = False) -> str:
        """The served path that is meant by `path`; `path` as it is where there is none.

        `page`: a browser asks for a page, which may have the name that follows /v1 in a path of ours, as models do.
        """
        short = path.rstrip("/") or path
        return next(filter(self.served, (short,) if page else (short, V1 + short)), path)

    def base(self, path: str) -> str | None:
        """The end, "" or "/v1", of the right base URL for a client whose path has a prefix too many; else None."""
        for prefix in (V1, OLLAMA.rstrip("/")):
            shorter = path.removeprefix(prefix)
            route_path = self.canonical(shorter)
            if shorter not in (path, "/") and self.served(route_path):
                return V1 if route_path.startswith(V1) and not route_path.startswith(ANTHROPIC) else ""
        return None
