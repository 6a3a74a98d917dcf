"""OpenAI's responses: https://platform.openai.com/docs/api-reference/responses.

schemas    the request and what it asks for        items     turns, calls and results, as they come and are kept
answer     the response and the events of a stream store     what is kept, in SQLite
"""

from arriero.server.routes.openai.responses.routes import add_routes as add_routes
