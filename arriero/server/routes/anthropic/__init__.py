"""Anthropic's messages, as https://docs.anthropic.com/en/api/messages describes them.

messages.py   POST /v1/messages and /v1/messages/count_tokens
schemas.py    their bodies
"""

from arriero.server.routes.anthropic.messages import add_routes as add_routes
