"""OpenAI's API: https://platform.openai.com/docs/api-reference.

chat.py         POST /v1/chat/completions
completions.py  POST /v1/completions
responses/      /v1/responses and the responses that are kept
embeddings.py   POST /v1/embeddings
batches/        /v1/files and /v1/batches
models.py       /v1/models and /v1/adapters
tokenize.py     POST /tokenize and /detokenize, as vLLM has them
messages.py     a conversation and its tools in requests
schemas.py      what several endpoints have in common on the wire
fields.py       fields that are taken without effect, or refused
"""

from __future__ import annotations

from fastapi import FastAPI

from arriero.server.routes.openai import batches, chat, completions, embeddings, models, responses, tokenize
from arriero.server.service import Service


def add_routes(app: FastAPI, service: Service) -> None:
    """Add OpenAI's paths to `app`."""
    for endpoint in (chat, completions, responses, embeddings, batches, models, tokenize):
        endpoint.add_routes(app, service)
