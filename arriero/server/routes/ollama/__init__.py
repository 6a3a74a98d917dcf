"""Ollama's API, as https://github.com/ollama/ollama/blob/main/docs/api.md describes it: what answers, embeds and lists.

Models stay what they are here: nothing is pulled, created, unloaded or deleted by it.

    chat.py      POST /api/chat and /api/generate
    embed.py     POST /api/embed and /api/embeddings
    models.py    GET /api/version, GET /api/tags and POST /api/show
    schemas.py   bodies of the first two
"""

from __future__ import annotations

from fastapi import FastAPI

from arriero.server.routes.ollama import chat, embed, models
from arriero.server.service import Service


def add_routes(app: FastAPI, service: Service) -> None:
    """Add Ollama's paths to `app`."""
    chat.add_routes(app, service)
    embed.add_routes(app, service)
    models.add_routes(app, service)
