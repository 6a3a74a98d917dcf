"""OpenAI's API: https://platform.openai.com/docs/api-reference.

    chat.py         POST /v1/chat/completions
    completions.py  POST /v1/completions
    responses/      /v1/responses, and the responses that are stored
    embeddings.py   POST /v1/embeddings
    batches/        /v1/files and /v1/batches
    models.py       /v1/models and /v1/adapters
    tokenize.py     POST /tokenize and /detokenize, as vLLM has them
    messages.py     messages, tools and response format of a request
    schemas.py      what several bodies have in common: sampling, streaming, token counts
    logprobs.py     log-probabilities in a response

A field that is new in OpenAI's API goes into one class: SamplingBody in schemas.py where it says how to choose tokens,
PromptBody in messages.py where it shapes the prompt, otherwise the request class in the endpoint's file.
"""

from __future__ import annotations

from fastapi import FastAPI

from arriero.server.routes.openai import batches, chat, completions, embeddings, models, responses, tokenize
from arriero.server.service import Service


def add_routes(app: FastAPI, service: Service) -> None:
    """Add OpenAI's paths to `app`."""
    for endpoint in (chat, completions, responses, embeddings, batches, models, tokenize):
        endpoint.add_routes(app, service)
