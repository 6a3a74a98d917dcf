"""Engines over the tiny model, adapters, and what each answers on its own."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from arriero.engines.openvino import OpenVINOEngine
from arriero.engines.registry import EngineOptions
from tests.engines.openvino.support import (
    END,
    LONG,
    PROMPT,
    InProcess,
    ids,
    lora,
)


@pytest.fixture
def make():
    """Build engines that are closed at the end; in float32, so that answers can be compared exactly."""
    made = []

    def build(model_dir, stop=(END,), precision="float32", **options):
        made.append(OpenVINOEngine(model_dir, stop, EngineOptions(precision=precision, **options)))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def in_process(model_dir):
    """Make workers in this process, whose pipes are closed at the end."""
    made = []

    def build():
        made.append(InProcess(model_dir))
        return made[-1]

    yield build
    for one in made:
        one.pipe.close()


@pytest.fixture(scope="package")
def adapters(model_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: lora(model_dir, root / name, seed)[0] for seed, name in enumerate("ab")}


@pytest.fixture(scope="package")
def alone(model_dir, adapters):
    """What a fresh engine answers with no adapter and with each."""
    answers = {}
    for name in (None, *adapters):
        made = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
        handle = made.load_adapter(adapters[name]) if name else None
        answers[name] = [ids(made, prompt=prompt, adapter=handle) for prompt in (PROMPT, LONG)]
        made.close()
    assert len({str(answer) for answer in answers.values()}) == 3
    return answers


@pytest.fixture(scope="package")
def shared(model_dir):
    made = OpenVINOEngine(model_dir, (END,), EngineOptions(precision="float32"))
    yield made
    made.close()


@pytest.fixture(scope="package")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
