"""The HTTP server: a Chat behind the tutorial's endpoint, OpenAI's, Anthropic's and Ollama's, on one port.

    uvicorn.run(create_app(arriero.load(adapter="runs/llama-driver")), port=6006)

A request passes middleware.py, a route validates its body, service.py admits it and starts its streams, streaming.py
sends what they bring.

    app.py             create_app(): the application, its routes, and what happens on paths that there are not
    middleware.py      what every request passes first: path, request id, key, origin, limits
    auth.py            API keys and who is who by them
    origins.py         which pages may send requests through a browser
    paths.py           paths as clients write them -> paths as routes have them
    service.py         what all routes share: models, admission, streams in flight, metrics
    models.py          names -> models and adapters, added and removed while serving
    loading.py         what `arriero serve` names -> Models
    admission.py       who is answered now, who waits, who is refused
    admitted_chat.py   a Chat for threads of this process, whose answers are admitted as all others
    streaming.py       the streams of one request, merged; server-sent events
    schemas.py         field types of request bodies, and their base
    lenient.py         bodies whose unknown fields are ignored by name, or refused
    errors.py          every failure -> status and body
    metrics.py         Prometheus metrics
    access_log.py      one record a request, as text or JSON
    lifecycle.py       listening, loading beside it, draining, signals
    in_process.py      requests to the application without a connection
    offline.py         batch(): a file of requests answered without a server
    routes/            what is served on which path
"""

from __future__ import annotations

from arriero.server.app import create_app

__all__ = ["create_app"]
