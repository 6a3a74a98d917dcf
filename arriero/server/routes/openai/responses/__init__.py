"""OpenAI's responses: https://platform.openai.com/docs/api-reference/responses.

routes.py    /v1/responses and the paths of those that are stored
schemas.py   the request
items.py     messages, function calls and their results, as they come and are stored
builder.py   the response and the events of a stream
store.py     what is stored, in SQLite
"""

from arriero.server.routes.openai.responses.routes import add_routes as add_routes
