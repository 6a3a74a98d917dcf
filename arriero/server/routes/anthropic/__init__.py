"""Anthropic's messages, as https://docs.anthropic.com/en/api/messages describes them."""

from arriero.server.routes.anthropic.messages import add_routes as add_routes
