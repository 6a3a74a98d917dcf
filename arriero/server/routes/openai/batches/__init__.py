"""OpenAI's files and batches: https://platform.openai.com/docs/api-reference/batch.

routes.py    /v1/files and /v1/batches
schemas.py   files and batches as the API has them
store.py     what is kept, in SQLite and beside it
runner.py    the batches that are in progress
"""

from arriero.server.routes.openai.batches.routes import add_routes as add_routes
