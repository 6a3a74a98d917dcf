"""What the tests of the vLLM engine share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arriero.messages import Sampling

GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
RANDOM = replace(GREEDY, temperature=1.0, top_p=0.95, top_k=50)
QUESTIONS = ["What is the capital of France?", "Name three animals.", "Write a haiku. 你是谁？"]
WHO = (None, "a", "b")
LENGTH = 24
OTHERS_WARNINGS = pytest.mark.filterwarnings("default", "error:::arriero")  # vLLM and torch use much that is deprecated


def submit(engine, prompt, sampling=GREEDY, count=LENGTH, **options):
    return engine.submit(prompt, sampling, max_new_tokens=count, **options)
