"""The default engine with CUDA: vLLM, several adapters at once.

    engine.py     VLLMEngine: requests, cancelling, adapters
    requests.py   one request in vLLM's words
    room.py       GPUs, memory and room for adapters, from sizes and files
    start.py      the arguments vLLM is started with, and what its processes are kept from

Importing this sets how vLLM logs (errors, to standard error), reports its use (to nobody) and starts
processes; vLLM reads all that when it is imported itself, and its processes inherit it.
"""

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork of a process with threads may hang
