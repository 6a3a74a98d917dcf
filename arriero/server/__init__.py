"""The HTTP server: a Chat behind the tutorial's endpoint and OpenAI's, on one port.

uvicorn.run(create_app(arriero.load(adapter="runs/llama-driver")), port=6006)
"""

from __future__ import annotations

from arriero.server.app import create_app

__all__ = ["create_app"]
