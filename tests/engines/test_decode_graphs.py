"""Decode steps by graph: the tokens of transformers' own generate, whatever joins and leaves; what is not captured, and why.

Graphs are those of tests/op_graph.py: on a CPU they replay the operators of a step in static memory. The scheduler is
driven step by step here, without the engine's thread.
"""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from arriero.engines.base import Generation
from arriero.engines.transformers import cache, graphs
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs, decode_graphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.errors import UsageError
from arriero.messages import Sampling
from tests.engines.test_transformers import END, GREEDY, PROMPT, adapters, expected, generated, random_model
from tests.engines.test_transformers import model as model  # noqa: PLC0414
from tests.op_graph import OpCapture

class Driven:
    """A scheduler over a model with graphs, driven by hand."""

    def __init__(self, model, capture=None):
        self.capture = capture or OpCapture()
        self.forward = Forward(model)
        self.graphs = DecodeGraphs(self.forward, self.capture)
        self.adapters = Adapters(model)
        self.scheduler = Scheduler(self.forward, self.adapters, None, [END], self.graphs)

    def add(self, ids, limit, adapter=None, sampling=GREEDY):
        request = Request(Generation(len(ids)), list(ids), sampling, limit, adapter=adapter)
        self.scheduler.add(request)
        return request

    def run(self):
        while self.scheduler.requests:
            self.scheduler.step()

def test_one(model):
    driven = Driven(model)
    r = driven.add(PROMPT, 30)
    driven.run()
    assert r.answer_ids == generated(model, PROMPT, 30)
    print(driven.capture.replays, driven.graphs.off, driven.graphs.graphs.keys())
    assert driven.capture.replays
