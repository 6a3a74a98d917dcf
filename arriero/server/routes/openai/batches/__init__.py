"""OpenAI's files and batches: https://platform.openai.com/docs/api-reference/batch.

schemas    files and batches on the wire        store    what is kept, in SQLite and beside it
runner     the batches that are in progress     routes   the paths
"""

from arriero.server.routes.openai.batches.routes import add_routes as add_routes
