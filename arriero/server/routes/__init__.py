"""What is served on which path. Every endpoint's file adds it to the application with `add_routes(app, service)`.

health.py      /health, /ready, /metrics
tutorial.py    POST /
openai/        /v1/…, /tokenize, /detokenize
anthropic/     /v1/messages
ollama/        /api/…
arguments.py   the arguments of a call as an object, for the APIs that send no text
thinking.py    whether a model thinks before it answers, for the APIs that can say so
"""
